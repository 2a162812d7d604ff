"""Hard examples as ``train`` offers them: what makes them, how hard they are, and how far they stray."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.rng import rng_for
from histocli.base.types import Json
from histocli.inference.predict import Predictor
from histocli.instances.targets import normalised_distance
from histocli.metrics.counts import count
from histocli.optics.density import light_to_optical_density
from histocli.stages.real_patches import label_agreement
from histocli.training.hard_examples import Hardening, crop_losses
from histocli.training.sampling import Batch

JUDGED = 16  # held-out patches
AT_ONCE = 8


def batch_of(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], device: torch.device) -> Batch:
    """Return patches as they are, with their targets.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, H, W, 3)
        Glass made white.
    labels : ndarray of int32, shape (n, H, W)
    device : torch.device
    """

    def tensor(values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device).float()

    return Batch(
        pixels=tensor(images).permute(0, 3, 1, 2) / 255,
        nucleus=tensor(labels > 0),
        distance=tensor(np.stack([normalised_distance(each) for each in labels])) / 255,
        valid=tensor(labels >= 0),
        weight=torch.ones(len(images), device=device),
        borders=torch.ones(len(images), device=device),
    )


def judge_hardness(
    hardening: Hardening,
    predictor: Predictor,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    seed: int,
) -> tuple[Json, list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]]:
    """Tell how hard hard examples are for a segmenter, and how far they stray.

    Parameters
    ----------
    hardening : Hardening
    predictor : Predictor
        With the segmenter as it is now.
    images : ndarray of uint8, shape (n, H, W, 3)
        Held-out patches, glass made white.
    labels : ndarray of int32, shape (n, H, W)
    seed : int

    Returns
    -------
    about : dict
        ``loss`` and ``aji`` of ordinary and hard patches, the mean ``change`` of optical density, and ``label_agreement``: the
        AJI of the labels with rough nuclei, which falls where labels stop being true.
    ordinary, hard : list of ndarray of uint8, shape (H, W, 3)
    """
    multiple = predictor.multiple_px
    side_y, side_x = (side // multiple * multiple for side in images.shape[1:3])
    losses, scores, fits, changes = [], [], [], []
    pictures: tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]] = ([], [])
    for start in range(0, min(len(images), JUDGED), AT_ONCE):
        part = slice(start, min(start + AT_ONCE, JUDGED))
        given = batch_of(images[part, :side_y, :side_x], labels[part, :side_y, :side_x], predictor.device)
        ordinary, hard, truths = hardening.examples(
            predictor.segmenter, given, labels[part, :side_y, :side_x], rng_for(seed, "hard", start), predictor.dtype
        )
        predictor.segmenter.eval()
        with torch.no_grad():
            each = [crop_losses(predictor.segmenter, pixels, ordinary, predictor.dtype) for pixels in (ordinary.pixels, hard)]
            losses.append(torch.stack(each).cpu().numpy())
            density = [light_to_optical_density(pixels * 255) for pixels in (ordinary.pixels, hard)]
            changes.append(float((density[1] - density[0]).abs().mean()))
        both = [np.rint(pixels.permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8) for pixels in (ordinary.pixels, hard)]
        for truth, *pair in zip(truths, *both, strict=True):
            scores.append([count(truth, predictor.instances(predictor.maps(each[None])[0])).aji for each in pair])
            fits.append([label_agreement(truth, each, predictor.mpp) for each in pair])
        for kept, new in zip(pictures, both, strict=True):
            kept.extend(new)
    loss, aji, fit = np.concatenate(losses, axis=1).mean(axis=1), np.mean(scores, axis=0), np.mean(fits, axis=0)

    def both_of(values: Sequence[float]) -> Json:
        return {"ordinary": round(float(values[0]), 4), "hard": round(float(values[1]), 4)}

    about: Json = {
        "patches": len(scores),
        "loss": both_of(loss),
        "aji": both_of(aji),
        "change": round(float(np.mean(changes)), 4),
        "label_agreement": both_of(fit),
    }
    return about, *pictures
