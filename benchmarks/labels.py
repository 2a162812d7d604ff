"""With how many labelled images is a supervised network level with none? And what do some labels
add?

    python benchmarks/labels.py --data DATA [--arms supervised,none,both,tuned] [--labels
    1,2,4,8,15] [--steps 1500]

Arms
----
none         No labels: ``train`` on synthetic patches after the unlabelled references.
none+        The same, with self-training on the references.
supervised   k labelled images (``pack``), then self-training on the same unlabelled references (``train LABELLED --refs``).
alone        k labelled images and nothing else.
both         Synthetic and labelled patches, drawn equally often (``train SYNTHETIC LABELLED``).
tuned        From the model of ``none``, a fifth of the steps on synthetic and labelled patches (``--init``).

All have the same network, as many steps (``tuned`` a fifth more) and the same augmentation.
Labelled images are of three patients of ``dev/tnbc``, taken in turns; the scores are of the two
other patients (12 images), of ``dev/monuseg13``, ``dev/pannuke``, and ``dev/dsb2018``, from other
laboratories. References are ``references/tcga`` and the images, never labels, of all sets. These
networks are a measuring rod: no model that is shipped or chosen has seen a label. Rows are appended
to ``--results``; those that are there are not done again.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import MPP, commit, predict, references, run
from method import scores

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("none", "none+", "supervised", "alone", "both", "tuned")
PATIENTS = ("01", "02", "03")
SETS = ("tnbc", "monuseg13", "pannuke", "dsb2018")


def labelled(options: argparse.Namespace, k: int) -> Path:
    """Pack the first k labelled images, one patient after the other."""
    store: Path = options.work / f"labelled-{k}.zarr"
    if store.exists():
        return store
    images = options.data / "dev" / "tnbc" / "images"
    of = [sorted(images.glob(f"{patient}_*.png")) for patient in PATIENTS]
    turns = [part[i] for i in range(max(map(len, of))) for part in of if i < len(part)][:k]
    folder = options.work / f"labelled-{k}"
    for kind, suffix in (("images", ".png"), ("labels", ".tif")):
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir(parents=True)
        for path in turns:
            shutil.copy(images.parent / kind / f"{path.stem}{suffix}", folder / kind)
    run("pack", folder / "images", folder / "labels", "-o", store, "--mpp", MPP)
    return store


def train(options: argparse.Namespace, arm: str, k: int, state: str) -> Path:
    """Train the network of an arm; what exists is kept."""
    model: Path = options.work / f"{arm}-{k}-{options.steps}-{options.seed}-{state}.safetensors"
    if model.exists():
        return model
    folders = references(options.data, "adapted", None)
    refs = [word for folder in folders for word in ("--refs", str(folder))] + [
        "--reference-mpp",
        str(MPP),
    ]
    synthetic = options.work / f"synthetic-{options.n}-{options.seed}.zarr"
    if not synthetic.exists():
        common = ["--n", options.n, "--mpp", MPP, "--reference-mpp", MPP, "--seed", options.seed]
        run("generate", *folders, "-o", synthetic, *common)
    steps = options.steps
    words: list[object] = [] if k == 0 else [labelled(options, k)]
    if arm in ("none", "none+", "both", "tuned"):
        words.insert(0, synthetic)
    if arm in ("none+", "supervised"):
        words += refs
    if arm == "tuned":
        words += ["--init", train(options, "none", 0, state)]
        steps //= 5
    run("train", *words, "-o", model, "--steps", steps, "--seed", options.seed)
    return model


def main() -> None:
    """Fill in the rows that are missing, and print the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--arms", default="none,supervised,both,tuned,none+,alone")
    parser.add_argument("--labels", default="1,2,4,8,15")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--n", type=int, default=2000, help="synthetic patches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the curve only")
    parser.add_argument(
        "--commit",
        help="file rows under this commit, where what changed since does not concern them",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "labels")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "labels.jsonl"
    )
    options = parser.parse_args()
    rows: list[dict[str, Any]] = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    if not options.table:
        options.work.mkdir(parents=True, exist_ok=True)
        state = options.commit or commit()
        for arm in options.arms.split(","):
            for k in (
                [0] if arm.startswith("none") else [int(word) for word in options.labels.split(",")]
            ):
                key = {
                    "arm": arm,
                    "labels": k,
                    "seed": options.seed,
                    "steps": options.steps,
                    "commit": state,
                }
                missing = [
                    name
                    for name in SETS
                    if not any(row["set"] == name and key.items() <= row.items() for row in rows)
                ]
                if not missing:
                    continue
                model = train(options, arm, k, state)
                for name in missing:
                    found = predict(
                        options.work / f"found-{model.stem}", options.data, "labels", name, model
                    )
                    if name == "tnbc":
                        found = {
                            stem: labels
                            for stem, labels in found.items()
                            if not stem.startswith(PATIENTS)
                        }
                    rows.append(key | {"set": name, "images": scores(options, name, found)})
                    with options.results.open("a") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    print(
        "| arm | labelled images | TNBC, other patients | "
        + " | ".join(SETS[1:])
        + " |\n|---|---|---|---|---|---|"
    )
    by = {
        (row["arm"], row["labels"], row["set"]): row["images"]
        for row in rows
        if row["steps"] == options.steps
    }
    for arm, k in sorted(
        {(arm, k) for arm, k, _ in by}, key=lambda pair: (ARMS.index(pair[0]), pair[1])
    ):
        cells = []
        for name in SETS:
            each = np.array(list(by.get((arm, k, name), {"": [np.nan] * 3}).values()))
            aji, pq, dice = each.mean(axis=0)
            cells.append(f"{aji:.3f} / {pq:.3f} / {dice:.3f}")
        print(f"| {arm} | {k} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
