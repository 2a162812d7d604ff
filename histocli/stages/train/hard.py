"""``--hard``: join hard examples to a training, and judge them on held-out patches.

Hard examples are crops changed so that the segmenter's loss on them is larger: by an ascent on
appearance, or by the refiner of a refined store, which learns on (``training.hard_refiner``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.errors import HistosynthError, InputNotFound, InvalidInput, InvalidStore
from histocli.base.rng import rng_for
from histocli.base.text import first_line
from histocli.base.types import Json, RGBImage
from histocli.inference.predict import Predictor
from histocli.metrics.counts import count
from histocli.model.normalisation import glass_to_white
from histocli.model.refiner import build_refiner
from histocli.optics.density import light_to_optical_density
from histocli.stages.shared.real_patches import Cutting, cut_all, label_agreement
from histocli.stages.shared.references import (
    identify_references,
    patch_glass_levels,
    recorded_references,
)
from histocli.stages.train.bench import Bench, Joined, join
from histocli.stages.train.patches import HeldOut
from histocli.stages.train.plan import Request
from histocli.stages.train.selection import PREVIEW_PATCHES
from histocli.stores.patches import PatchStore
from histocli.training.adversarial.networks import AdversarialTraining, Networks
from histocli.training.adversarial.sampling import InitialPatches, RealPatches
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.appearance import bounds_from_references
from histocli.training.hard_examples import AppearanceAscent, Hardening, crop_losses
from histocli.training.hard_refiner import RefinerAscent, TargetSampler
from histocli.training.loop import Moment
from histocli.training.sampling import whole_patches

JUDGED = 16  # most held-out patches on which hard examples are judged
JUDGED_AT_ONCE = 8
MOST_INITIAL = 1024  # most initial patches that the refiner learns from
MOST_REAL = 640  # patches of references, about equally many of each, that the refiner learns from
REFINED_AT_ONCE = 4  # crops that the refiner paints in a step


def hard_examples(bench: Bench) -> Joined | None:
    """Join the kind of hard examples that the user asks for; None if there is none."""
    request = bench.request
    match request.config.hard:
        case "none":
            return None
        case "appearance":
            records = [record for item in request.inputs for record in item.store.references]
            appearances = [record.statistics.get("appearance", {}) for record in records]
            hardening: Hardening = AppearanceAscent(bounds_from_references(appearances))
        case _:
            hardening = refiner_ascent(bench)
    return join(bench, hardening, lambda: _report(bench, hardening))


def _report(bench: Bench, hardening: Hardening) -> Json | None:
    """Log the hardness on held-out patches, and write a picture of ordinary and hard ones."""
    examiner = bench.examiner
    if not len(examiner.held_out) or not bench.session.members.leads:
        return None
    seed = bench.request.config.seed
    found = judge_hardness(hardening, examiner.predictor(), examiner.held_out, seed)
    bench.session.log({"step": bench.training.step, "hard": found.about})
    pairs = zip(found.ordinary, found.hard, strict=True)
    pictures = [picture for pair in pairs for picture in pair][: 2 * PREVIEW_PATCHES]
    empty = [np.zeros(picture.shape[:2], np.int32) for picture in pictures]
    examiner.show("hard", pictures, empty, 4)
    return found.about


@dataclass(frozen=True)
class JudgedHardness:
    """Scores of a segmenter on ordinary and hard patches, with the pictures of both."""

    about: Json
    """``loss`` and ``aji`` of ordinary and hard patches, the mean absolute ``change`` of optical
    density, and ``label_agreement``: the AJI of labels with the nuclei that a rough method without
    a model finds. It falls if labels no longer fit."""
    ordinary: list[RGBImage]
    hard: list[RGBImage]


def judge_hardness(
    hardening: Hardening, predictor: Predictor, held_out: HeldOut, seed: int
) -> JudgedHardness:
    """Score the present segmenter on ordinary and hard versions of held-out patches."""
    multiple = predictor.multiple_px
    sides = tuple(slice(side // multiple * multiple) for side in held_out.labels.shape[1:])
    losses, scores, fits, changes = [], [], [], []
    ordinary: list[RGBImage] = []
    hard: list[RGBImage] = []
    for start in range(0, min(len(held_out), JUDGED), JUDGED_AT_ONCE):
        part = (slice(start, min(start + JUDGED_AT_ONCE, JUDGED)), *sides)
        labels = held_out.labels[part]
        given = whole_patches(held_out.images[part], labels, predictor.device)
        moment = Moment(rng_for(seed, "hard", start), 1.0, predictor.dtype, measure=True)
        pairs = hardening.examples(predictor.segmenter, given, labels, moment)
        predictor.segmenter.eval()
        both = (pairs.ordinary.pixels, pairs.hard)
        with torch.no_grad():
            network, crops, dtype = predictor.segmenter, pairs.ordinary, predictor.dtype
            each = [crop_losses(network, pixels, crops, dtype) for pixels in both]
            losses.append(torch.stack(each).cpu().numpy())
            density = [light_to_optical_density(pixels * 255) for pixels in both]
            changes.append(float((density[1] - density[0]).abs().mean()))
        before, after = (
            list(np.rint(pixels.permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8))
            for pixels in both
        )
        for truth, *pair in zip(pairs.labels, before, after, strict=True):
            found = [predictor.instances(predictor.maps(image[None])[0]) for image in pair]
            scores.append([count(truth, labels).aji for labels in found])
            fits.append([label_agreement(truth, image, predictor.mpp) for image in pair])
        ordinary += before
        hard += after

    def both_of(values: Sequence[float] | npt.NDArray[np.floating]) -> Json:
        return {"ordinary": round(float(values[0]), 4), "hard": round(float(values[1]), 4)}

    about: Json = {
        "patches": len(scores),
        "loss": both_of(np.concatenate(losses, axis=1).mean(axis=1)),
        "aji": both_of(np.mean(scores, axis=0)),
        "change": round(float(np.mean(changes)), 4),
        "label_agreement": both_of(np.mean(fits, axis=0)),
    }
    return JudgedHardness(about, ordinary, hard)


def refiner_ascent(bench: Bench) -> RefinerAscent:
    """Return hard examples by the refiner and the critics of a refined store, which learn on.

    Raises ``InvalidInput`` or ``InvalidStore`` if no store is refined or the refined one holds no
    critics, ``InputNotFound`` if a reference is gone or the initial store does not lie beside it.
    """
    request = bench.request
    config = request.config
    store = next((item.store for item in request.inputs if item.store.origin == "refined"), None)
    if store is None:
        raise InvalidInput(
            f"{request.store.path}: --hard refiner goes on with the networks of a refined store, "
            "and none is given; make one with histosynth refine, or use --hard appearance"
        )
    networks = networks_of(store, config.seed).to(bench.training.device)
    initial = _initial_of(store)
    schedule = AdversarialSchedule(
        batch=REFINED_AT_ONCE,
        crop_px=min(config.crop_px, store.patch_px // 2 // 8 * 8),
        edits=networks.refiner.architecture.edits,
        objective=str(store.provenance.config.get("objective", "matching")),
        seed=config.seed,
    )
    sampler = _sampler(request, store, initial, schedule)
    training = AdversarialTraining.start(networks, schedule, bench.session.members.wrap)
    for name in ("refiner", "realism", "style"):
        rate = schedule.refiner_rate if name == "refiner" else schedule.later_critic_rate
        for group in training.optimizers[name].param_groups:
            group["lr"] = rate
    # the critics are trained, so the refiner learns at once; steps update this running share
    training.skill = 1.0
    return RefinerAscent(training, sampler, schedule, learns_contacts=request.learns_contacts)


def _sampler(
    request: Request, store: PatchStore, initial: PatchStore, schedule: AdversarialSchedule
) -> TargetSampler:
    """Return a sampler of reference patches, and of the initial patches made from them."""
    config = request.config
    images = recorded_references(store)
    sources, _ = identify_references(
        images, mpp=store.mpp, reference_mpp=config.reference_mpp, tolerant=False, command="train"
    )
    cutting = Cutting(store.mpp, store.patch_px, max(2, MOST_REAL // len(sources)), config.seed)
    stopped = "train: stopped before the first step; run it again"
    workers, track, parts = request.execution.workers, request.track, []
    for found in cut_all(sources, cutting, workers=workers, track=track, stopped=stopped):
        if isinstance(found, HistosynthError):
            raise found
        parts.append(found)
    real = RealPatches.joined([part.images for part in parts], [part.nuclei for part in parts])
    number = {source.sha256: index for index, source in enumerate(sources)}
    of_patch = np.array([number.get(store.references[i].sha256, -1) for i in store.reference])
    usable = np.flatnonzero(np.isin(of_patch, real.image_of))
    if not len(usable):
        raise InvalidInput(
            f"{store.path}: none of its patches follows one of the references; leave --refs out "
            "for those it records"
        )
    chosen = np.sort(rng_for(config.seed, "hard").permutation(usable)[:MOST_INITIAL])
    pictures, labels = _read_white(initial, chosen)
    patches = InitialPatches(pictures, labels, of_patch[chosen])
    return TargetSampler(patches, real, store.mpp, schedule)


def networks_of(store: PatchStore, seed: int) -> Networks:
    """Return refiner, critics and averaged refiner of a refined store."""
    values = store.networks()
    missing = {"refiner", "realism", "style"} - values.keys()
    if missing:
        raise InvalidStore(
            f"{store.path}: --hard refiner needs refiner and critics, and the store holds no "
            f"{', '.join(sorted(missing))}; make it with histosynth refine, without --model"
        )
    architecture = store.attributes.get("refinement", {}).get("architecture")
    networks = Networks.fresh(build_refiner(architecture), seed)
    try:
        for name, network in networks.by_name().items():
            if name in values:
                arrays = values[name].items()
                network.load_state_dict({key: torch.from_numpy(array) for key, array in arrays})
    except RuntimeError as error:
        raise InvalidStore(
            f"{store.path}: its networks do not fit their description ({first_line(error)}); make "
            "it again"
        ) from error
    if "averaged" not in values:
        networks.averaged = copy.deepcopy(networks.refiner)
    return networks


def _initial_of(store: PatchStore) -> PatchStore:
    """Return the initial store of a refined store, which must lie in the same folder."""
    record = store.attributes.get("initial") or {}
    path = store.path.parent / Path(str(record.get("name", ""))).name
    if not record or not path.exists():
        raise InputNotFound(
            f"{store.path}: --hard refiner starts from the initial patches, but "
            f"{record.get('name', 'their store')} does not lie beside it"
        )
    initial = PatchStore.open(path)
    if initial.content_hash() != record.get("sha256"):
        name = store.path.name
        raise InvalidInput(f"{path}: is not what {name} was made from any more; refine it again")
    return initial


def _read_white(
    store: PatchStore, patches: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Return images and labels of the patches with the given indices, glass made white."""
    place = {int(patch): index for index, patch in enumerate(patches)}
    images = np.empty((len(patches), store.patch_px, store.patch_px, 3), np.uint8)
    labels = np.empty((len(patches), store.patch_px, store.patch_px), np.int32)
    for batch in store.batches():
        if not any(patch in place for patch in batch):
            continue
        read, read_labels = store.read(batch)
        levels = patch_glass_levels(store, batch, read)
        for patch, image, label, level in zip(batch, read, read_labels, levels, strict=True):
            if patch in place:
                images[place[patch]], labels[place[patch]] = glass_to_white(image, level), label
    return images, labels
