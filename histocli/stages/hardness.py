"""Hard examples as ``train`` offers them: what makes them, how hard they are, and how far they
stray.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.errors import HistosynthError, InputNotFound, InvalidInput, InvalidStore
from histocli.base.progress import Track
from histocli.base.rng import rng_for
from histocli.base.text import first_line
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.train import TrainConfig
from histocli.inference.predict import Predictor
from histocli.instances.targets import normalised_distance
from histocli.metrics.counts import count
from histocli.model.normalisation import glass_to_white
from histocli.model.refiner import build_refiner
from histocli.optics.density import light_to_optical_density
from histocli.stages.shared.real_patches import Cutting, cut_all, label_agreement
from histocli.stages.shared.references import (
    identify_references,
    patch_glass_levels,
    reference_images,
)
from histocli.stores.patches import PatchStore
from histocli.training.adversarial.networks import AdversarialTraining, Networks
from histocli.training.adversarial.sampling import InitialPatches, RealPatches
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.hard_examples import Hardening, crop_losses
from histocli.training.hard_refiner import RefinerAscent, TargetSampler
from histocli.training.sampling import Batch

logger = logging.getLogger(__name__)

JUDGED = 16  # held-out patches
AT_ONCE = 8


def batch_of(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], device: torch.device
) -> Batch:
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
        ``loss`` and ``aji`` of ordinary and hard patches, the mean ``change`` of optical density,
        and ``label_agreement``: the AJI of the labels with rough nuclei, which falls where labels
        stop being true.
    ordinary, hard : list of ndarray of uint8, shape (H, W, 3)
    """
    multiple = predictor.multiple_px
    side_y, side_x = (side // multiple * multiple for side in images.shape[1:3])
    losses, scores, fits, changes = [], [], [], []
    pictures: tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]] = ([], [])
    for start in range(0, min(len(images), JUDGED), AT_ONCE):
        part = slice(start, min(start + AT_ONCE, JUDGED))
        given = batch_of(
            images[part, :side_y, :side_x], labels[part, :side_y, :side_x], predictor.device
        )
        ordinary, hard, truths = hardening.examples(
            predictor.segmenter,
            given,
            labels[part, :side_y, :side_x],
            rng_for(seed, "hard", start),
            predictor.dtype,
        )
        predictor.segmenter.eval()
        with torch.no_grad():
            each = [
                crop_losses(predictor.segmenter, pixels, ordinary, predictor.dtype)
                for pixels in (ordinary.pixels, hard)
            ]
            losses.append(torch.stack(each).cpu().numpy())
            density = [light_to_optical_density(pixels * 255) for pixels in (ordinary.pixels, hard)]
            changes.append(float((density[1] - density[0]).abs().mean()))
        both = [
            np.rint(pixels.permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8)
            for pixels in (ordinary.pixels, hard)
        ]
        for truth, *pair in zip(truths, *both, strict=True):
            scores.append(
                [
                    count(truth, predictor.instances(predictor.maps(each[None])[0])).aji
                    for each in pair
                ]
            )
            fits.append([label_agreement(truth, each, predictor.mpp) for each in pair])
        for kept, new in zip(pictures, both, strict=True):
            kept.extend(new)
    loss, aji, fit = (
        np.concatenate(losses, axis=1).mean(axis=1),
        np.mean(scores, axis=0),
        np.mean(fits, axis=0),
    )

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


MOST_INITIAL = 1024  # initial patches that the refiner goes on learning from
MOST_REAL = 640  # patches of references
REFINED_AT_ONCE = 4  # crops that the refiner paints in a step


def refiner_hardening(
    store: PatchStore,
    refs: Sequence[str],
    config: TrainConfig,
    execution: Execution,
    device: torch.device,
    wrap: Callable[[torch.nn.Module], Callable[..., torch.Tensor]],
    track: Track,
    *,
    learns_contacts: bool,
) -> RefinerAscent:
    """Take up the refiner and the critics that a refined store holds, so that they go on learning.

    Parameters
    ----------
    store : PatchStore
        Refined; the initial store that it was made from lies beside it.
    refs : sequence of str
        References; empty takes those that the store records.
    config : TrainConfig
    execution : Execution
    device : torch.device
    wrap : callable
        Averages the gradients of a network over processes.
    track : Track
    learns_contacts : bool

    Raises
    ------
    InvalidInput, InvalidStore
        The store is not refined, or holds no critics.
    InputNotFound
        The initial store or a reference is gone.
    """
    networks = networks_of(store, config.seed).to(device)
    initial = _initial_of(store)
    mpp, side = store.mpp, store.patch_px
    images = reference_images(store, refs, keep_missing=False)
    sources, _ = identify_references(
        images, mpp=mpp, reference_mpp=config.reference_mpp, tolerant=False, command="train"
    )
    most = max(2, MOST_REAL // len(sources))
    stopped = "train: stopped before the first step; run it again"
    cut = cut_all(
        sources,
        Cutting(mpp, side, most, config.seed),
        workers=execution.workers,
        track=track,
        stopped=stopped,
    )
    parts = []
    for found in cut:
        if isinstance(found, HistosynthError):
            raise found
        parts.append(found)
    real = RealPatches.joined([part.images for part in parts], [part.nuclei for part in parts])
    number = {source.sha256: index for index, source in enumerate(sources)}
    of_patch = np.array(
        [number.get(store.references[index].sha256, -1) for index in store.reference]
    )
    usable = np.flatnonzero(np.isin(of_patch, real.image_of))
    if not len(usable):
        raise InvalidInput(
            f"{store.path}: none of its patches follows one of the references; leave --refs out for those it records"
        )
    chosen = np.sort(rng_for(config.seed, "hard").permutation(usable)[:MOST_INITIAL])
    pictures, labels = _read_white(initial, chosen)
    refined_with = store.provenance.config
    schedule = AdversarialSchedule(
        batch=REFINED_AT_ONCE,
        crop_px=min(config.crop_px, side // 2 // 8 * 8),
        edits=networks.refiner.architecture.edits,
        objective=str(refined_with.get("objective", "matching")),
        seed=config.seed,
    )
    sampler = TargetSampler(InitialPatches(pictures, labels, of_patch[chosen]), real, mpp, schedule)
    training = AdversarialTraining.start(networks, schedule, wrap)
    for name, rate in (
        ("refiner", schedule.refiner_rate),
        ("realism", schedule.later_critic_rate),
        ("style", schedule.later_critic_rate),
    ):
        for group in training.optimizers[name].param_groups:
            group["lr"] = rate
    # the critics have proved themselves already; they are judged anew as they go
    training.skill = 1.0
    return RefinerAscent(training, sampler, schedule, learns_contacts=learns_contacts)


def networks_of(store: PatchStore, seed: int) -> Networks:
    """Take refiner and critics out of a refined store."""
    values = store.networks()
    missing = {"refiner", "realism", "style"} - values.keys()
    if missing:
        raise InvalidStore(
            f"{store.path}: --hard refiner needs refiner and critics, and the store holds no {', '.join(sorted(missing))}; "
            "make it with histosynth refine, without --model"
        )
    networks = Networks.fresh(
        build_refiner(store.attributes.get("refinement", {}).get("architecture")), seed
    )
    try:
        for name, network in networks.by_name().items():
            if name in values:
                network.load_state_dict(
                    {key: torch.from_numpy(value) for key, value in values[name].items()}
                )
    except RuntimeError as error:
        raise InvalidStore(
            f"{store.path}: its networks do not fit their description ({first_line(error)}); make it again"
        ) from error
    networks.averaged = (
        copy.deepcopy(networks.refiner) if "averaged" not in values else networks.averaged
    )
    return networks


def _initial_of(store: PatchStore) -> PatchStore:
    """Return the store of initial patches that a refined store was made from; it lies beside it."""
    record = store.attributes.get("initial") or {}
    path = store.path.parent / Path(str(record.get("name", ""))).name
    if not record or not path.exists():
        raise InputNotFound(
            f"{store.path}: --hard refiner starts from the initial patches, but {record.get('name', 'their store')} "
            "does not lie beside it"
        )
    initial = PatchStore.open(path)
    if initial.content_hash() != record.get("sha256"):
        raise InvalidInput(
            f"{path}: is not what {store.path.name} was made from any more; refine it again"
        )
    return initial


def _read_white(
    store: PatchStore, patches: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Read some patches, glass made white."""
    place = {int(patch): index for index, patch in enumerate(patches)}
    images = np.empty((len(patches), store.patch_px, store.patch_px, 3), np.uint8)
    labels = np.empty((len(patches), store.patch_px, store.patch_px), np.int32)
    for batch in store.batches():
        if not any(patch in place for patch in batch):
            continue
        read, read_labels = store.read(batch)
        for patch, image, label, level in zip(
            batch, read, read_labels, patch_glass_levels(store, batch, read), strict=True
        ):
            if patch in place:
                images[place[patch]], labels[place[patch]] = glass_to_white(image, level), label
    return images, labels
