"""Say which looks of true nuclei a model misses.

    python benchmarks/phenotypes.py --data DATA MODEL... [--sets tnbc,...] [--images N]

A model is a file or ``box:NAME``. Each true nucleus is measured in its image, and belongs to all
phenotypes whose definition it meets; those that meet none are *plain*. Printed is the share that a
prediction matches (IoU above one half) at confidence ``AT``. Labels are read for scoring only.

- vesicular: the middle has less than 0.8 of the absorbance of its rim, each over the surroundings;
  at least 30 square micrometres
- spindle: at least 2.5 times as long as broad
- defocused: the absorbance of the border changes by less than a quarter of the nucleus's contrast
  within a micrometre
- pale: less than 0.6 of the median contrast of the nuclei of its image
- large: at least 100 square micrometres; small: less than 15
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rows import RESULTS, append_rows, commit
from scipy import ndimage
from yardstick import AT, MPP, SETS, Model, images_of

from histocli.base.device import prepare_process
from histocli.base.types import BoolMask, InstanceLabels, RGBImage
from histocli.instances.matching import matched_pairs
from histocli.instances.overlaps import overlaps
from histocli.optics.density import rgb_to_optical_density
from histocli.stores.box import find_box_model

PHENOTYPES = ("vesicular", "spindle", "defocused", "pale", "large", "small", "plain")
AROUND_PX = 12  # margin of the window in which a nucleus is measured
RIM_UM, RING_UM = 0.75, 2.0  # widths of the rim inside, and of the ring outside

Table = npt.NDArray[np.bool_]
"""Shape (nuclei, phenotypes)."""


def phenotypes(image: RGBImage, labels: InstanceLabels) -> tuple[npt.NDArray[np.int32], Table]:
    """Return the labels of the nuclei of an image, ascending, and the phenotypes of each."""
    density = rgb_to_optical_density(image)[..., 0]  # of red, which hematoxylin takes
    ids, rows = np.unique(labels[labels > 0]), []
    boxes = ndimage.find_objects(np.maximum(labels, 0))
    for number in ids:
        window = tuple(
            slice(max(side.start - AROUND_PX, 0), side.stop + AROUND_PX)
            for side in boxes[number - 1]
        )
        rows.append(_measured(density[window], labels[window] == number, labels[window] > 0))
    if not rows:
        return ids.astype(np.int32), np.zeros((0, len(PHENOTYPES)), bool)
    area, elongation, contrast, core, slope = np.array(rows).T
    usual = float(np.median(contrast))
    found = np.stack(
        [
            (core < 0.8) & (area >= 30),
            elongation >= 2.5,
            slope < 0.25,
            contrast < 0.6 * usual,
            area >= 100,
            area < 15,
        ],
        axis=1,
    )
    plain = ~found.any(axis=1, keepdims=True)
    return ids.astype(np.int32), np.concatenate([found, plain], axis=1)


def _measured(
    density: npt.NDArray[np.floating], inside: BoolMask, nuclei: BoolMask
) -> tuple[float, float, float, float, float]:
    """Return area, elongation, contrast, contrast of the core over that of the rim, and slope."""
    padded = np.pad(inside.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1] * MPP
    outside = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) * MPP
    ring = (outside > 0.5) & (outside <= RING_UM) & ~nuclei
    around = float(np.median(density[ring if ring.any() else ~inside])) if (~inside).any() else 0.0
    rim = inside & (depth <= RIM_UM)
    core = inside & (depth > max(RIM_UM, 0.5 * float(depth.max())))
    contrast = float(density[inside].mean()) - around
    rim_contrast = max(float(density[rim].mean()) - around, 0.02)
    core_contrast = float(density[core].mean()) - around if core.any() else rim_contrast
    near_in, near_out = inside & (depth <= 0.5), ~nuclei & (outside <= 0.5)
    step = float(density[near_in].mean() - density[near_out].mean()) if near_out.any() else contrast
    second = cv2.moments(inside.astype(np.uint8), binaryImage=True)
    xx, yy, xy = (second[key] / second["m00"] + 1 / 12 * (key != "mu11")
                  for key in ("mu20", "mu02", "mu11"))  # fmt: skip
    half, root = (xx + yy) / 2, float(np.hypot((xx - yy) / 2, xy))
    elongation = float(np.sqrt((half + root) / max(half - root, 1e-6)))
    area = float(inside.sum()) * MPP**2
    return area, elongation, contrast, core_contrast / rim_contrast, step / max(contrast, 0.02)


def hits(truth: InstanceLabels, found: InstanceLabels, ids: npt.NDArray[np.int32]) -> BoolMask:
    """Tell which true nuclei a prediction matches."""
    table = overlaps(truth, found)
    matched = table.truth.ids[table.rows[matched_pairs(table)]]
    return np.isin(ids, matched)


def main(words: Sequence[str] | None = None) -> None:
    """Print a table for each model, and append its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="model files, or box:NAME")
    parser.add_argument("--data", type=Path, required=True, help="folder with dev/")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--images", type=int, help="largest number of images of a set")
    parser.add_argument("--results", type=Path, default=RESULTS / "phenotypes.jsonl")
    options = parser.parse_args(words)
    prepare_process()
    print("share found (number of nuclei):", " ".join(PHENOTYPES))
    for label in options.models:
        path = find_box_model(label[4:]).path if label.startswith("box:") else Path(label)
        model = Model(path, "stain", 1)
        for name in options.sets.split(","):
            kinds, matched = [], []
            for image, truth in images_of(options.data, name, options.images):
                ids, table = phenotypes(image, truth)
                labels, confidence = model.found(image)
                kept = confidence >= AT
                kept[0] = False
                kinds.append(table)
                matched.append(hits(truth, np.where(kept[labels], labels, 0), ids))
            members, right = np.concatenate(kinds), np.concatenate(matched)
            number = members.sum(axis=0)
            share = (members & right[:, None]).sum(axis=0) / np.maximum(number, 1)
            parts = [f"{one:.2f} ({n})" for one, n in zip(share, number, strict=True)]
            print(f"{path.stem:10s} {name:10s} {' '.join(parts)}", flush=True)
            about = {"model": path.name, "set": name, "commit": commit(), "confidence": AT}
            row = {
                kind: {"n": int(n), "recall": round(float(one), 4)}
                for kind, n, one in zip(PHENOTYPES, number, share, strict=True)
            }
            append_rows(options.results, about | row)


if __name__ == "__main__":
    main()
