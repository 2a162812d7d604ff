"""Does refinement make patches realistic and representative, and does a segmenter that learns from
them see more?

    python benchmarks/refinement.py --data DATA [--arms initial,more,refined,...] [--seeds 0]
    [--seconds 600]

Arms
----
initial     ``generate`` and ``train``.
more        The same with twice the patches, and the refiner's time spent on more training.
refined     ``generate``, ``refine --objective fooling`` (``--seconds``), ``train``: weighted patches.
unweighted  The same patches, all weights 1 (0 where the labels no longer fit).
restyled    ``refine --restyle``: each patch in the style of another reference.
patch       ``refine --edits patch``: the refiner may change everything, so that its trace gives no nucleus away.
matching    ``refine --objective matching``: features of the critic are matched, its verdict does not count.
resampled   ``generate --rounds 3``: the classifier re-samples parameters of the synthesis instead of weighing patches.

Every stage's output is kept in ``--work`` and found again, so the command can be stopped and
repeated; a row per arm, seed and commit is appended to ``--results``, and ``--report`` gets the
table. All arms but ``more`` train the same number of steps.

Realism is judged on patches: AUC of fresh classifiers, cross-validated by reference (0.5 is ideal),
kernel distance over stain and texture and over random convolutions, distance of the radial spectra;
representation by the distance of each patch to its own reference against the others. Labels of the
sets are read for scoring only.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from accuracy import MPP, SETS, commit, predict, references, run, score

from histocli.base.memory import reuse_freed_memory
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateConfig
from histocli.metrics.counts import count
from histocli.stages.evaluate.realism import judge_realism
from histocli.stores.patches import PatchStore

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("initial", "more", "refined", "unweighted", "restyled", "patch", "matching", "resampled")
MOST = 600
REPORTED = ("steps", "agreement", "rejected", "auc", "effective_share")


def realism(store: PatchStore) -> dict[str, Any]:
    """Judge the patches of a store against its references, as ``histosynth evaluate --realism
    STORE`` does.
    """
    found = judge_realism(
        str(store.path), [], EvaluateConfig(realism_patches=MOST), Execution()
    ).judgement
    assert found is not None

    def pair(key: str) -> list[float]:
        """Return value and half the width of the interval."""
        interval = found[key].ci95 or (0.0, 0.0)
        return [round(found[key].value, 4), round((interval[1] - interval[0]) / 2, 4)]

    return {
        "auc": round(found["auc"].value, 4),
        "auc_ci95": [round(edge, 4) for edge in found["auc"].ci95 or ()],
        "kernel_distance": {
            "stain and texture": pair("kid_named"),
            "random convolutions": pair("kid_random"),
        },
        "spectrum_distance": pair("spectrum")[0],
        "to_own_reference": pair("own_reference")[0],
        "to_other_references": pair("other_references")[0],
        "measures": {measure.key: measure.to_json() for measure in found.measures},
    }


REFINED: dict[str, list[str]] = {
    "refined": ["--objective", "fooling"],
    "patch": ["--objective", "fooling", "--edits", "patch", "--no-weights"],
    "matching": ["--objective", "matching", "--no-weights"],
}
"""Arms that train a refiner, and how."""


def make(
    arm: str, work: Path, data: Path, options: argparse.Namespace, seed: int
) -> tuple[Path, Path, dict[str, Any]]:
    """Make the patches and the model of an arm; returns both and how long each took."""
    took: dict[str, Any] = {}
    folders = references(data, "adapted", None)

    def timed(name: str, *words: object) -> None:
        started = time.monotonic()
        result = run(*words)
        if result["status"] == "done":
            took[f"{name}_s"] = round(time.monotonic() - started, 1)
            took.update({key: result[key] for key in REPORTED if key in result})

    common = ["--mpp", MPP, "--seed", seed, "--reference-mpp", MPP]
    store = work / "initial.zarr"
    timed("generate", "generate", *folders, "-o", store, *common, "--n", options.n)
    if arm == "more":
        store = work / "more.zarr"
        timed("generate", "generate", *folders, "-o", store, *common, "--n", 2 * options.n)
    if arm == "resampled":
        store = work / "resampled.zarr"
        timed(
            "generate", "generate", *folders, "-o", store, *common, "--n", options.n, "--rounds", 3
        )
    if arm in REFINED:
        store = work / f"{arm}.zarr"
        words: list[object] = ["--time-budget", f"{options.seconds:.0f}s", *REFINED[arm]]
        timed("refine", "refine", work / "initial.zarr", "-o", store, "--seed", seed, *words)
    if arm in ("unweighted", "restyled"):
        store = work / f"{arm}.zarr"
        words = [
            "--model",
            work / "refined.zarr",
            "--no-weights",
            *(["--restyle"] if arm == "restyled" else []),
        ]
        timed("refine", "refine", work / "initial.zarr", "-o", store, "--seed", seed, *words)
    model = work / f"{arm}.safetensors"
    steps = (
        options.steps if arm != "more" else round(options.steps + options.seconds * options.rate)
    )
    timed("train", "train", store, "-o", model, "--seed", seed, "--steps", steps)
    return store, model, took


def score_images(
    data: Path, name: str, predictions: dict[str, np.ndarray[Any, Any]]
) -> list[list[float]]:
    """Return AJI and PQ of each image."""
    found = []
    for stem, prediction in sorted(predictions.items()):
        counts = count(
            tifffile.imread(data / "dev" / name / "labels" / f"{stem}.tif").astype(np.int32),
            prediction,
        )
        found.append([round(counts.aji, 4), round(counts.panoptic_quality, 4)])
    return found


def against(rows: list[dict[str, Any]], initial: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Bootstrap the mean over sets of the paired difference of AJI and PQ; shape (3, 2): mean, low,
    high.
    """
    rng = np.random.default_rng(0)
    seeds = sorted({row["seed"] for row in rows} & {row["seed"] for row in initial})
    of_seed = [{row["seed"]: row for row in side} for side in (rows, initial)]
    parts = [
        np.mean(
            [
                np.subtract(
                    of_seed[0][seed]["per_image"][name], of_seed[1][seed]["per_image"][name]
                )
                for seed in seeds
            ],
            axis=0,
        )
        for name in SETS
    ]
    draws = [
        np.mean(
            [part[rng.integers(len(part), size=len(part))].mean(axis=0) for part in parts], axis=0
        )
        for _ in range(1000)
    ]
    mean = np.mean([part.mean(axis=0) for part in parts], axis=0)
    return np.stack([mean, *np.percentile(draws, [2.5, 97.5], axis=0)])


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows of one commit as a table in Markdown, each arm against the initial
    patches.
    """
    lines = [
        "| arm | seeds | AJI | PQ | difference of AJI | of PQ | recall, palest third | AUC real / synthetic "
        "| kernel distance: stain, texture | random convolutions | spectrum | to own reference | to others |",
        "|" + "---|" * 13,
    ]
    initial = [row for row in rows if row["arm"] == "initial"]
    for arm in [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]:
        mine = [row for row in rows if row["arm"] == arm]
        aji, pq = (
            np.mean([[row["sets"][name]["mean"][key] for name in SETS] for row in mine])
            for key in ("aji", "pq")
        )
        third = np.mean(
            [[row["sets"][name]["recall_by_contrast"][0] for name in SETS] for row in mine]
        )
        gaps = ["", ""]
        if initial and arm != "initial":
            mean, low, high = against(mine, initial)
            gaps = [f"{mean[k]:+.3f} ({low[k]:+.3f} to {high[k]:+.3f})" for k in (0, 1)]
        patches = mine[0]["patches"]
        low, high = patches["auc_ci95"]
        kernels = [
            patches["kernel_distance"][name]
            for name in ("stain and texture", "random convolutions")
        ]
        seeds = ",".join(str(row["seed"]) for row in mine)
        lines.append(
            f"| {arm} | {seeds} | {aji:.3f} | {pq:.3f} | {gaps[0]} | {gaps[1]} | {third:.2f} "
            f"| {patches['auc']:.3f} ({low:.3f} to {high:.3f}) | "
            + " | ".join(f"{value[0]:.4f}" for value in kernels)
            + " "
            f"| {patches['spectrum_distance']:.3f} | {patches['to_own_reference']:.3f} | {patches['to_other_references']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Fill in the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--seconds", type=float, default=600, help="for refine")
    parser.add_argument("--steps", type=int, default=1500, help="of train")
    parser.add_argument(
        "--rate", type=float, default=5.0, help="steps of train a second, for the arm ``more``"
    )
    parser.add_argument("--n", type=int, default=1500, help="patches")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "refinement")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "refinement.jsonl"
    )
    parser.add_argument(
        "--report", type=Path, default=ROOT / "benchmarks" / "results" / "refinement.md"
    )
    options = parser.parse_args()
    reuse_freed_memory()
    common = {
        "commit": commit(),
        "n": options.n,
        "seconds": options.seconds,
        "train_steps": options.steps,
    }

    def known() -> list[dict[str, Any]]:
        rows = (
            [json.loads(line) for line in options.results.read_text().splitlines()]
            if options.results.exists()
            else []
        )
        return [
            row for row in rows if all(row.get(field) == value for field, value in common.items())
        ]

    for seed in map(int, options.seeds.split(",")):
        for arm in options.arms.split(","):
            if any((row["arm"], row["seed"]) == (arm, seed) for row in known()):
                continue
            work = (
                options.work
                / f"{seed}-{common['commit']}-{options.n}-{options.seconds:.0f}-{options.steps}"
            )
            store, model, took = make(arm, work, options.data, options, seed)
            row: dict[str, Any] = (
                {"arm": arm, "seed": seed}
                | common
                | {"took": took, "patches": realism(PatchStore.open(store))}
            )
            found = {name: predict(work / arm, options.data, arm, name, model) for name in SETS}
            row["sets"] = {
                name: score(options.data, name, predictions) for name, predictions in found.items()
            }
            row["per_image"] = {
                name: score_images(options.data, name, predictions)
                for name, predictions in found.items()
            }
            with options.results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
    print(report(known()))
    options.report.write_text(
        "# Refinement\n\n``python benchmarks/refinement.py --data DATA``: "
        + ", ".join(f"{name} {value}" for name, value in common.items())
        + ". Mean over the five sets; differences against the initial patches, paired by image, with 95 % intervals.\n\n"
        + report(known())
        + "\n"
    )


if __name__ == "__main__":
    main()
