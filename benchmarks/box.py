"""Make the models that come with the package, and score them.

    python benchmarks/box.py --data DATA [--size S] [--n 3000] [--minutes 22] [--only-score]

They learn from images whose licences let weights be given away, and from none of their labels:
``references/tcga`` (TCGA open access), ``references/nuinsseg`` (CC BY 4.0, Mahbod et al. 2024) and
the images of ``dev/tnbc`` (CC BY 4.0, Naylor et al. 2019). The model, its entry in
``histocli/weights/models.json`` and a row per set in ``--results`` are written. Sets whose images
or laboratories are among the references are marked ``seen``.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from accuracy import MPP, SETS, commit, predict, run, score

from histocli.stores.box import LIST, WEIGHTS
from histocli.stores.models import read_model_header

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("references/tcga", "references/nuinsseg", "dev/tnbc/images")
SEEN = {
    "tnbc": "images",
    "nuinsseg": "laboratory, some images",
    "monuseg13": "archive (TCGA)",
    "pannuke": "archive (TCGA)",
}
DESCRIPTION = (
    "{size}: {n} synthetic patches after TCGA, NuInsSeg and TNBC images, no labels; {steps} steps"
)


def make(options: argparse.Namespace) -> Path:
    """Generate and train; returns the model."""
    work: Path = options.work
    folders = [options.data / name for name in FOLDERS]
    common = ["--mpp", MPP, "--reference-mpp", MPP, "--seed", options.seed]
    run("generate", *folders, "-o", work / "synth.zarr", "--n", options.n, *common)
    model = work / f"{options.size}.safetensors"
    # it will see other laboratories
    words = [
        "--size",
        options.size,
        "--time-budget",
        f"{options.minutes:g}m",
        "--seed",
        options.seed,
        "--contrast-quantile",
        0.5,
    ]
    run("train", work / "synth.zarr", "-o", model, *words)
    return model


def ship(model: Path, options: argparse.Namespace) -> None:
    """Put a model into the package, with its checksum."""
    header = read_model_header(model)
    if not header.shippable:
        raise SystemExit(f"{model}: must not be given away")
    target = WEIGHTS / model.name
    shutil.copy(model, target)
    file = WEIGHTS / LIST
    listed = (
        json.loads(file.read_text()) if file.exists() else {"default": options.size, "models": []}
    )
    entry = {
        "name": options.size,
        "file": target.name,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "description": DESCRIPTION.format(
            size=options.size, n=options.n, steps=header.training["steps"]
        ),
    }
    listed["models"] = sorted(
        [each for each in listed["models"] if each["name"] != options.size] + [entry],
        key=lambda e: e["name"],
    )
    file.write_text(json.dumps(listed, indent=2) + "\n")


def main() -> None:
    """Make, ship and score one size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--size", default="S")
    parser.add_argument("--n", type=int, default=3000, help="patches")
    parser.add_argument("--minutes", type=float, default=22, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "box")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "box.jsonl"
    )
    parser.add_argument("--only-score", action="store_true", help="score what is in the package")
    options = parser.parse_args()
    if not options.only_score:
        ship(make(options), options)
    model = WEIGHTS / f"{options.size}.safetensors"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    for name in SETS:
        found = score(
            options.data, name, predict(options.work / "scores", options.data, "box", name, model)
        )
        row = {
            "size": options.size,
            "sha256": digest,
            "commit": commit(),
            "set": name,
            "seen": SEEN.get(name),
            **found,
        }
        with options.results.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(
            name,
            {key: (found["mean"][key], found["ci95"][key]) for key in ("aji", "pq", "dice")},
            found["recall_by_contrast"],
        )


if __name__ == "__main__":
    main()
