"""Score models on labelled images of laboratories over a curve of confidence.

    python benchmarks/yardstick.py --data DATA MODEL... [--sets tnbc,...] [--adapt none] [--views 1]
    python benchmarks/yardstick.py --data DATA MODEL MODEL@openvino-int8 --precision fp32
    python benchmarks/yardstick.py --data DATA MODEL --scan-mpp 0.5

A model is a file or ``box:NAME``, and may be followed by ``@`` and a backend: ``torch``, or
``openvino-`` and a precision. The confidence of an object is its mean probability, and a model
holds a threshold on it, which ``train`` wrote. Scores at one threshold compare models that chose
theirs by different rules, so all objects are kept here first, and then scored at every threshold of
``CONFIDENCES``. Of two models and more, each is compared with the first, paired by image, at
``AT``. With ``--scan-mpp``, images are first averaged to coarser pixels, as of a scan at lower
magnification, and brought back as ``segment`` does. The headline is the mean over the sets, and the
worst set. Labels are read for scoring only.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from rows import RESULTS, Row, append_rows, commit

from histocli.base.device import prepare_process, resolve_device, resolve_precision
from histocli.base.types import FloatArray, InstanceLabels, RGBImage
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.inference.predict import Predictor
from histocli.instances.targets import Thresholds, maps_to_instances, mean_within
from histocli.metrics.counts import count
from histocli.model.adaptation import adapt_stain, adaptation_of
from histocli.model.normalisation import contrast_of, glass_to_white
from histocli.model.segmenter import build_segmenter
from histocli.optics.density import white_level
from histocli.slides.open import read_image
from histocli.slides.resampling import resample
from histocli.stages.segment.backend import Settings, choose
from histocli.stores.box import find_box_model
from histocli.stores.models import read_model

SETS = ("tnbc", "monuseg13", "pannuke", "dsb2018", "nuinsseg")
CONFIDENCES = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
AT = 0.8
"""The threshold at which models are compared: that which ``train`` writes at most."""
MEASURES = ("aji", "pq", "dice", "precision", "recall", "area")
MPP = 0.25  # micrometres per pixel: the images of the sets are 40x scans and record none

Scores = npt.NDArray[np.float64]
"""Shape (images, confidences, measures)."""


class Model:
    """A model that predicts whole images as ``histosynth segment`` does."""

    def __init__(
        self, path: Path, adapt: str, views: int, backend: str = "torch", precision: str = "auto"
    ) -> None:
        header, tensors = read_model(path)
        self.header = header
        self.adaptation = adaptation_of(header.normalisation) if adapt == "stain" else None
        device = resolve_device("auto")
        network = build_segmenter(header.architecture)
        network.load_state_dict(tensors)
        dtype = resolve_precision(precision, device)
        name, _, own = backend.partition("-")
        wanted = Settings(SegmentConfig(backend=name), Execution(precision=own or precision))
        chosen = choose(network.eval(), device, wanted, adaptation_of(header.normalisation))
        self.predictor = Predictor(
            network,
            mpp=header.mpp,
            device=device,
            dtype=dtype,
            views=views,
            compiled=chosen.network,
        )
        self.thresholds = replace(Thresholds(**header.thresholds), confidence=0.0)

    def found(self, image: RGBImage) -> tuple[InstanceLabels, FloatArray]:
        """Return all objects of an image, and the confidence of each at its number."""
        white = glass_to_white(image, white_level(image))
        seen = adapt_stain(white, contrast_of([white]), self.adaptation)
        height, width = seen.shape[:2]
        multiple = self.predictor.multiple_px
        margin = min(self.predictor.halo_px, height, width)
        pads = [(margin, margin + (-side - 2 * margin) % multiple) for side in (height, width)]
        padded = np.pad(seen, [*pads, (0, 0)], mode="symmetric")
        maps = self.predictor.maps(padded[None])[0]
        maps = np.ascontiguousarray(maps[margin : margin + height, margin : margin + width])
        labels = maps_to_instances(maps, self.header.mpp, self.thresholds)
        return labels, mean_within(labels, np.ascontiguousarray(maps[..., 0]))


def images_of(
    data: Path, name: str, most: int | None = None, scan_mpp: float = MPP
) -> Iterator[tuple[RGBImage, InstanceLabels]]:
    """Yield the images of a set with their true labels; at most so many, spread over the set."""
    folder = data / "dev" / name
    paths = sorted((folder / "images").glob("*.png"))
    for path in paths[:: max(1, len(paths) // most)][:most] if most else paths:
        truth = tifffile.imread(folder / "labels" / f"{path.stem}.tif")
        yield scanned(read_image(path).pixels, scan_mpp), np.asarray(truth, np.int32)


def scanned(image: RGBImage, mpp: float) -> RGBImage:
    """Return an image of the same size, as of a scan with pixels of ``mpp`` micrometres."""
    if mpp == MPP:
        return image
    height, width = image.shape[:2]
    down, right = (-side % 8 for side in (height, width))  # whole pixels at the coarser size
    padded = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
    return resample(resample(padded, MPP, mpp), mpp, MPP)[:height, :width]


def curve(truth: InstanceLabels, labels: InstanceLabels, confidence: FloatArray) -> Scores:
    """Return the scores of an image, shape (confidences, measures)."""
    rows = []
    for least in CONFIDENCES:
        kept = confidence >= least
        kept[0] = False
        found = np.where(kept[labels], labels, 0).astype(np.int32)
        counts = count(truth, found)
        right, wrong, missed = (
            counts.true_positives, counts.false_positives, counts.false_negatives,
        )  # fmt: skip
        area = (found > 0).sum() / max((truth > 0).sum(), 1)
        precision, recall = right / max(right + wrong, 1), right / max(right + missed, 1)
        rows.append((counts.aji, counts.panoptic_quality, counts.dice, precision, recall, area))
    return np.array(rows, np.float64)


def score(
    model: Model, data: Path, name: str, most: int | None = None, scan_mpp: float = MPP
) -> Scores:
    """Return the scores of the images of a set."""
    images = images_of(data, name, most, scan_mpp)
    return np.stack([curve(truth, *model.found(image)) for image, truth in images])


def interval(differences: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a mean over images, by bootstrap."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def print_scores(label: str, scores: dict[str, Scores]) -> None:
    """Print a model's scores: each set at ``AT``, and the mean over the sets on the whole curve."""
    at = CONFIDENCES.index(AT)
    print(f"\n{label}, confidence {AT}: {' / '.join(MEASURES)} (area: median of found over true)")
    for name, values in scores.items():
        means = [f"{value:.3f}" for value in values[:, at, :5].mean(axis=0)]
        print(f"  {name:10s} {' / '.join([*means, f'{np.median(values[:, at, 5]):.2f}'])}")
    means = np.array([values[..., :2].mean(axis=0) for values in scores.values()])
    for index, least in enumerate(CONFIDENCES):
        aji, pq = means[:, index].mean(axis=0)
        worst = means[:, index].min(axis=0)
        print(
            f"  mean at {least:4.2f}: {aji:.3f} / {pq:.3f}, worst {worst[0]:.3f} / {worst[1]:.3f}"
        )


def print_differences(label: str, scores: dict[str, Scores], first: dict[str, Scores]) -> None:
    """Print the differences from the first model, paired by image."""
    at = CONFIDENCES.index(AT)
    print(f"\n{label} minus the first model, AJI and PQ, paired by image, 95 % interval")
    for name, values in scores.items():
        difference = values[:, at, :2] - first[name][:, at, :2]
        parts = []
        for column in difference.T:
            low, high = interval(column)
            parts.append(f"{column.mean():+.3f} ({low:+.3f} to {high:+.3f})")
        print(f"  {name:10s} {'  '.join(parts)}")


def rows_of(label: str, scores: dict[str, Scores], about: Row) -> Iterator[Row]:
    """Yield a row for each set: means over images on the whole curve."""
    for name, values in scores.items():
        means = values.mean(axis=0).round(4).tolist()
        curves = dict(zip(map(str, CONFIDENCES), means, strict=True))
        yield about | {"model": label, "set": name, "images": len(values), "curve": curves}


def main(words: Sequence[str] | None = None) -> None:
    """Score the models and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="model files, or box:NAME")
    parser.add_argument("--data", type=Path, required=True, help="folder with dev/")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--adapt", default="stain")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--scan-mpp", type=float, default=MPP, help="pixels of the scans, in um")
    parser.add_argument("--precision", default="auto", help="of PyTorch")
    parser.add_argument("--images", type=int, help="largest number of images of a set")
    parser.add_argument("--results", type=Path, default=RESULTS / "yardstick.jsonl")
    options = parser.parse_args(words)
    prepare_process()
    about: Row = {"commit": commit(), "adapt": options.adapt, "views": options.views}
    about |= {"scan_mpp": options.scan_mpp}
    about |= {"measures": list(MEASURES), "torch": torch.__version__}
    first: dict[str, Scores] = {}
    for label in options.models:
        given, _, backend = label.partition("@")
        path = find_box_model(given[4:]).path if given.startswith("box:") else Path(given)
        model = Model(path, options.adapt, options.views, backend or "torch", options.precision)
        scores = {
            name: score(model, options.data, name, options.images, options.scan_mpp)
            for name in options.sets.split(",")
        }
        print_scores(label, scores)
        if first:
            print_differences(label, scores, first)
        first = first or scores
        append_rows(options.results, *rows_of(Path(label).name, scores, about))


if __name__ == "__main__":
    main()
