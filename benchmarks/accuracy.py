"""Accuracy on real, labelled images whose labels no training has seen: one row for each arm, test
set, seed and commit.

    python benchmarks/accuracy.py --data DATA [--arms baseline,adapted,foreign] [--sets tnbc,...]
    [--seeds 0]

Arms
----
baseline   Otsu's threshold and a watershed with fixed parameters in micrometres; nothing is learnt.
adapted    References: ``references/tcga`` and the images (not the labels) of all sets. One model
           serves all sets.
foreign    The same without the images of the scored set, with ``references/nuinsseg`` in their
           place; for NuInsSeg none of its images.

Each model is made by ``histosynth generate`` and ``histosynth train`` within ``--seconds``
together, or with ``--steps`` steps however long they take. It drops objects below a confidence that
``train`` chose for it on synthetic patches. Rows are appended to ``--results`` as JSON lines. A row
that is there already is not made again, and the rerun rule of the commands continues what was cut
short. Labels are read for scoring only.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from rows import RESULTS, ROOT, Row, append_rows, commit, read_rows

from histocli.base.system import available_cpus
from histocli.base.types import RGBImage
from histocli.instances.matching import matched_pairs
from histocli.instances.overlaps import LabelImage, overlaps
from histocli.metrics.contrast import nuclear_contrast
from histocli.metrics.counts import count
from histocli.metrics.summary import summarise
from histocli.slides.open import read_image

SETS = ("monuseg13", "tnbc", "dsb2018", "pannuke", "nuinsseg")
ARMS = ("baseline", "adapted", "foreign")
# Micrometres per pixel: the images of the sets are 40x scans and record no pixel size.
MPP = 0.25
# Seconds that starting the interpreter for ``train`` takes from the time of ``--seconds``.
START_S = 5


class Scored(NamedTuple):
    """An image of a test set, with what is true and what was found."""

    image: RGBImage
    truth: LabelImage
    prediction: LabelImage


def references(data: Path, arm: str, scored: str) -> list[Path]:
    """Return the folders of unlabelled images that an arm draws after."""
    folders = [data / "references" / "tcga"]
    folders += [
        data / "dev" / name / "images" for name in SETS if arm == "adapted" or name != scored
    ]
    if arm == "foreign" and scored != "nuinsseg":
        folders.append(data / "references" / "nuinsseg")
    return folders


def run(*words: object) -> Row:
    """Run a command of histosynth and return the last JSON object that it printed."""
    command = [sys.executable, "-m", "histocli", *map(str, words), "--json"]
    print("$ histosynth", *command[3:], flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    result: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def make_model(
    work: Path, folders: list[Path], options: argparse.Namespace, seed: int
) -> tuple[Path, Row]:
    """Make the model of an arm, and return its path and how it was made."""
    model, record = work / "model.safetensors", work / "model.json"
    if model.exists() and record.exists():
        return model, json.loads(record.read_text())
    if work.exists():
        # The times of both commands belong together, so a run that was cut short starts anew.
        shutil.rmtree(work)
    work.mkdir(parents=True)
    store = work / "synth.zarr"
    started = time.monotonic()
    sizes = ("--n", options.n, "--mpp", MPP, "--reference-mpp", MPP)
    drawn = run("generate", *folders, "-o", store, *sizes, "--seed", seed)
    if options.steps is None:
        left = options.seconds - (time.monotonic() - started) - START_S
        limit = ["--time-budget", f"{left:.0f}s"]
    else:
        limit = ["--steps", str(options.steps)]
    trained = run("train", store, "-o", model, "--seed", seed, "--size", options.size, *limit)
    about = {
        "generate_s": drawn["seconds"],
        "train_s": trained["seconds"],
        "total_s": round(time.monotonic() - started, 1),
        "patches": drawn["patches"],
        "references": drawn["references"],
        "steps": trained["steps"],
        "precision": trained["precision"],
        "held_out": trained["held_out"],
    }
    record.write_text(json.dumps(about))
    # The store takes half a gigabyte, and the command above makes it again.
    shutil.rmtree(store)
    return model, about


def predict(
    work: Path, data: Path, arm: str, name: str, model: Path | None
) -> dict[str, LabelImage]:
    """Segment the images of a set; return label images by the stem of the file's name."""
    folder = data / "dev" / name / "images"
    images = sorted(folder.glob("*.png"))
    if arm == "baseline":
        sys.path.append(str(ROOT / "examples"))
        from classical import classical_nuclei

        return {path.stem: classical_nuclei(read_image(path).pixels, MPP) for path in images}
    out = work / f"labels-{name}"
    words = ("--model", model, "-o", out, "--format", "tiff", "--mpp", MPP, "--overwrite")
    run("segment", folder, *words)
    return {path.stem: read_labels(out / f"{path.stem}.tif") for path in images}


def read_labels(path: Path) -> LabelImage:
    """Read a label TIFF."""
    return np.asarray(tifffile.imread(path), np.int32)


def score(data: Path, name: str, predictions: dict[str, LabelImage]) -> Row:
    """Score a set: means over images with intervals, and recall by contrast."""
    folder = data / "dev" / name
    scored = [
        Scored(
            read_image(folder / "images" / f"{stem}.png").pixels,
            read_labels(folder / "labels" / f"{stem}.tif"),
            prediction,
        )
        for stem, prediction in predictions.items()
    ]
    summary = summarise([count(each.truth, each.prediction) for each in scored])
    return {
        "mean": {key: round(value, 4) for key, value in summary.mean.items() if value == value},
        "ci95": {
            key: [round(edge, 4) for edge in edges] for key, edges in summary.ci95.items() if edges
        },
        "recall_by_contrast": [round(value, 3) for value in recall_by_contrast(scored)],
        "nuclei_per_image": [
            round(float(np.mean([len(np.unique(labels[labels > 0])) for labels in side])), 1)
            for side in ([each.truth for each in scored], [each.prediction for each in scored])
        ],
    }


def recall_by_contrast(scored: Iterable[Scored]) -> list[float]:
    """Return the recall in the lowest, middle and highest third of contrast of all true nuclei.

    A mean score hides that a method finds dark nuclei and misses pale ones.
    """
    contrasts: list[npt.NDArray[np.float64]] = []
    founds: list[npt.NDArray[np.bool_]] = []
    for each in scored:
        table = overlaps(each.truth, each.prediction)
        found = np.zeros(len(table.truth.ids), bool)
        found[table.rows[matched_pairs(table)]] = True
        contrasts.append(nuclear_contrast(each.image, each.truth))
        founds.append(found)
    found = np.concatenate(founds)
    order = np.argsort(np.concatenate(contrasts), kind="stable")
    return [float(found[third].mean()) if len(third) else 1.0 for third in np.array_split(order, 3)]


def key_of(arm: str, name: str, seed: int, state: str, options: argparse.Namespace) -> Row:
    """Return the fields by which a row is known."""
    key: Row = {"arm": arm, "set": name, "seed": seed, "commit": state}
    key |= {"seconds": options.seconds, "n": options.n, "size": options.size}
    if arm == "baseline":
        return key | {"seed": None, "seconds": None, "n": None, "size": None}
    return key if options.steps is None else key | {"seconds": None, "steps": options.steps}


def measure(arm: str, name: str, seed: int, state: str, options: argparse.Namespace) -> Row:
    """Make the model of an arm, unless it is there, and score it on one set."""
    limit = f"{options.seconds:.0f}" if options.steps is None else f"{options.steps}steps"
    made = f"{seed}-{state}-{limit}-{options.n}-{options.size}"
    work: Path = options.work / (f"adapted-{made}" if arm == "adapted" else f"{arm}-{name}-{made}")
    model, about = None, Row()
    if arm != "baseline":
        model, about = make_model(work, references(options.data, arm, name), options, seed)
    scores = score(options.data, name, predict(work, options.data, arm, name, model))
    return scores | {"model": about, "torch": torch.__version__, "cpus": available_cpus()}


def print_table(rows: Iterable[Row]) -> None:
    """Print AJI, PQ, Dice, F1 and the recall by contrast of rows."""
    print(f"\n{'arm':9s} {'set':10s} seed  AJI   PQ    Dice  F1    recall by contrast")
    for row in rows:
        mean = " ".join(f"{row['mean'][key]:.3f}" for key in ("aji", "pq", "dice", "f1"))
        recall = " / ".join(f"{value:.2f}" for value in row["recall_by_contrast"])
        print(f"{row['arm']:9s} {row['set']:10s} {row['seed']!s:4s} {mean} {recall}")


def main() -> None:
    """Fill in the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument(
        "--seconds", type=float, default=360, help="for generate and train together"
    )
    parser.add_argument("--steps", type=int, help="of train, in place of --seconds")
    parser.add_argument("--n", type=int, default=2000, help="patches")
    parser.add_argument("--size", default="S")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "accuracy")
    parser.add_argument("--results", type=Path, default=RESULTS / "accuracy.jsonl")
    options = parser.parse_args()
    state = commit()
    rows = read_rows(options.results)
    for seed in map(int, options.seeds.split(",")):
        for arm in options.arms.split(","):
            for name in options.sets.split(","):
                key = key_of(arm, name, seed, state, options)
                if not any(key.items() <= row.items() for row in rows):
                    rows.append(key | measure(arm, name, seed, state, options))
                    append_rows(options.results, rows[-1])
    print_table(row for row in rows if row["commit"] == state)


if __name__ == "__main__":
    main()
