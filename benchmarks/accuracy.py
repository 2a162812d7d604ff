"""Accuracy on real, labelled images that no training has seen the labels of: one row per arm, test
set, seed and commit.

    python benchmarks/accuracy.py --data DATA [--arms baseline,adapted,foreign] [--sets tnbc,...]
    [--seeds 0]

Arms
----
baseline   Otsu and a distance watershed with fixed parameters in micrometres; nothing is learnt.
adapted    References: ``references/tcga`` and the images (not the labels) of all sets. One model for all sets.
foreign    The same without the scored set's images, ``references/nuinsseg`` in their place; for NuInsSeg none of its images.

Each model is made by ``histosynth generate`` and ``histosynth train`` within ``--seconds``
together, on this machine, or with ``--steps`` steps however long they take. Rows are appended to
``--results`` as JSON lines; what has a row for the same arm, set, seed, commit and seconds is not
done again, and the commands' own rerun rule continues what was cut short. Labels are read for
scoring only.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from contrast import contrast_and_found, recall_by_contrast

from histocli.base.system import available_cpus
from histocli.metrics.counts import count
from histocli.metrics.summary import summarise
from histocli.slides.open import read_image

SETS = ("monuseg13", "tnbc", "dsb2018", "pannuke", "nuinsseg")
ARMS = ("baseline", "adapted", "foreign")
MPP = 0.25  # the sets are 40x scans and record nothing
ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Name the state of the code; ``+`` marks changes that are not committed."""
    name = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "histocli"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")


def references(data: Path, arm: str, scored: str | None) -> list[Path]:
    """Return the folders of unlabelled images of an arm."""
    folders = [data / "references" / "tcga"]
    folders += [
        data / "dev" / name / "images" for name in SETS if arm == "adapted" or name != scored
    ]
    if arm == "foreign" and scored != "nuinsseg":
        folders.append(data / "references" / "nuinsseg")
    return folders


def run(*words: object) -> dict[str, Any]:
    """Run a command of histosynth and return its (last) JSON object."""
    command = [sys.executable, "-m", "histocli", *map(str, words), "--json"]
    print("$ histosynth", *command[3:], flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def make_model(
    work: Path, folders: list[Path], options: argparse.Namespace, seed: int
) -> tuple[Path, dict[str, Any]]:
    """Generate and train within the time that both have together."""
    model, record = work / "model.safetensors", work / "model.json"
    if model.exists() and record.exists():
        return model, json.loads(record.read_text())
    if work.exists():
        shutil.rmtree(work)  # the two times belong together, so a cut run starts anew
    work.mkdir(parents=True)
    started = time.monotonic()
    drawn = run(
        "generate",
        *folders,
        "-o",
        work / "synth.zarr",
        "--n",
        options.n,
        "--mpp",
        MPP,
        "--seed",
        seed,
        "--reference-mpp",
        MPP,
    )
    if options.steps is None:
        # five seconds for starting the interpreter
        left = options.seconds - (time.monotonic() - started) - 5
        limit = ["--time-budget", f"{left:.0f}s"]
    else:
        limit = ["--steps", str(options.steps)]
    trained = run(
        "train", work / "synth.zarr", "-o", model, "--seed", seed, "--size", options.size, *limit
    )
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
    shutil.rmtree(work / "synth.zarr")  # half a gigabyte; the command above makes it again
    return model, about


def predict(
    work: Path, data: Path, arm: str, name: str, model: Path | None
) -> dict[str, np.ndarray[Any, Any]]:
    """Segment the images of a set; label images by stem."""
    images = sorted((data / "dev" / name / "images").glob("*.png"))
    if arm == "baseline":
        sys.path.append(str(ROOT / "examples"))
        from classical import classical_nuclei

        return {path.stem: classical_nuclei(read_image(path).pixels, MPP) for path in images}
    out = work / f"labels-{name}"
    run(
        "segment",
        data / "dev" / name / "images",
        "--model",
        model,
        "-o",
        out,
        "--format",
        "tiff",
        "--mpp",
        MPP,
        "--overwrite",
    )
    return {
        path.stem: tifffile.imread(out / f"{path.stem}.tif").astype(np.int32) for path in images
    }


def score(data: Path, name: str, predictions: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Score a set: mean over images with interval, and recall by contrast."""
    triples = []
    for stem, prediction in predictions.items():
        truth = tifffile.imread(data / "dev" / name / "labels" / f"{stem}.tif").astype(np.int32)
        triples.append(
            (read_image(data / "dev" / name / "images" / f"{stem}.png").pixels, truth, prediction)
        )
    summary = summarise([count(truth, prediction) for _, truth, prediction in triples])
    recall = recall_by_contrast(contrast_and_found(*triple) for triple in triples)
    return {
        "mean": {key: round(value, 4) for key, value in summary.mean.items() if value == value},
        "ci95": {
            key: [round(edge, 4) for edge in edges] for key, edges in summary.ci95.items() if edges
        },
        "recall_by_contrast": [round(value, 3) for value in recall],
        "nuclei_per_image": [
            round(float(np.mean([len(np.unique(labels[labels > 0])) for labels in side])), 1)
            for side in (
                [truth for _, truth, _ in triples],
                [prediction for *_, prediction in triples],
            )
        ],
    }


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
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "accuracy.jsonl"
    )
    options = parser.parse_args()
    state = commit()
    rows = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    limit = f"{options.seconds:.0f}" if options.steps is None else f"{options.steps}steps"
    for seed in map(int, options.seeds.split(",")):
        for arm in options.arms.split(","):
            for name in options.sets.split(","):
                timed = arm != "baseline" and options.steps is None
                key = {
                    "arm": arm,
                    "set": name,
                    "seed": seed,
                    "commit": state,
                    "seconds": options.seconds if timed else None,
                    "n": options.n,
                    "size": options.size,
                }
                if arm == "baseline":
                    key |= {"seed": None, "n": None, "size": None}
                elif options.steps is not None:
                    key["steps"] = options.steps
                if any(
                    all(row.get(field) == value for field, value in key.items()) for row in rows
                ):
                    continue
                made = f"{seed}-{state}-{limit}-{options.n}-{options.size}"
                work = options.work / (
                    f"adapted-{made}" if arm == "adapted" else f"{arm}-{name}-{made}"
                )
                model, about = None, {}
                if arm != "baseline":
                    model, about = make_model(
                        work, references(options.data, arm, name), options, seed
                    )
                scores = score(options.data, name, predict(work, options.data, arm, name, model))
                row = (
                    key
                    | scores
                    | {"model": about, "torch": torch.__version__, "cpus": available_cpus()}
                )
                options.results.parent.mkdir(parents=True, exist_ok=True)
                with options.results.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
                rows.append(row)
    print(f"\n{'arm':9s} {'set':10s} seed  AJI   PQ    Dice  F1    recall by contrast")
    for row in rows:
        if row["commit"] == state:
            mean, recall = (
                row["mean"],
                " / ".join(f"{value:.2f}" for value in row["recall_by_contrast"]),
            )
            print(
                f"{row['arm']:9s} {row['set']:10s} {row['seed']!s:4s} {mean['aji']:.3f} {mean['pq']:.3f} {mean['dice']:.3f} "
                f"{mean['f1']:.3f} {recall}"
            )


if __name__ == "__main__":
    main()
