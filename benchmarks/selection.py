"""Does the label-free score rank models as the truth does? Spearman's correlation over the
checkpoints of the ablation.

    python benchmarks/selection.py --data DATA --partners full-adapted-1,plain-adapted-1 [--every 3]

Candidates are all weights that ``benchmarks/ablation.py`` left in ``--work``. Each segments every
third image, as it is and with less contrast; its signs are its agreement with the partners (models
made from other patches) and its stability. The truth is the mean AJI and PQ of the same images.
Candidates whose name begins with a partner's are left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import SETS, dev_images, segment
from safetensors.torch import load_file
from scipy.stats import spearmanr

from histocli.base.memory import reuse_freed_memory
from histocli.base.types import InstanceLabels, RGBImage
from histocli.inference.predict import Predictor
from histocli.metrics.counts import count
from histocli.metrics.selection import agreement
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import architecture_of_size, build_segmenter
from histocli.optics.density import white_level

ROOT = Path(__file__).resolve().parent.parent
SIGNS = ("agreement", "stability", "count_stability", "product")


def load(path: Path) -> Predictor:
    """Load the weights of one run; its name ends in the size."""
    segmenter = build_segmenter(architecture_of_size(path.stem.rsplit("-", 1)[1]))
    segmenter.load_state_dict(load_file(path))
    return Predictor(segmenter, mpp=0.25, device=torch.device("cpu"), dtype=torch.bfloat16)


def count_stability(before: InstanceLabels, after: InstanceLabels) -> float:
    """Return the smaller over the larger number of nuclei with full and with less contrast."""
    fewer, more = sorted(len(np.unique(each[each > 0])) for each in (before, after))
    return fewer / more if more else 1.0


def reduce_contrast(image: RGBImage) -> RGBImage:
    """Multiply the absorbance of an image whose glass is white by three quarters."""
    table = np.rint(256 * ((np.arange(256) + 1) / 256) ** 0.75 - 1).clip(0, 255).astype(np.uint8)
    return np.asarray(table[image], np.uint8)


def main() -> None:
    """Score all candidates and print the correlations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--partners", default="full-adapted-1,plain-adapted-1")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "ablation")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "selection.json"
    )
    options = parser.parse_args()
    reuse_freed_memory()
    names = tuple(options.partners.split(","))
    paths = sorted((options.work / "models").glob("*.safetensors"))
    partners = [load(path) for path in paths if path.stem.startswith(names)]
    candidates = {path.stem: load(path) for path in paths if not path.stem.startswith(names)}
    if not partners or len(candidates) < 3:
        raise SystemExit(
            "run benchmarks/ablation.py for the partners and at least three candidates first"
        )
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in SETS:
        for image, truth in list(dev_images(options.data, name))[:: options.every]:
            thin = reduce_contrast(glass_to_white(image, white_level(image)))
            opinions = [segment(partner, image) for partner in partners]
            for candidate, predictor in candidates.items():
                labels = segment(predictor, image)
                faint = predictor.segment(thin)
                score = count(truth, labels)
                mine = values.setdefault(name, {}).setdefault(candidate, {})
                signs = {
                    "aji": score.aji,
                    "pq": score.panoptic_quality,
                    "agreement": agreement(labels, opinions),
                    "stability": count(labels, faint).panoptic_quality,
                    "count_stability": count_stability(labels, faint),
                }
                for key, value in signs.items():
                    mine.setdefault(key, []).append(value)
        print(name, "done", flush=True)
    report: dict[str, Any] = {
        "candidates": len(candidates),
        "partners": list(names),
        "every": options.every,
        "sets": {},
    }
    for name, of_set in values.items():
        means = {
            candidate: {key: float(np.mean(found)) for key, found in mine.items()}
            for candidate, mine in of_set.items()
        }
        for mine in means.values():
            mine["product"] = mine["agreement"] * mine["stability"]
        truth_of = {key: [mine[key] for mine in means.values()] for key in ("aji", "pq")}
        report["sets"][name] = {
            "spearman": {
                sign: {
                    key: round(
                        float(spearmanr([mine[sign] for mine in means.values()], truth).statistic),
                        3,
                    )
                    for key, truth in truth_of.items()
                }
                for sign in SIGNS
            },
            "models": {
                candidate: {key: round(value, 4) for key, value in mine.items()}
                for candidate, mine in sorted(means.items())
            },
        }
        print(f"{name:10s}", json.dumps(report["sets"][name]["spearman"]), flush=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
