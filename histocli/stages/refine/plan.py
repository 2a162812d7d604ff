"""The inputs of a refinement: initial patches, references and, if given, a trained refiner."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from histocli.base.device import resolve_device, resolve_precision
from histocli.base.errors import InvalidInput, InvalidStore
from histocli.base.inputs import expand_inputs
from histocli.base.progress import Track
from histocli.base.text import first_line
from histocli.config.common import Execution, config_hash
from histocli.config.refine import RefineConfig
from histocli.model.refiner import Refiner, build_refiner
from histocli.stages.shared.references import Source, identify_references, reference_images
from histocli.stores.patches import PatchStore


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Settings and opened inputs of a refinement, before a reference is decoded."""

    out: Path
    config: RefineConfig
    execution: Execution
    initial: PatchStore
    sources: list[Source]
    failed: list[str]  # paths of references that cannot be read and are left out
    trained: Refiner | None  # the refiner of ``--model``; None trains one
    fingerprint: str  # hash of all settings and inputs
    device: torch.device
    dtype: torch.dtype  # number format of the convolutions
    track: Track


def open_inputs(
    store: str,
    references: Sequence[str],
    out: Path,
    config: RefineConfig,
    execution: Execution,
    track: Track,
) -> Refinement:
    """Open the stores and identify the references.

    Raises InvalidStore, InputNotFound or InvalidInput if the store, the references or the model
    cannot be used.
    """
    initial = _open_initial(store)
    tolerant = execution.on_error == "continue"
    sources, failed = identify_references(
        reference_images(initial, references, keep_missing=tolerant),
        mpp=initial.mpp,
        reference_mpp=config.reference_mpp,
        tolerant=tolerant,
        command="refine",
    )
    device = resolve_device(execution.device)
    dtype = resolve_precision(execution.precision, device)
    model = None if config.model is None else PatchStore.open(config.model)
    return Refinement(
        out=out,
        config=config,
        execution=execution,
        initial=initial,
        sources=sources,
        failed=failed,
        trained=None if model is None else _refiner_of(model),
        fingerprint=config_hash(
            replace(config, model=None),
            store=initial.content_hash(),
            references=[[source.sha256, source.mpp] for source in sources],
            model=None if model is None else model.content_hash(),
        ),
        device=device,
        dtype=dtype,
        track=track,
    )


def _open_initial(word: str) -> PatchStore:
    found = expand_inputs([word], suffixes=(".zarr",), stdin=sys.stdin, what="patch store")
    if len(found) > 1:
        raise InvalidInput(
            f"{word}: holds {len(found)} stores, and refine takes one at a time; "
            "call it once for each"
        )
    store = PatchStore.open(found[0])
    if store.origin != "initial":
        raise InvalidStore(
            f"{store.path}: holds {store.origin} patches, and refine takes initial ones, "
            "as histosynth generate makes them"
        )
    if store.patch_px < 64 or store.patch_px % 4:
        raise InvalidStore(
            f"{store.path}: patches of {store.patch_px} px cannot be refined; "
            "at least 64 and a multiple of 4 is needed"
        )
    return store


def _refiner_of(store: PatchStore) -> Refiner:
    """Return the refiner of a refined store, in eval mode."""
    networks = store.networks()
    if "averaged" not in networks:
        raise InvalidStore(
            f"{store.path}: holds no refiner; give a store that histosynth refine made"
        )
    refiner = build_refiner(store.attributes.get("refinement", {}).get("architecture"))
    try:
        averaged = networks["averaged"].items()
        refiner.load_state_dict({name: torch.from_numpy(value) for name, value in averaged})
    except RuntimeError as error:
        raise InvalidStore(
            f"{store.path}: its refiner does not fit its description ({first_line(error)}); "
            "make it again"
        ) from error
    return refiner.eval()
