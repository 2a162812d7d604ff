"""Make the models that come with the package, and score them.

    python benchmarks/box.py --data DATA [--size S] [--n 3000] [--minutes 22] [--only-score]

The models learn from images whose licences let weights be given away, and from none of their
labels: ``references/tcga`` (TCGA open access), ``references/nuinsseg`` (CC BY 4.0, Mahbod et al.
2024) and the images of ``dev/tnbc`` (CC BY 4.0, Naylor et al. 2019). The script writes the model,
its entry in ``histocli/weights/models.json``, and a row for each set to ``--results``. Sets whose
images or laboratories are among the references are marked ``seen``.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from accuracy import MPP, SETS, predict, run, score
from rows import RESULTS, ROOT, Row, append_rows, commit

from histocli.stores.box import LIST, WEIGHTS
from histocli.stores.models import read_model_header

FOLDERS = ("references/tcga", "references/nuinsseg", "dev/tnbc/images")
SEEN = {
    "tnbc": "images",
    "nuinsseg": "laboratory, some images",
    "monuseg13": "archive (TCGA)",
    "pannuke": "archive (TCGA)",
}
# Quantile of the contrast of the references up to which ``segment`` brings flatter images: these
# models will see other laboratories, so it is higher than the default of ``train``.
CONTRAST_QUANTILE = 0.5


def make(options: argparse.Namespace) -> Path:
    """Generate and train; return the model."""
    folders = [options.data / name for name in FOLDERS]
    store, model = options.work / "synth.zarr", options.work / f"{options.size}.safetensors"
    seed = ("--seed", options.seed)
    sizes = ("--n", options.n, "--mpp", MPP, "--reference-mpp", MPP)
    run("generate", *folders, "-o", store, *sizes, *seed)
    limits = ("--time-budget", f"{options.minutes:g}m", "--contrast-quantile", CONTRAST_QUANTILE)
    run("train", store, "-o", model, "--size", options.size, *limits, *seed)
    return model


def ship(model: Path, options: argparse.Namespace) -> None:
    """Put a model into the package, with its checksum."""
    header = read_model_header(model)
    if not header.shippable:
        raise SystemExit(f"{model}: must not be given away")
    target = WEIGHTS / model.name
    shutil.copy(model, target)
    entry = {
        "name": options.size,
        "file": target.name,
        "sha256": sha256(target),
        "description": f"{options.size}: {options.n} synthetic patches after TCGA, NuInsSeg and "
        f"TNBC images, no labels; {header.training['steps']} steps",
    }
    file = WEIGHTS / LIST
    listed = (
        json.loads(file.read_text()) if file.exists() else {"default": options.size, "models": []}
    )
    others = [each for each in listed["models"] if each["name"] != options.size]
    listed["models"] = sorted([*others, entry], key=lambda each: str(each["name"]))
    file.write_text(json.dumps(listed, indent=2) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    parser.add_argument("--results", type=Path, default=RESULTS / "box.jsonl")
    parser.add_argument("--only-score", action="store_true", help="score what is in the package")
    options = parser.parse_args()
    if not options.only_score:
        ship(make(options), options)
    model = WEIGHTS / f"{options.size}.safetensors"
    about: Row = {"size": options.size, "sha256": sha256(model), "commit": commit()}
    for name in SETS:
        found = predict(options.work / "scores", options.data, "box", name, model)
        scores = score(options.data, name, found)
        append_rows(options.results, about | {"set": name, "seen": SEEN.get(name)} | scores)
        means = {
            key: (scores["mean"][key], scores["ci95"].get(key)) for key in ("aji", "pq", "dice")
        }
        print(name, means, scores["recall_by_contrast"])


if __name__ == "__main__":
    main()
