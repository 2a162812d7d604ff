"""Real beside synthetic, without saying which: one sheet per tissue, to be judged by eye.

    python benchmarks/sheets.py --data DATA [--sets dev/tnbc,...] [--out work/sheets]

Each sheet shows crops of real images and initial patches made from the same images, shuffled;
``NAME.key.json`` tells which is which, row by row. Look first, decide, then open the key. Sheets of
images that may not be shared stay out of the repository.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from histocli.base.rng import rng_for
from histocli.reference.statistics import analyse_reference
from histocli.slides.open import read_image
from histocli.synthesis.patch import draw_patch, paint_patches

MPP = 0.25
SIDE = 256
COLUMNS = 4
ROOT = Path(__file__).resolve().parent.parent


def tiles_of(
    paths: list[Path], name: str, count: int, seed: int
) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Return half real crops, half patches, each pair from one image, in a random order."""
    rng = rng_for(seed, f"sheet of {name}")
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, count // 2).round().astype(int)]
    tiles = []
    for index, path in enumerate(chosen):
        image = read_image(path).pixels
        reference = analyse_reference(image, MPP, path.name, rng_for(seed, path.name))
        patch = paint_patches(
            [draw_patch(reference, SIDE, rng_for(seed, "patch", index))], torch.device("cpu")
        )[0]
        top, left = (int(rng.integers(0, max(1, side - SIDE + 1))) for side in image.shape[:2])
        crop = image[top : top + SIDE, left : left + SIDE]
        missing = [(0, SIDE - crop.shape[0]), (0, SIDE - crop.shape[1]), (0, 0)]
        tiles += [("real", np.pad(crop, missing, mode="symmetric")), ("synthetic", patch)]
    return [tiles[i] for i in rng.permutation(len(tiles))]


def main() -> None:
    """Write a sheet and a key for each set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--sets",
        default="dev/tnbc,dev/monuseg13,dev/pannuke,dev/dsb2018,dev/nuinsseg,references/tcga",
    )
    parser.add_argument("--tiles", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "work" / "sheets")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for folder in options.sets.split(","):
        where = options.data / folder
        paths = sorted((where / "images" if (where / "images").exists() else where).glob("*.png"))
        tiles = tiles_of(paths, folder, options.tiles, options.seed)
        rows = [
            np.hstack([tile for _, tile in tiles[i : i + COLUMNS]])
            for i in range(0, len(tiles), COLUMNS)
        ]
        stem = folder.replace("/", "-")
        cv2.imwrite(str(options.out / f"{stem}.png"), np.vstack(rows)[..., ::-1])
        key = [[kind for kind, _ in tiles[i : i + COLUMNS]] for i in range(0, len(tiles), COLUMNS)]
        (options.out / f"{stem}.key.json").write_text(json.dumps(key, indent=1) + "\n")
        print(options.out / f"{stem}.png", flush=True)


if __name__ == "__main__":
    main()
