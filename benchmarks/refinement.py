"""Does refinement make patches realistic and representative, and does a segmenter that learns from them see more?

    python benchmarks/refinement.py --data DATA [--arms initial,more,refined,unweighted,restyled] [--seeds 0] [--seconds 600]

Arms
----
initial     ``generate`` and ``train``.
more        The same, with the refiner's time spent on more patches and more training.
refined     ``generate``, ``refine`` (``--seconds``), ``train``: weighted patches.
unweighted  The same patches, all weights 1 (0 where the labels no longer fit).
restyled    ``refine --restyle``: each patch in the style of another reference.

Every stage's output is kept in ``--work`` and found again, so the command can be stopped and repeated; a row per arm, seed and
commit is appended to ``--results``. Realism is judged on patches: AUC of fresh classifiers, cross-validated by reference (0.5 is
ideal), kernel distance over stain and texture and over random convolutions, distance of the radial spectra; representation by
the distance of each patch to its own reference against the others. Labels of the sets are read for scoring only.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import MPP, SETS, commit, predict, references, run, score

from histocli.base.device import resolve_precision
from histocli.base.system import reuse_freed_memory
from histocli.model.normalisation import glass_to_white
from histocli.optics.density import white_level
from histocli.realism.distances import distance_to_references, kernel_distance, spectrum_distance
from histocli.realism.features import random_convolutions, stain_and_texture
from histocli.stores.patches import PatchStore
from histocli.stores.slides import read_image
from histocli.training.two_sample import TwoSampleSchedule, judge

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("initial", "more", "refined", "unweighted", "restyled")
SIDE = 128
MOST = 600
TRAIN_S = 240
REPORTED = ("steps", "agreement", "rejected", "auc", "effective_share")


def real_patches(store: PatchStore) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Cut patches that do not overlap from the references of a store; returns them and which file each shows."""
    files = sorted({record.path for record in store.references})
    patches, image_of = [], []
    for number, file in enumerate(files):
        pixels = read_image(Path(file)).pixels
        white = glass_to_white(pixels, white_level(pixels))
        for top in range(0, white.shape[0] - SIDE + 1, 2 * SIDE):
            for left in range(0, white.shape[1] - SIDE + 1, 2 * SIDE):
                patches.append(white[top : top + SIDE, left : left + SIDE])
                image_of.append(number)
    chosen = np.sort(np.random.default_rng(0).permutation(len(patches))[:MOST])
    return np.stack([patches[i] for i in chosen]), np.array(image_of)[chosen]


def realism(store: PatchStore) -> dict[str, Any]:
    """Judge the patches of a store against its references."""
    files = sorted({record.path for record in store.references})
    real, image_of = real_patches(store)
    chosen = np.sort(np.random.default_rng(1).permutation(len(store))[:MOST])
    style_of = np.array([files.index(store.references[store.reference[patch]].path) for patch in chosen])
    middle = slice((store.patch_px - SIDE) // 2, (store.patch_px + SIDE) // 2)
    patches = np.empty((len(chosen), SIDE, SIDE, 3), np.uint8)
    for index, patch in enumerate(chosen):
        level = store.references[store.reference[patch]].statistics["appearance"]["white_level"]
        patches[index] = glass_to_white(np.asarray(store.image[int(patch)])[middle, middle], float(level))
    cpu = torch.device("cpu")
    verdict = judge(real, patches, image_of, style_of, TwoSampleSchedule(), cpu, resolve_precision("auto", cpu))
    named = [stain_and_texture(side) for side in (real, patches)]
    distances = {"stain and texture": kernel_distance(*named)}
    distances["random convolutions"] = kernel_distance(random_convolutions(real), random_convolutions(patches))
    own, others = distance_to_references(named[0], image_of, named[1], style_of)
    known = np.isin(style_of, image_of)
    return {
        "auc": round(verdict.auc, 4),
        "auc_ci95": [round(edge, 4) for edge in verdict.interval()],
        "kernel_distance": {name: [round(value, 4) for value in values] for name, values in distances.items()},
        "spectrum_distance": round(spectrum_distance(real, patches), 4),
        "to_own_reference": round(float(own[known].mean()), 4),
        "to_other_references": round(float(others[known].mean()), 4),
    }


def make(arm: str, work: Path, data: Path, options: argparse.Namespace, seed: int) -> tuple[Path, Path, dict[str, Any]]:
    """Make the patches and the model of an arm; returns both and how long each took."""
    took: dict[str, Any] = {}
    folders = references(data, "adapted", None)

    def timed(name: str, *words: object) -> None:
        started = time.monotonic()
        result = run(*words)
        if result["status"] == "done":
            took[f"{name}_s"] = round(time.monotonic() - started, 1)
            took.update({key: result[key] for key in REPORTED if key in result})

    common = ["--mpp", MPP, "--seed", seed, "--reference-mpp", MPP, "--n", options.n]
    store = work / "initial.zarr"
    timed("generate", "generate", *folders, "-o", store, *common)
    if arm == "more":
        store = work / "more.zarr"
        timed("generate", "generate", *folders, "-o", store, *common[:-1], 2 * options.n)
    if arm in ("refined", "unweighted", "restyled"):
        store = work / f"{arm}.zarr"
        words = ["--time-budget", f"{options.seconds:.0f}s", "--seed", seed]
        if arm != "refined":
            words = ["--model", work / "refined.zarr", "--seed", seed, "--no-weights"]
        if arm == "restyled":
            words += ["--restyle"]
        timed("refine", "refine", work / "initial.zarr", "-o", store, *words)
    model = work / f"{arm}.safetensors"
    seconds = TRAIN_S + (options.seconds if arm == "more" else 0)
    timed("train", "train", store, "-o", model, "--seed", seed, "--time-budget", f"{seconds:.0f}s")
    return store, model, took


def main() -> None:
    """Fill in the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--seconds", type=float, default=600, help="for refine")
    parser.add_argument("--n", type=int, default=1500, help="patches")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "refinement")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "refinement.jsonl")
    options = parser.parse_args()
    reuse_freed_memory()
    state = commit()
    rows = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    for seed in map(int, options.seeds.split(",")):
        for arm in options.arms.split(","):
            key = {"arm": arm, "seed": seed, "commit": state, "n": options.n, "seconds": options.seconds}
            if any(all(row.get(field) == value for field, value in key.items()) for row in rows):
                continue
            work = options.work / f"{seed}-{state}-{options.n}-{options.seconds:.0f}"
            store, model, took = make(arm, work, options.data, options, seed)
            row = key | {"took": took, "patches": realism(PatchStore.open(store))}
            row["sets"] = {name: score(options.data, name, predict(work / arm, options.data, arm, name, model)) for name in SETS}
            with options.results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            rows.append(row)
    for row in rows:
        if row["commit"] == state:
            print(row["arm"], row["seed"], json.dumps(row["patches"]))
            for name, scores in row["sets"].items():
                print("   ", name, {key: scores["mean"][key] for key in ("aji", "pq", "dice")})


if __name__ == "__main__":
    main()
