"""Model files: safetensors with the network's tensors, and a JSON header for everything else.

``histosynth-model/1``::

    model.safetensors
    ├── <parameter>   the network's parameters and buffers, under the names of its state dict
    └── metadata      histosynth: JSON of ModelHeader {contract, kind, architecture, mpp,
                      normalisation, thresholds, training, data, shippable, command, config,
                      config_hash, seed, package_version, created}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli import __version__
from histocli.base.errors import InvalidStore, StoreNotFound
from histocli.base.files import check_parents
from histocli.base.text import plain_json
from histocli.base.types import Json
from histocli.base.units import MPP_RANGE
from histocli.stores.checkpoints import checkpoint_hash, remove_checkpoint
from histocli.stores.provenance import Provenance, now
from histocli.stores.rerun import Action, rerun_rule
from histocli.stores.tensors import count_values, read_header, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

CONTRACT = "histosynth-model/1"
LARGEST_STATISTIC = 5.6  # limit of stain_range, in absorbance: that of level 0
LARGEST_SPREAD = 5.0  # limit of contrast_floor, in absorbance; 8-bit pixels never spread as much


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """The JSON header of a model file."""

    architecture: Json
    """Name and sizes of the network."""
    mpp: float
    """Micrometres per pixel of the training patches, and so of the network's input."""
    config_hash: str
    """Fingerprint of the settings and inputs of the training."""
    kind: str = "segmenter"
    normalisation: Json = field(default_factory=dict)
    """How pixels become network input."""
    thresholds: Json = field(default_factory=dict)
    """How network maps become instances."""
    training: Json = field(default_factory=dict)
    """Summary of the training: steps, losses, validation scores."""
    pretrained: str = "none"
    """Public non-medical weights that the network holds: ``none`` or ``imagenet``."""
    data: list[Json] = field(default_factory=list)
    """Name, content hash and weight of each patch store that the model was trained on."""
    shippable: bool = True
    """False if the licence of any input forbids giving the weights away."""
    command: str = "train"
    config: Json = field(default_factory=dict)
    """The settings of ``command``."""
    seed: int | None = None
    package_version: str = __version__
    created: str = field(default_factory=now)
    contract: str = CONTRACT

    def to_json(self) -> Json:
        """Return plain JSON values."""
        return dict(plain_json(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: Json, where: Path) -> ModelHeader:
        """Return the header in a JSON object; ``InvalidStore`` if it breaks the contract."""
        kinds: dict[str, Any] = {
            "architecture": dict, "mpp": (int, float), "config_hash": str, "kind": str,
            "normalisation": dict, "thresholds": dict, "training": dict, "data": list,
            "shippable": bool, "command": str, "config": dict, "seed": (int, type(None)),
            "package_version": str, "created": str, "contract": str,
        }  # fmt: skip
        for name, kind in kinds.items():
            if name not in values or not isinstance(values[name], kind):
                raise InvalidStore(
                    f"{where}: {name} of the header is missing or of the wrong kind; "
                    "train the model again"
                )
        if not MPP_RANGE[0] <= values["mpp"] <= MPP_RANGE[1]:
            raise InvalidStore(
                f"{where}: mpp of the header must lie between {MPP_RANGE[0]} and {MPP_RANGE[1]} "
                f"micrometres per pixel, got {values['mpp']}; train the model again"
            )
        _check_stain_range(values["normalisation"].get("stain_range"), where)
        _check_known_stains(values["normalisation"].get("known_stains"), where)
        floor = values["normalisation"].get("contrast_floor", 0)
        if not isinstance(floor, int | float) or not 0 <= floor <= LARGEST_SPREAD:
            raise InvalidStore(
                f"{where}: contrast_floor of the header must lie between 0 and {LARGEST_SPREAD}, "
                f"got {floor!r}; train the model again"
            )
        # models of earlier versions do not name it
        return cls(
            **{name: values[name] for name in kinds},
            pretrained=str(values.get("pretrained", "none")),
        )

    @property
    def provenance(self) -> Provenance:
        """The fields that every output has; a model file is always complete."""
        names = {one.name for one in dataclasses.fields(Provenance)} - {"complete"}
        return Provenance(**{name: getattr(self, name) for name in names}, complete=True)


def _check_stain_range(edges: Any, where: Path) -> None:
    """Raise ``InvalidStore`` if ``stain_range`` of a header is neither None nor a range of stains:
    lower and upper edges of three means and three spreads.
    """
    if edges is None:
        return

    def edge(name: str) -> list[float]:
        values: Any = edges.get(name) if isinstance(edges, dict) else None
        if (
            not isinstance(values, list)
            or len(values) != 3
            or not all(isinstance(each, int | float) for each in values)
            or not all(0 <= each <= LARGEST_STATISTIC for each in values)
        ):
            raise InvalidStore(
                f"{where}: {name} of stain_range of the header must be three numbers between 0 and "
                f"{LARGEST_STATISTIC}, got {values!r}; train the model again"
            )
        return list(values)

    for kind in ("mean", "spread"):
        low, high = edge(f"{kind}_low"), edge(f"{kind}_high")
        if any(one > two for one, two in zip(low, high, strict=True)):
            raise InvalidStore(
                f"{where}: {kind}_low of stain_range of the header must not exceed {kind}_high, "
                f"got {low} and {high}; train the model again"
            )


def _check_known_stains(known: Any, where: Path) -> None:
    """Raise ``InvalidStore`` if ``known_stains`` of a header is neither None nor the statistics of
    references, six numbers each, with a limit.
    """
    if known is None:
        return
    try:
        rows = np.array(known["statistics"], np.float64)
        good = rows.ndim == 2 and rows.shape[1] == 6 and len(rows) > 0 and np.isfinite(rows).all()
        good = good and 0 < float(known["limit"]) < np.inf
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise InvalidStore(
            f"{where}: known_stains of the header must hold six finite numbers for each reference "
            "and a limit above 0; train the model again"
        )


def write_model(path: Path, tensors: Mapping[str, torch.Tensor], header: ModelHeader) -> None:
    """Write a model file; replaces a file at ``path``.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to torch.Tensor
        A state dict, from any device.
    header : ModelHeader

    Raises
    ------
    OutOfResources
        The disk is full or the place cannot be written.
    StoreExists
        ``path`` is a folder.
    """
    write_tensors(path, tensors, header.to_json())


def read_model(path: Path) -> tuple[ModelHeader, dict[str, torch.Tensor]]:
    """Read the header and the tensors, on the CPU, of a model file.

    Raises ``StoreNotFound`` for a missing file, and ``InvalidStore`` for a pickle and for a file
    that is truncated, was not written by histosynth, or breaks a rule of the contract.
    """
    header = read_model_header(path)
    return header, read_tensors(path)


def read_model_header(path: Path) -> ModelHeader:
    """Read the header of a model file; neither its tensors nor torch are loaded."""
    return ModelHeader.from_json(read_header(path, CONTRACT, "model"), path)


def count_parameters(path: Path) -> int:
    """Return the number of values in all tensors of a model file, buffers included."""
    return count_values(path, "model")


def prepare_model_output(
    target: Path, *, config_hash: str, resume: bool, overwrite: bool, dry_run: bool = False
) -> Action:
    """Apply the rerun rule to a model file; a checkpoint stands for the partial store.

    The rule is that of :func:`histocli.stores.rerun.prepare_output`. On ``"create"``, except in a
    dry run, any checkpoint is removed; :func:`write_model` replaces an older model at the end.
    """
    check_parents(target)
    try:
        finished = read_model_header(target).provenance
    except (StoreNotFound, InvalidStore):
        finished = None
    partial, begun = None, checkpoint_hash(target)
    # A checkpoint with the hash of the finished model is left over from its training.
    if begun is not None and (finished is None or finished.config_hash != begun):
        partial = Provenance(contract=CONTRACT, command="train", config={}, config_hash=begun)
    action = rerun_rule(
        target,
        contract=CONTRACT,
        config_hash=config_hash,
        finished=finished,
        partial=partial,
        resume=resume,
        overwrite=overwrite,
    )
    if action == "create" and not dry_run:
        remove_checkpoint(target)
    return action
