"""The choice of the backend that runs the network: PyTorch, or OpenVINO (extra ``fast``).

A store records the backend that it was begun with. Backends round differently, so an unfinished
store is finished by the same one; ``auto`` measures only for slides that are begun.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from histocli.base.device import resolve_precision
from histocli.base.errors import InvalidOption, StoreExists
from histocli.base.files import partial_path
from histocli.base.formats import ATTRIBUTE
from histocli.base.interrupts import raise_if_stopped
from histocli.base.system import available_cpus
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.stores.provenance import read_metadata

if TYPE_CHECKING:
    import torch

    from histocli.model.adaptation import Adaptation
    from histocli.model.backends import TileNetwork
    from histocli.model.unet import Segmenter

STOPPED = "segment: stopped; what was finished is kept, the same command goes on"
TORCH, OPENVINO = "torch", "openvino"
LARGEST_TILE_PX = {TORCH: 8192, OPENVINO: 2400}
"""Largest side of a tile's core. OpenVINO computes a tile as a whole, PyTorch in bands; two by two
of the smaller tiles make up a block."""
PROBE_PX = 320  # side of the tile that backends are timed on


class Settings(NamedTuple):
    """Settings whose backend is decided, or ``auto`` where it has to be measured."""

    config: SegmentConfig
    execution: Execution


class WithStore(Protocol):
    """A job, as far as the choice of its backend needs to know it."""

    store: Path
    """Its label store."""


AnyJob = TypeVar("AnyJob", bound=WithStore)


class Backend(NamedTuple):
    """A backend with the network that it runs."""

    name: str
    """``torch``, or ``openvino-`` and its precision; recorded in stores."""
    network: TileNetwork | None
    """None for PyTorch, which makes its network from the present weights."""

    @property
    def largest_tile_px(self) -> int:
        """Largest side of a tile's core, in pixels."""
        return LARGEST_TILE_PX[self.name.partition("-")[0]]

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format that tells how much memory the network takes; None for PyTorch."""
        import torch

        if self.network is None:
            return None
        return torch.float32 if self.name.endswith("fp32") else torch.bfloat16


def check_backend(config: SegmentConfig, execution: Execution) -> None:
    """Raise ``InvalidOption`` where the chosen backend cannot do what is asked for."""
    if config.runner != OPENVINO:
        if execution.precision == "int8":
            raise InvalidOption("--precision int8 is for --backend openvino; choose fp32 or bf16")
        return
    if not _is_installed():
        raise InvalidOption(
            "--backend openvino needs the optional package openvino: "
            "pip install 'histosynth[fast]', or choose torch"
        )
    if execution.device not in ("auto", "cpu"):
        raise InvalidOption(
            f"--backend openvino runs on the processor, but --device is {execution.device}; "
            "give --device cpu, or choose torch"
        )
    if execution.precision not in ("auto", "fp32", "bf16", "int8"):
        raise InvalidOption(
            "--precision must be auto, fp32, bf16 or, with --backend openvino, int8, "
            f"got {execution.precision!r}"
        )


def _is_installed() -> bool:
    return importlib.util.find_spec(OPENVINO) is not None


def by_backend(
    jobs: Sequence[AnyJob],
    config: SegmentConfig,
    execution: Execution,
    failures_of: Callable[[AnyJob], AbstractContextManager[None]],
) -> list[tuple[Settings, list[AnyJob]]]:
    """Group jobs by backend: unfinished stores by the one that began them.

    Where the user asks for another one, the job raises ``StoreExists`` in the context that
    ``failures_of`` returns for it.
    """
    groups: dict[Settings, list[AnyJob]] = {}
    for job in jobs:
        with failures_of(job):
            begun = begun_by(job.store)
            settings = Settings(config, execution)
            if begun is not None:
                settings = _as_begun(settings, begun, job.store)
            groups.setdefault(settings, []).append(job)
    return list(groups.items())


def begun_by(store: Path) -> str | None:
    """Return the backend of an unfinished store; None if there is no such store."""
    try:
        facts = read_metadata(partial_path(store))["attributes"][ATTRIBUTE]
        return str(facts["model"].get("backend", TORCH))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _as_begun(settings: Settings, begun: str, store: Path) -> Settings:
    """Return the settings with which a store was begun."""
    config, execution = settings
    name, _, precision = begun.partition("-")
    differs = precision and execution.precision not in ("auto", precision)
    if config.runner not in ("auto", name) or (name == OPENVINO and differs):
        words = f"--backend {name}" + (f" --precision {precision}" if precision else "")
        raise StoreExists(
            f"{store}: was begun with {words}, and an output has one backend; "
            "go on with the same, or begin anew with --overwrite"
        )
    return decided(settings, begun)


def decided(settings: Settings, backend: str) -> Settings:
    """Return settings that ask for a backend, given the name that a store records."""
    name, _, precision = backend.partition("-")
    config, execution = settings
    config = replace(config, backend=name)
    if precision:
        execution = replace(execution, precision=precision)
    return Settings(config, execution)


def choose(
    segmenter: Segmenter, device: torch.device, settings: Settings, adaptation: Adaptation | None
) -> Backend:
    """Return the backend for a segmenter; ``auto`` measures which one is faster."""
    config, execution = settings
    check_backend(config, execution)
    can_be_openvino = device.type == "cpu" and _is_installed()
    if config.runner == TORCH or not can_be_openvino:
        return Backend(TORCH, None)
    compiled = _compiled(segmenter, device, execution, adaptation)
    if config.runner == OPENVINO:
        return compiled
    assert compiled.network is not None
    import torch

    from histocli.model.backends import fastest, in_bands

    dtype = resolve_precision(execution.precision, device)
    networks = {TORCH: in_bands(segmenter, dtype), compiled.name: compiled.network}
    tiles = torch.randint(
        0, 256, (1, PROBE_PX, PROBE_PX, 3), generator=torch.Generator().manual_seed(0)
    )
    name = fastest(networks, tiles.to(torch.uint8))
    return compiled if name == compiled.name else Backend(TORCH, None)


def _compiled(
    segmenter: Segmenter, device: torch.device, execution: Execution, adaptation: Adaptation | None
) -> Backend:
    import torch

    from histocli.model.compiled import CompiledNetwork

    precision = execution.precision
    if precision == "auto":
        # where bfloat16 is fast, it is as fast as integers and nearer to 32-bit floats
        is_fast = resolve_precision("auto", device) == torch.bfloat16
        precision = "bf16" if is_fast else "int8"
    network = CompiledNetwork(
        segmenter,
        precision,
        adaptation=adaptation,
        threads=min(torch.get_num_threads(), available_cpus()),
        between=lambda: raise_if_stopped(STOPPED),
    )
    return Backend(f"{OPENVINO}-{precision}", network)
