"""The inputs of a training, opened and checked before any work is done."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch

from histocli.annotations.sources import LabelSource
from histocli.base.device import resolve_device, resolve_precision
from histocli.base.errors import InvalidInput, InvalidOption
from histocli.base.files import content_hash
from histocli.base.inputs import expand_inputs
from histocli.base.progress import Track
from histocli.base.types import Json
from histocli.config.common import Execution, config_hash
from histocli.config.train import TrainConfig
from histocli.model.segmenter import architecture_of_size
from histocli.slides.slide import slide_stem
from histocli.stages.shared.frame import Plan
from histocli.stages.shared.labels import LABEL_FINDER
from histocli.stages.shared.references import Source, identify_references, named_references
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.box import model_named, model_path
from histocli.stores.models import CONTRACT, ModelHeader, read_model
from histocli.stores.patches import PatchStore

logger = logging.getLogger(__name__)

SAME_MPP = 0.02  # largest relative difference of two pixel sizes that count as the same


@dataclass(frozen=True, kw_only=True)
class TrainResult(StageResult):
    """The result of ``train``."""

    schema: ClassVar[str] = "histosynth.train/1"
    patches: int  # patches of all stores, held-out ones included
    steps: int
    loss: float | None = None  # mean training loss of the last 20 steps
    held_out: Json | None = None  # mean scores on held-out synthetic patches, not on real tissue
    mpp: float
    device: str
    precision: str
    shippable: bool
    effective_share: float | None = None  # effective sample size of the weights over their number
    rounds: list[Json] = field(default_factory=list)  # report of each round of self-training
    hard: Json | None = None  # scores of ordinary and hard versions of held-out patches
    fresh: Json | None = None  # number of patches drawn during the training, and seconds waited
    too_short: bool = False  # whether the time budget ended the training after a few steps
    failed: tuple[str, ...] = ()  # references that could not be read, under ``--on-error continue``


@dataclass(frozen=True)
class WeightedStore:
    """A patch store and its weight, the share of the drawn crops relative to other stores."""

    store: PatchStore
    weight: float

    def about(self) -> Json:
        """Return the store's entry in the header of the model."""
        return {
            "name": self.store.path.name,
            "sha256": self.store.content_hash(),
            "weight": self.weight,
            "origin": self.store.origin,
            "patches": len(self.store),
        }


@dataclass(frozen=True)
class StartingModel:
    """A model that a training starts from, or learns from."""

    header: ModelHeader
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's settings and the opened inputs."""

    config: TrainConfig
    execution: Execution
    inputs: list[WeightedStore]
    sources: list[Source]  # unlabelled references
    failed: list[str]  # paths of references that could not be read
    teacher: list[LabelSource] | None  # labels of each reference, for the first round
    taught_by: list[StartingModel]  # models whose maps of the references are learnt throughout
    start: StartingModel | None
    data: list[Json]  # entries of all inputs in the header of the model
    fingerprint: str  # hash of the settings and of the content of all inputs
    device: torch.device  # as the user says; each of several processes may use its own GPU
    dtype: torch.dtype
    stop_after: int | None
    preview: Path | None
    track: Track

    @property
    def store(self) -> PatchStore:
        """The first store; the others have the same pixel size and patch size."""
        return self.inputs[0].store

    @property
    def architecture(self) -> Json:
        """The architecture of the segmenter."""
        if self.start is not None:
            return self.start.header.architecture
        return architecture_of_size(self.config.size, self.config.targets)

    @property
    def learns_contacts(self) -> bool:
        """Whether the segmenter learns where two nuclei meet."""
        return self.architecture.get("targets") == "contact"


def open_request(
    stores: Sequence[str],
    refs: Sequence[str],
    config: TrainConfig,
    execution: Execution,
    *,
    stop_after: int | None,
    preview: Path | None,
    track: Track,
) -> Request:
    """Open all inputs, and check that they fit together.

    Raises ``InputNotFound``, ``InvalidInput``, ``InvalidStore`` or ``InvalidOption`` if an input is
    missing, cannot be read or does not fit the others.
    """
    inputs = _open_stores(stores)
    data = [item.about() for item in inputs]
    used: Json = {"stores": [[entry["sha256"], entry["weight"]] for entry in data]}
    start = None
    if config.init is not None:
        start = _open_model(model_path(config.init), inputs[0].store, "--init")
    sources, failed = _identify(refs, inputs[0].store.mpp, config, execution) if refs else ([], [])
    device = resolve_device(execution.device)
    dtype = resolve_precision(execution.precision, device)
    if sources:
        used["references"] = [[source.sha256, source.mpp] for source in sources]
        about = [(each.path.name, each.sha256) for each in sources]
        data += [{"name": name, "sha256": sha, "origin": "reference"} for name, sha in about]
    teacher, taught = None, _teaching_models(config.teacher)
    taught_by = [_open_model(path, inputs[0].store, "--teacher") for path in taught]
    if config.teacher is not None and not taught:
        taught = [Path(config.teacher)]
        sources, teacher = _match_teacher(config.teacher, sources)
    init = [] if config.init is None else [model_path(config.init)]
    for name, paths, origin in (("teacher", taught, "teacher"), ("init", init, "model")):
        for number, path in enumerate(paths, 1):
            key = name if number == 1 else f"{name} {number}"
            used[key] = content_hash(path)
            data.append({"name": path.name, "sha256": used[key], "origin": origin})
    return Request(
        config=config,
        execution=execution,
        inputs=inputs,
        sources=sources,
        failed=failed,
        teacher=teacher,
        taught_by=taught_by,
        start=start,
        data=data,
        fingerprint=config_hash(replace(config, init=None, teacher=None), **used),
        device=device,
        dtype=dtype,
        stop_after=stop_after,
        preview=preview,
        track=track,
    )


def plan_of(request: Request, out: Path, watch: Stopwatch) -> Plan[TrainResult]:
    """Return the plan of the model file that the request makes."""
    start, config = request.start, request.config
    result = TrainResult(
        output=str(out),
        patches=sum(len(item.store) for item in request.inputs),
        steps=config.steps,
        mpp=request.store.mpp,
        device=str(request.device),
        precision="bf16" if request.dtype == torch.bfloat16 else "fp32",
        shippable=all(item.store.shippable for item in request.inputs)
        and (config.shippable or not request.sources)
        and all(model is None or model.header.shippable for model in (start, *request.taught_by)),
        failed=tuple(request.failed),
    )
    hashed = request.fingerprint
    return Plan(out=out, contract=CONTRACT, fingerprint=hashed, planned=lambda: result, watch=watch)


def split_weight(word: str) -> tuple[str, float]:
    """Split ``labelled.zarr:2`` into a path and a share; without a colon the share is 1.

    Raises ``InvalidOption`` unless the share is positive.
    """
    path, colon, share = word.rpartition(":")
    if not colon or not path or "/" in share or "\\" in share:
        return word, 1.0
    try:
        weight = float(share)
    except ValueError:
        return word, 1.0
    if not (weight > 0 and math.isfinite(weight)):
        raise InvalidOption(
            f"{word}: the number after the colon is the store's share and must be positive, got "
            f"{share}"
        )
    return path, weight


def _open_stores(words: Sequence[str]) -> list[WeightedStore]:
    """Open the stores, and check that their pixel sizes and patch sizes agree."""
    inputs: list[WeightedStore] = []
    for word in words:
        path, weight = split_weight(word)
        found = expand_inputs([path], suffixes=(".zarr",), stdin=sys.stdin, what="patch store")
        inputs.extend(WeightedStore(PatchStore.open(store), weight) for store in found)
    first = inputs[0].store
    for item in inputs[1:]:
        if abs(item.store.mpp / first.mpp - 1) > SAME_MPP:
            raise InvalidInput(
                f"{item.store.path}: has {item.store.mpp:.4g} um/px but {first.path} has "
                f"{first.mpp:.4g}; "
                "a segmenter is trained at one pixel size, so make the stores with the same --mpp"
            )
        if item.store.patch_px != first.patch_px:
            raise InvalidInput(
                f"{item.store.path}: has patches of {item.store.patch_px} px but {first.path} of "
                f"{first.patch_px}; make the stores with the same --patch-px"
            )
    if first.patch_px < 32:
        raise InvalidInput(
            f"{first.path}: patches of {first.patch_px} px are too small to train on; at least 32 "
            "are needed"
        )
    return inputs


def _open_model(path: Path, store: PatchStore, flag: str) -> StartingModel:
    """Read the model of an option, and check that its pixel size is that of the patches."""
    header, tensors = read_model(path)
    if header.kind != "segmenter":
        raise InvalidOption(f"{flag} {path}: is a {header.kind}, but a segmenter is needed")
    if abs(header.mpp / store.mpp - 1) > SAME_MPP:
        raise InvalidInput(
            f"{flag} {path}: was trained at {header.mpp:.4g} um/px but {store.path} has "
            f"{store.mpp:.4g}; make the store with the model's --mpp"
        )
    return StartingModel(header, tensors)


def _teaching_models(word: str | None) -> list[Path]:
    """Return the models that ``--teacher`` names; none if it names labels, or is not given.

    Raises ``InvalidOption`` if only some of several names are those of models.
    """
    if word is None:
        return []
    # the name of a file or a folder may hold a comma
    words = [word] if Path(word).exists() else [each.strip() for each in word.split(",")]
    models = [model_named(each) for each in words]
    found = [model for model in models if model is not None]
    if len(found) not in (0, len(words)):
        wrong = words[models.index(None)]
        raise InvalidOption(f"--teacher: {wrong!r} is no model; give models, or one set of labels")
    return found


def _match_teacher(word: str, sources: Sequence[Source]) -> tuple[list[Source], list[LabelSource]]:
    """Return the references that have labels of the same name, and these labels."""
    labels = LABEL_FINDER.find(word)
    by_stem = [(slide_stem(source.path), source) for source in sources]
    matched = [(source, labels[stem]) for stem, source in by_stem if stem in labels]
    if not matched:
        raise InvalidInput(
            f"--teacher {word}: none of its {len(labels)} label images is named like one of the "
            f"{len(sources)} references; labels are matched by the name without its ending"
        )
    if len(matched) < len(sources):
        text = "--teacher %s: %d of %d references have no labels and are left out"
        logger.warning(text, word, len(sources) - len(matched), len(sources))
    return [source for source, _ in matched], [each for _, each in matched]


def _identify(
    words: Sequence[str], mpp: float, config: TrainConfig, execution: Execution
) -> tuple[list[Source], list[str]]:
    tolerant = execution.on_error == "continue"
    return identify_references(
        named_references(words, keep_missing=tolerant),
        mpp=mpp,
        reference_mpp=config.reference_mpp,
        tolerant=tolerant,
        command="train",
    )
