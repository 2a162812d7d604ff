"""What each part of the method gives: the same patches and as many steps, one part more or other in
each arm.

    python benchmarks/method.py --data DATA [--arms initial,hard,...] [--seeds 0,1,2] [--steps 2400]
    [--n 2000]

Arms
----
initial         ``generate`` and ``train``: synthetic patches only.
hard            with hard examples made on the fly (``train --hard appearance``)
fresh           with new patches drawn while training goes on (``train --fresh``)
contact         the network also predicts where nuclei meet (``train --targets contact``)
self-training   60 % of the steps on patches, then two rounds on the unlabelled references (``train --refs``)
priors          patches drawn after the nuclei that the model of ``initial`` finds in the references (``generate --priors``)
refined         the patches repainted by ``refine`` (--refine-steps), with its weights
refined-hard    the same, the refiner learning on against the segmenter (``train --hard refiner``)

References are ``references/tcga`` and the images (never the labels) of all five sets; one model
serves all sets. Rows (arm, set, seed, steps, commit) with the scores of every image are appended to
``--results``; those that are there are not done again, and stores and models are kept in
``--work``. ``--table`` prints differences to ``initial``, paired by image, with 95 % bootstrap
intervals over images and seeds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from accuracy import MPP, SETS, commit, predict, references, run

from histocli.metrics.counts import count

ROOT = Path(__file__).resolve().parent.parent
TRAINING: dict[str, list[str]] = {
    "initial": [],
    "hard": ["--hard", "appearance"],
    "fresh": ["--fresh"],
    "contact": ["--targets", "contact"],
    "self-training": [],
    "priors": [],
    "refined": [],
    "refined-hard": ["--hard", "refiner"],
}


def generate(options: argparse.Namespace, seed: int, name: str, *more: object) -> Path:
    """Draw the patches of a seed; what exists is kept."""
    store: Path = options.work / f"{name}-{options.n}-{seed}.zarr"
    if not store.exists():
        common = ["--n", options.n, "--mpp", MPP, "--reference-mpp", MPP, "--seed", seed]
        run("generate", *references(options.data, "adapted", None), "-o", store, *common, *more)
    return store


def train(options: argparse.Namespace, arm: str, seed: int, state: str) -> Path:
    """Train the model of an arm; what exists is kept."""
    model: Path = options.work / f"{arm}-{options.steps}-{seed}-{state}.safetensors"
    if model.exists():
        return model
    store = generate(options, seed, "initial")
    if arm == "priors":
        store = generate(
            options, seed, "priors", "--priors", train(options, "initial", seed, state)
        )
    if arm.startswith("refined"):
        refined = options.work / f"refined-{options.n}-{seed}.zarr"
        if not refined.exists():
            run("refine", store, "-o", refined, "--steps", options.refine_steps, "--seed", seed)
        store = refined
    words = list(TRAINING[arm])
    if arm == "self-training":
        words = [
            word
            for folder in references(options.data, "adapted", None)
            for word in ("--refs", str(folder))
        ]
        words += ["--reference-mpp", str(MPP)]
    run("train", store, "-o", model, "--steps", options.steps, "--seed", seed, *words)
    return model


def scores(
    options: argparse.Namespace, name: str, found: dict[str, np.ndarray[Any, Any]]
) -> dict[str, list[float]]:
    """Return AJI, PQ and Dice of every image of a set."""
    each = {}
    for stem, labels in found.items():
        counts = count(
            tifffile.imread(options.data / "dev" / name / "labels" / f"{stem}.tif").astype(
                np.int32
            ),
            labels,
        )
        each[stem] = [
            round(float(value), 4) for value in (counts.aji, counts.panoptic_quality, counts.dice)
        ]
    return each


def table(rows: list[dict[str, Any]], base: str = "initial") -> str:
    """Return the means of every arm, and its differences to the first, as a Markdown table."""
    rng = np.random.default_rng(0)
    lines = [
        "| arm | seeds | "
        + " | ".join(SETS)
        + " | mean AJI / PQ / Dice | difference of AJI | of PQ | of Dice |",
        "|---" * (len(SETS) + 6) + "|",
    ]
    by = {(row["arm"], row["seed"], row["set"]): row["images"] for row in rows}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        seeds = sorted({seed for other, seed, _ in by if other == arm})
        seeds = [seed for seed in seeds if all((arm, seed, name) in by for name in SETS)]
        if not seeds:
            continue
        means = np.array(
            [
                [np.mean(list(by[arm, seed, name].values()), axis=0) for name in SETS]
                for seed in seeds
            ]
        )
        line = f"| {arm} | {len(seeds)} | " + " | ".join(
            f"{a:.3f} / {p:.3f}" for a, p, _ in means.mean(axis=0)
        )
        line += " | " + " / ".join(f"{value:.3f}" for value in means.mean(axis=(0, 1)))
        paired = [seed for seed in seeds if all((base, seed, name) in by for name in SETS)]
        if arm == base or not paired:
            lines.append(line + " | | | |")
            continue
        gaps = [
            [
                np.array(
                    [
                        np.subtract(by[arm, seed, name][k], v)
                        for k, v in by[base, seed, name].items()
                    ]
                )
                for name in SETS
            ]
            for seed in paired
        ]
        drawn = []
        for _ in range(2000):  # sets count alike; images are drawn within each, and seeds
            chosen = rng.integers(len(gaps), size=len(gaps))
            drawn.append(
                np.mean(
                    [
                        [
                            part[rng.integers(len(part), size=len(part))].mean(axis=0)
                            for part in gaps[i]
                        ]
                        for i in chosen
                    ],
                    axis=(0, 1),
                )
            )
        middle = np.mean([[part.mean(axis=0) for part in each] for each in gaps], axis=(0, 1))
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        lines.append(
            line
            + "".join(
                f" | {m:+.3f} ({a:+.3f} to {b:+.3f})"
                for m, a, b in zip(middle, low, high, strict=True)
            )
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Fill in the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--arms", default=",".join(TRAINING))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--refine-steps", type=int, default=600)
    parser.add_argument("--n", type=int, default=2000, help="patches")
    parser.add_argument(
        "--commit",
        help="file rows under this commit, where what changed since does not concern them",
    )
    parser.add_argument(
        "--table", action="store_true", help="print the table only; with --commit, of its rows"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "method")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "method.jsonl"
    )
    options = parser.parse_args()
    rows = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    if options.table:
        print(
            table(
                [
                    row
                    for row in rows
                    if row["steps"] == options.steps and options.commit in (None, row["commit"])
                ]
            )
        )
        return
    options.work.mkdir(parents=True, exist_ok=True)
    state = options.commit or commit()
    for seed in map(int, options.seeds.split(",")):
        for arm in options.arms.split(","):
            key = {"arm": arm, "seed": seed, "steps": options.steps, "commit": state}
            missing = [
                name
                for name in SETS
                if not any(row["set"] == name and key.items() <= row.items() for row in rows)
            ]
            if not missing:
                continue
            model = train(options, arm, seed, state)
            for name in missing:
                found = predict(
                    options.work / f"found-{model.stem}", options.data, "adapted", name, model
                )
                row = key | {"set": name, "images": scores(options, name, found)}
                rows.append(row)
                with options.results.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
