"""Draws the pictures of the tutorials anew, on the tissue that the first of them begins with.

python docs/site/pictures.py

The tissue is the immunohistochemistry image that comes with scikit-image, with its brown stain
shown as eosin. Nothing is loaded from elsewhere. It takes some minutes on two cores.
"""

import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from skimage.color import hed2rgb, rgb2hed
from skimage.data import immunohistochemistry

from histocli.cli.app import run

PICTURES = Path(__file__).parents[1] / "pictures"
GAP_PX = 8
PAPER = 255
COLOURS = 256  # of a picture, which make it a third as large


def tissue():
    """Return the tissue as H&E, at 0.5 um per pixel."""
    blue, _, brown = np.moveaxis(rgb2hed(immunohistochemistry()), 2, 0)
    image = hed2rgb(np.stack([blue, 0.3 * brown, 0 * blue], axis=2)).clip(0, 1)
    return (255 * image).astype(np.uint8)


def command(words):
    """Run a command of histosynth, which must succeed."""
    assert run(words.split()) == 0, words


def read(path):
    """Return a picture as RGB."""
    return np.asarray(Image.open(path).convert("RGB"))


def side_by_side(*pictures):
    """Return pictures of one height in a row."""
    gap = np.full((pictures[0].shape[0], GAP_PX, 3), PAPER, np.uint8)
    row = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(row, axis=1)


def save(picture, name):
    """Save a picture in few colours, so that the repository stays small."""
    PICTURES.mkdir(exist_ok=True)
    Image.fromarray(picture).quantize(COLOURS).save(PICTURES / name, optimize=True)


def main():
    """Draw all pictures."""
    image = tissue()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = folder / "tissue.tif"
        where = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(slide, image, **where)
        command(f"segment {slide} -o {folder}/first --format ome-zarr,overlay,qc")
        overlay = read(folder / "first" / "tissue.overlay.png")
        plain = np.asarray(
            Image.fromarray(image).resize(overlay.shape[1::-1], Image.Resampling.BICUBIC)
        )
        save(side_by_side(plain, overlay), "first_slide.png")
        save(read(folder / "first" / "tissue.qc.overlay.png"), "quality.png")
        command(f"generate {slide} -o {folder}/synth.zarr --mpp 0.5 --patch-px 128 --n 12")
        command(f"info {folder}/synth.zarr --sheet {folder}/sheet.png --sheet-patches 12")
        save(read(folder / "sheet.png"), "patches.png")


if __name__ == "__main__":
    main()
