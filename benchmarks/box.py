"""Make the models that come with the package, and score them.

    python benchmarks/box.py --data DATA [--n 3000] [--sizes T,S] [--only-score]

The models learn from images whose licences let weights be given away, and from none of their
labels: ``references/tcga`` (TCGA open access), ``references/nuinsseg`` (CC BY 4.0, Mahbod et al.
2024) and the images of ``dev/tnbc`` (CC BY 4.0, Naylor et al. 2019) and of ``dev/dsb2018`` (CC0,
Caicedo et al. 2019). T comes first, and teaches S: its soft maps of the same images are learnt
beside the synthetic patches. The script writes the models, their entries in
``histocli/weights/models.json``, and a row for each model and set to ``--results``, at the
confidence that the model's header has. Sets whose images or laboratories are among the references
are marked ``seen``.
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

FOLDERS = ("references/tcga", "references/nuinsseg", "dev/tnbc/images", "dev/dsb2018/images")
SEEN = {
    "tnbc": "images",
    "dsb2018": "images",
    "nuinsseg": "laboratory, some images",
    "monuseg13": "archive (TCGA)",
    "pannuke": "archive (TCGA)",
}
# Steps of 16 crops: 16 minutes for T and 23 for S in one thread with bfloat16.
STEPS = {"T": 4000, "S": 6000}


def make(options: argparse.Namespace) -> list[Path]:
    """Generate patches, train T, then S with T as its teacher; return the models."""
    folders = [options.data / name for name in FOLDERS]
    store = options.work / "synth.zarr"
    seed = ("--seed", options.seed)
    sizes = ("--n", options.n, "--mpp", MPP, "--reference-mpp", MPP)
    run("generate", *folders, "-o", store, *sizes, *seed)
    refs = [word for folder in folders for word in ("--refs", folder)]
    models: list[Path] = []
    for size in options.sizes:
        model = options.work / f"{size}.safetensors"
        teacher = ("--teacher", options.work / "T.safetensors") if size != "T" else ()
        steps = ("--steps", STEPS[size], "--batch", 16, "--reference-mpp", MPP)
        run("train", store, "-o", model, "--size", size, *steps, *refs, *teacher, *seed)
        models.append(model)
    return models


def ship(model: Path, patches: int) -> None:
    """Put a model into the package, with its checksum."""
    header = read_model_header(model)
    if not header.shippable:
        raise SystemExit(f"{model}: must not be given away")
    target = WEIGHTS / model.name
    shutil.copy(model, target)
    entry = {
        "name": model.stem,
        "file": target.name,
        "sha256": sha256(target),
        "description": f"{model.stem}: {patches} synthetic patches after TCGA, NuInsSeg, TNBC and "
        f"DSB 2018 images, no labels; {header.training['steps']} steps"
        + (", taught by T" if model.stem != "T" else ", on a frozen public trunk"),
    }
    file = WEIGHTS / LIST
    listed = json.loads(file.read_text())
    others = [each for each in listed["models"] if each["name"] != model.stem]
    listed["models"] = sorted([*others, entry], key=lambda each: str(each["name"]))
    file.write_text(json.dumps(listed, indent=2) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Make, ship and score the models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=["T", "S"])
    parser.add_argument("--n", type=int, default=3000, help="patches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "box")
    parser.add_argument("--results", type=Path, default=RESULTS / "box.jsonl")
    parser.add_argument("--only-score", action="store_true", help="score what is in the package")
    options = parser.parse_args()
    if not options.only_score:
        for model in make(options):
            ship(model, options.n)
    for size in options.sizes:
        score_model(WEIGHTS / f"{size}.safetensors", options)


def score_model(model: Path, options: argparse.Namespace) -> None:
    """Append a row for each set to the results."""
    about: Row = {"size": model.stem, "sha256": sha256(model), "commit": commit()}
    for name in SETS:
        found = predict(options.work / "scores" / model.stem, options.data, "box", name, model)
        scores = score(options.data, name, found)
        append_rows(options.results, about | {"set": name, "seen": SEEN.get(name)} | scores)
        means = {
            key: (scores["mean"][key], scores["ci95"].get(key)) for key in ("aji", "pq", "dice")
        }
        print(model.stem, name, means, scores["recall_by_contrast"])


if __name__ == "__main__":
    main()
