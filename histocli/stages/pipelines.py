"""A segmenter that is ready to run: read, on its devices, with tiles and blocks that fit into the memory that is allowed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from histocli.base.device import resolve_device, resolve_precision
from histocli.base.errors import OutOfResources
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.inference.pipeline import WINDOW_HALO_UM, WINDOW_PX, Pipeline
from histocli.inference.predict import Predictor
from histocli.instances.targets import Thresholds
from histocli.model.segmenter import build_segmenter
from histocli.stages.common import prepare_process
from histocli.stores.models import ModelHeader, read_model

BLOCK_WINDOWS = 2  # windows along a side of a block: a larger one costs memory, a smaller one sees more of its surroundings twice
BASE_BYTES = 420e6  # interpreter and libraries
BYTES_PER_TILE_PX = 110  # of the network's inner layers, for the smallest model in float32
BYTES_PER_BLOCK_PX = 40  # pixels, maps and what decoding needs of a block, with the parts that wait
CUDA_BATCH_PX = 16_000_000


@dataclass(frozen=True)
class LoadedModel:
    """The model and how it is run."""

    header: ModelHeader
    facts: Json
    pipelines: list[Pipeline]
    """One a device; on the CPU, one."""
    block_windows: int
    workers: int

    @property
    def mpp(self) -> float:
        """Micrometres per pixel that it works at."""
        return self.header.mpp


def load_model(
    path: Path, header: ModelHeader, facts: Json, config: SegmentConfig, execution: Execution, stack: ExitStack
) -> LoadedModel:
    """Read a model and make a pipeline for each device; those are closed with ``stack``."""
    import torch

    prepare_process()
    first = resolve_device(execution.device)
    devices = [first]
    if execution.device in ("auto", "cuda") and first.type == "cuda":
        devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    _, tensors = read_model(path)
    workers = resolve_workers(execution.workers)
    tile_px, block_windows = fit_to_memory(config, header)
    pipelines = []
    for device in devices:
        segmenter = build_segmenter(header.architecture)
        segmenter.load_state_dict(tensors)
        dtype = resolve_precision(execution.precision, device)
        predictor = Predictor(segmenter, mpp=header.mpp, device=device, dtype=dtype, thresholds=Thresholds(**header.thresholds))
        batch = {"batch_px": CUDA_BATCH_PX} if device.type == "cuda" else {}
        pipelines.append(stack.enter_context(Pipeline(predictor, tile_px=tile_px, workers=workers, **batch)))
    return LoadedModel(header, facts, pipelines, block_windows, workers)


def fit_to_memory(config: SegmentConfig, header: ModelHeader) -> tuple[int, int]:
    """Choose the side of network tiles and the windows along a side of a block, such that ``max_memory_gb`` is obeyed.

    Raises
    ------
    OutOfResources
        The smallest of them need more.
    """
    if config.max_memory_gb is None:
        return config.tile_px, BLOCK_WINDOWS
    for windows, tile_px in ((2, 2048), (2, 1024), (1, 1024), (1, 512), (1, 256)):
        if expected_memory(min(tile_px, config.tile_px), windows, header) <= config.max_memory_gb * 1e9:
            return min(tile_px, config.tile_px), windows
    least = expected_memory(256, 1, header) / 1e9
    raise OutOfResources(f"--max-memory {config.max_memory_gb:g}: this model needs {least:.1f} gigabytes at least; give more")


def expected_memory(tile_px: int, block_windows: int, header: ModelHeader) -> float:
    """Return the bytes that the process is expected to take at most, whatever the slide."""
    channels = list(header.architecture.get("channels", [16]))
    width = max(1.0, float(channels[0]) / 16)
    halo = 7.0 * 2 ** len(channels)
    side: float = block_windows * WINDOW_PX + 2 * WINDOW_HALO_UM / header.mpp
    tile = min(tile_px, side) + 2 * halo
    expected: float = BASE_BYTES + BYTES_PER_TILE_PX * width * tile * tile + BYTES_PER_BLOCK_PX * (side + 2 * halo) ** 2
    return expected
