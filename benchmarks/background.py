"""Can a critic find where nuclei were taken out? Lower is better; 0.5 is what chance finds.

    python benchmarks/background.py --data DATA [--steps 300]

A small network without any task but this one looks at real tissue from which the nuclei were
removed, and tells for each pixel whether it was filled. It learns on half of the images and is
judged on the others. Touched pixels are compared with untouched ones of the same distance to a
hole's border, so that the blurred edge itself is not the clue: pixels in the hole's middle against
untouched tissue. The same critic on places that were not filled at all, drawn as holes of the same
shape elsewhere, is the control: it cannot do better than chance.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from accuracy import commit
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional

from histocli.base.rng import rng_for
from histocli.instances.components import disk
from histocli.optics.density import rgb_to_optical_density, white_level
from histocli.reference.rough import find_rough_nuclei
from histocli.reference.texture import remove_nuclei
from histocli.slides.open import read_image

MPP = 0.25
CROP_PX = 128
ROOT = Path(__file__).resolve().parent.parent
Sample = tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]
"""Optical density (3, H, W) with nuclei removed; 1 filled, 0 untouched, -1 neither (too near,
ignored or glass)."""


def sample_of(path: Path, control: bool) -> Sample | None:
    """Take the nuclei out of one image; in the control, say so of places that were left alone."""
    image = read_image(path).pixels
    density = rgb_to_optical_density(image, white_level(image))
    rough = find_rough_nuclei(density, MPP)
    rng = rng_for(0, path.name)
    filled = remove_nuclei(density, rough, MPP, rng)
    holes = cv2.dilate((rough.labels > 0).astype(np.uint8), disk(0.9 / MPP)).astype(bool)
    near = cv2.dilate(holes.astype(np.uint8), disk(1.5 / MPP)).astype(bool)
    usable = rough.tissue & ~rough.suspicious
    truth = np.full(holes.shape, -1, np.int8)
    truth[usable & ~near] = 0
    if control:
        moved = np.roll(holes, (holes.shape[0] // 3, holes.shape[1] // 2), (0, 1))
        truth[moved & usable & ~near] = 1
    else:
        truth[(rough.labels > 0) & rough.tissue] = 1
    if min((truth == 1).sum(), (truth == 0).sum()) < 500:
        return None
    return filled.transpose(2, 0, 1).astype(np.float32), truth


def critic() -> nn.Sequential:
    """Return a network that sees 47 pixels (12 um) around each pixel."""
    layers: list[nn.Module] = []
    width = 3
    for dilation in (1, 1, 2, 4, 8, 4, 2, 1):
        layers += [
            nn.Conv2d(width, 32, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        ]
        width = 32
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))


def auc(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.int8]) -> float:
    """Area under the curve of one image, by ranks."""
    keep = truth >= 0
    ranks, positive = rankdata(scores[keep]), truth[keep] == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    return float(
        (ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    )


def measure(paths: list[Path], steps: int, control: bool) -> dict[str, Any]:
    """Train a critic on every other image and judge it on the rest."""
    samples = [sample for path in paths if (sample := sample_of(path, control)) is not None]
    train, test = samples[::2], samples[1::2]
    torch.manual_seed(0)
    network = critic().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rng = rng_for(0, "critic", step)
        pixels, truths = [], []
        for index in rng.integers(len(train), size=8):
            density, truth = train[index]
            y, x = (int(rng.integers(0, max(1, side - CROP_PX + 1))) for side in truth.shape)
            pixels.append(torch.from_numpy(density[:, y : y + CROP_PX, x : x + CROP_PX]))
            truths.append(torch.from_numpy(truth[y : y + CROP_PX, x : x + CROP_PX]))
        target = torch.stack(truths)
        batch = torch.stack(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(batch)[:, 0].float()
        # each class counts half, whatever share of the crop it has
        parts = [
            functional.softplus(sign * logits[target == kind]).mean()
            for kind, sign in ((0, 1), (1, -1))
        ]
        loss = torch.stack([part for part in parts if torch.isfinite(part)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        found = [
            auc(network(torch.from_numpy(density)[None])[0, 0].float().numpy(), truth)
            for density, truth in test
        ]
    spread = 1.96 * np.std(found) / np.sqrt(len(found))
    return {
        "auc": round(float(np.mean(found)), 3),
        "ci95": round(float(spread), 3),
        "images": len(found),
    }


def main() -> None:
    """Measure all folders and append a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--sets", default="dev/tnbc,dev/pannuke,dev/dsb2018,references/nuinsseg,references/tcga"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "background.jsonl"
    )
    options = parser.parse_args()
    paths: list[Path] = []
    for folder in options.sets.split(","):
        where = options.data / folder
        found = sorted((where / "images" if (where / "images").exists() else where).glob("*.png"))
        paths += found[:: max(1, len(found) // 30)]
    for kind in ("filled", "control"):
        row = {"commit": commit(), "sets": options.sets, "steps": options.steps, "kind": kind}
        row |= measure(paths, options.steps, kind == "control")
        print(row, flush=True)
        with options.results.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
