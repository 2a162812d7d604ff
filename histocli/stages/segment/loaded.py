"""Load a segmenter onto its devices, and choose tiles and blocks that fit into memory.

A block is a group of windows (areas in which nuclei are found) that are read together; a tile is
the area that the network sees at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histocli.base.device import prepare_process, resolve_device, resolve_precision
from histocli.base.errors import OutOfResources
from histocli.base.interrupts import raise_if_stopped
from histocli.base.memory import share_freed_memory
from histocli.base.system import resolve_workers
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.inference.blocks import BlockGrid
from histocli.inference.pipeline import BATCH_PX, Pipeline, expected_memory
from histocli.model.adaptation import Adaptation, adaptation_of
from histocli.model.known_stains import KnownStains, known_stains_of
from histocli.stages.segment.backend import OPENVINO, STOPPED, Settings, choose
from histocli.stores.models import ModelHeader, read_model

if TYPE_CHECKING:
    import torch

    from histocli.model.unet import Segmenter

BLOCK_WINDOWS = 3
"""Windows along a side of a block. Larger blocks take more memory; of smaller blocks, a larger
share is read and computed twice."""
CUDA_BATCH_PX = 16_000_000  # pixels of the tiles that go through a GPU together
SMALLER = ((2, 8192), (2, 2048), (1, 2048), (1, 1024), (1, 512), (1, 256))
"""Windows along a side of a block, and side of a tile in pixels, where memory is limited; the
fastest choice first."""


@dataclass(frozen=True)
class LoadedModel:
    """The model and how it is run."""

    header: ModelHeader
    pipelines: list[Pipeline]
    """One for each GPU, or one for the CPU."""
    block_windows: int
    """Windows along a side of a block."""
    expected_bytes: float
    """Largest number of bytes that the process is expected to take."""
    workers: int
    """Threads that decode and paint."""
    adaptation: Adaptation | None
    """How slides of a stain that the model does not know are changed; None leaves them."""
    backend: str
    """What runs the network: ``torch``, or ``openvino-`` and a precision."""

    @property
    def known_stains(self) -> KnownStains | None:
        """Stains of the model's references; None for models of earlier versions."""
        return known_stains_of(self.header.normalisation)

    @property
    def mpp(self) -> float:
        """Micrometres per pixel that the model works at."""
        return self.header.mpp

    def grid(self, shape: tuple[int, int]) -> BlockGrid:
        """Return the blocks of a slide of this height and width."""
        return self.pipelines[0].block_grid(shape, self.block_windows)


def load_model(
    path: Path, header: ModelHeader, config: SegmentConfig, execution: Execution, stack: ExitStack
) -> LoadedModel:
    """Read a model and make a pipeline for each device.

    Parameters
    ----------
    stack : ExitStack
        Closes the pipelines.

    Raises
    ------
    StoreNotFound, InvalidStore
        As in :func:`histocli.stores.models.read_model`.
    OutOfResources
        The device does not exist, or the model needs more than ``max_memory``.
    """
    # late: a command that finds nothing to do loads no network
    from histocli.inference.predict import Predictor
    from histocli.instances.targets import Thresholds

    prepare_process()
    share_freed_memory()
    devices = _devices("cpu" if config.runner == OPENVINO else execution.device)
    networks = [_read_network(path, header) for _ in devices]
    adaptation = adaptation_of(header.normalisation)
    backend = choose(networks[0], devices[0], Settings(config, execution), adaptation)
    dtypes = [backend.dtype or resolve_precision(execution.precision, each) for each in devices]
    config = replace(config, tile_px=min(config.tile_px, backend.largest_tile_px))

    def needed(windows: int, side: int, workers: int) -> float:
        about = (networks[0], header.mpp, windows, side, workers, dtypes[0].itemsize)
        return expected_memory(*about, compiled=backend.network is not None)

    workers = _workers_that_fit(config, execution, partial(needed, *SMALLER[-1]))
    expected = partial(needed, workers=workers)
    block_windows, tile_px = fit_to_memory(config, expected, workers)
    predict = partial(
        Predictor,
        mpp=header.mpp,
        thresholds=Thresholds(**header.thresholds).for_views(config.orientations),
        views=config.orientations,
        between=lambda: raise_if_stopped(STOPPED),
        compiled=backend.network,
    )
    pipelines = []
    for network, device, dtype in zip(networks, devices, dtypes, strict=True):
        batch_px = CUDA_BATCH_PX if device.type == "cuda" else BATCH_PX
        about = {"tile_px": tile_px, "workers": workers, "batch_px": batch_px}
        pipeline = Pipeline(predict(network, device=device, dtype=dtype), **about)
        pipelines.append(stack.enter_context(pipeline))
    return LoadedModel(
        header,
        pipelines,
        block_windows,
        expected(block_windows, tile_px),
        workers,
        adaptation if config.adapt == "stain" else None,
        backend.name,
    )


def _workers_that_fit(
    config: SegmentConfig, execution: Execution, least: Callable[[int], float]
) -> int:
    """Return the number of workers, fewer than wanted if the least bytes for them are too many."""
    workers = resolve_workers(execution.workers)
    allowed = np.inf if config.max_memory is None else config.max_memory * 1e9
    while workers > 1 and least(workers) > allowed:
        workers -= 1
    return workers


def _read_network(path: Path, header: ModelHeader) -> Segmenter:
    """Read the network of a model."""
    from histocli.model.segmenter import build_segmenter

    _, tensors = read_model(path)
    network = build_segmenter(header.architecture)
    network.load_state_dict(tensors)
    return network.eval()


def _devices(name: str) -> list[torch.device]:
    """Return the devices that a name stands for: all GPUs, or one device."""
    import torch

    first = resolve_device(name)
    if name in ("auto", "cuda") and first.type == "cuda":
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [first]


def fit_to_memory(
    config: SegmentConfig, expected: Callable[[int, int], float], workers: int
) -> tuple[int, int]:
    """Choose the number of windows along a side of a block and the side of a tile in pixels, such
    that the expected bytes stay within ``max_memory``.

    Raises
    ------
    OutOfResources
        The smallest choice needs more.
    """
    choices = [(BLOCK_WINDOWS, config.tile_px)]
    choices += [(windows, min(side, config.tile_px)) for windows, side in SMALLER]
    if config.max_memory is None:
        return choices[0]
    for choice in choices:
        if expected(*choice) <= config.max_memory * 1e9:
            return choice
    least = expected(*choices[-1]) / 1e9
    raise OutOfResources(
        f"--max-memory {config.max_memory:g}: this model needs {least:.1f} gigabytes at least "
        f"with {workers} workers; give more memory or fewer --workers"
    )
