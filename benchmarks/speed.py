"""Speed on this machine: synthesis, the bare network, and the whole segmentation in the same run.

    python benchmarks/speed.py --reference SLIDE [--model MODEL] [--runs 3] [--patches 0]
                               [--backend torch] [--precision auto]

Absolute figures depend on the machine and on what else it does. The ``ratio`` of segmentation, from
file to label store, to the bare network is the figure to compare. The median of the runs is
appended to ``--results`` with the name of the processor or of the GPU. ``steps`` are the processor
seconds that each step of the last run took, without those of the network's own threads; steps
overlap. With ``--patches 0`` no patches are drawn. ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI`` or
``AVX2_VNNI`` hides the newer instructions of a processor from both backends.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rows import RESULTS, Row, append_rows

from histocli.base.device import cpu_flags, resolve_device, resolve_precision
from histocli.base.progress import Bar
from histocli.base.system import available_cpus
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.config.segment import SegmentConfig
from histocli.config.train import TrainConfig
from histocli.inference.predict import Predictor
from histocli.model.adaptation import adaptation_of
from histocli.model.segmenter import build_segmenter
from histocli.slides.open import read_image
from histocli.slides.resampling import ResampledSlide, resample
from histocli.stages.generate.run import generate
from histocli.stages.segment import slide_job, view
from histocli.stages.segment.backend import Backend, Settings, choose
from histocli.stages.segment.run import segment
from histocli.stages.train.run import train
from histocli.stores.models import read_model

# Side of the tiles that the bare network gets, in pixels.
TILE_PX = 1024
# Steps of training that make a model where none is given: its scores do not matter.
FEW_STEPS = 150
# The steps of the segmentation: the owner of a function, its name, and the name of the step.
STEPS: tuple[tuple[Any, str, str], ...] = (
    (ResampledSlide, "read", "read"),
    (Predictor, "instances", "decode"),
    (view, "to_slide", "keep"),
    (slide_job, "make_store", "store"),
)
Pixels = npt.NDArray[np.uint8]


class Work(NamedTuple):
    """What is to be segmented, with what and where."""

    reference: Path
    mpp: float
    model: Path
    pixels: Pixels
    """The whole image at the pixel size of the model."""
    predictor: Predictor
    execution: Execution
    backend: Backend
    folder: Path
    """Where outputs go."""


class Rates(NamedTuple):
    """Megapixels a second of one run."""

    network: float
    segment: float
    nuclei: int | None
    processor_s: float
    """Processor seconds of the segmentation, over all threads."""


class Clock:
    """A bar that measures how many items a second a task does after its first report.

    What is done until then is start-up, and does not count.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0
        self._items = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Note the time of some items."""
        if steps == 0:
            return
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last
        else:
            self._items += steps

    @property
    def per_second(self) -> float:
        """Items a second."""
        if not self._items:
            raise SystemExit("all items were done at the first report; measure more of them")
        return self._items / (self._last - (self._first or 0.0))


def processor() -> str:
    """Name the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def draw(reference: Path, store: Path, patches: int, seed: int, device: str) -> float:
    """Return patches a second once the workers run (256 px, 0.25 um/px)."""
    clocks: dict[str, Clock] = {}

    @contextmanager
    def track(description: str, total: int | None) -> Iterator[Bar]:
        clocks[description] = Clock()
        yield clocks[description]

    config = GenerateConfig(n=patches, reference_mpp=0.25, seed=seed)
    generate([str(reference)], store, config, Execution(device=device), track=track)
    return clocks["drawing patches"].per_second


def bare_network(predictor: Predictor, pixels: Pixels) -> float:
    """Return megapixels a second of the network alone on tiles in memory."""
    side = min(TILE_PX, *(length // 32 * 32 for length in pixels.shape[:2]))
    tiles = [
        np.ascontiguousarray(pixels[y : y + side, x : x + side])[None]
        for y in range(0, pixels.shape[0] - side + 1, side)
        for x in range(0, pixels.shape[1] - side + 1, side)
    ]
    predictor.maps(tiles[0])
    start = time.perf_counter()
    for tile in tiles:
        predictor.maps(tile)
    return sum(tile.size / 3 for tile in tiles) / 1e6 / (time.perf_counter() - start)


class Steps:
    """Processor seconds that the steps of segmentation take, over all threads.

    From then on the functions of the steps are timed, whoever calls them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        for owner, name, step in STEPS:
            setattr(owner, name, self._timed(getattr(owner, name), step))

    def _timed(self, function: Callable[..., Any], step: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    self.seconds[step] = self.seconds.get(step, 0.0) + time.thread_time() - start

        return timed


def segment_once(work: Work, run: int) -> Rates:
    """Time the bare network, and then the segmentation from file to label store."""
    network = bare_network(work.predictor, work.pixels)
    processor_s, start = time.process_time(), time.perf_counter()
    (result,) = segment(
        [str(work.reference)],
        work.model,
        work.folder / f"out{run}",
        SegmentConfig(mpp=work.mpp, backend=work.backend.name.partition("-")[0]),
        work.execution,
    )
    wall_s, processor_s = time.perf_counter() - start, time.process_time() - processor_s
    megapixels = work.pixels.size / 3 / 1e6
    return Rates(network, megapixels / wall_s, result.nuclei, processor_s)


def prepare(options: argparse.Namespace, folder: Path) -> Work:
    """Load the image and the model; without a model, a few steps of training make one."""
    device = resolve_device(options.device)
    model = options.model
    if model is None:
        model = folder / "model.safetensors"
        execution = Execution(device=options.device)
        train([str(folder / "0.zarr")], model, TrainConfig(steps=FEW_STEPS), execution)
    execution = Execution(device=options.device, precision=options.precision)
    header, tensors = read_model(model)
    segmenter = build_segmenter(header.architecture)
    segmenter.load_state_dict(tensors)
    wanted = Settings(SegmentConfig(backend=options.backend), execution)
    backend = choose(segmenter.eval(), device, wanted, adaptation_of(header.normalisation))
    dtype = backend.dtype or resolve_precision(options.precision, device)
    predictor = Predictor(
        segmenter, mpp=header.mpp, device=device, dtype=dtype, compiled=backend.network
    )
    image = read_image(options.reference, mpp=options.mpp)
    pixels = resample(image.pixels, options.mpp, header.mpp)
    return Work(
        options.reference, options.mpp, model, pixels, predictor, execution, backend, folder
    )


def measure(options: argparse.Namespace, folder: Path) -> Row:
    """Return the row of this machine."""
    device = resolve_device(options.device)
    drawn = [
        draw(options.reference, folder / f"{run}.zarr", options.patches, run, options.device)
        for run in range(options.runs if options.patches else 0)
    ]
    work, steps, rates = prepare(options, folder), Steps(), []
    for run in range(options.runs + 1):
        steps.seconds.clear()
        rates.append(segment_once(work, run))
    # A warm process is meant, so the first run is not counted.
    warm = rates[1:]
    speed = statistics.median(each.segment for each in warm)
    row: Row = {"patches_per_s": round(statistics.median(drawn), 2)} if drawn else {}
    return row | {
        "network_mpx_per_s": round(statistics.median(each.network for each in warm), 2),
        "segment_mpx_per_s": round(speed, 2),
        "ratio": round(statistics.median(each.segment / each.network for each in warm), 2),
        "mm2_per_s": round(speed * work.predictor.mpp**2, 3),
        "mm2": round(work.pixels.size / 3 / 1e6 * work.predictor.mpp**2, 2),
        "steps": {name: round(seconds, 2) for name, seconds in steps.seconds.items()}
        | {"all": round(rates[-1].processor_s, 2)},
        "megapixels": round(work.pixels.size / 3 / 1e6, 2),
        "nuclei": rates[-1].nuclei,
        "backend": work.backend.name,
        "precision": "bf16" if work.predictor.dtype == torch.bfloat16 else "fp32",
        "isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "amx": "amx_bf16" in cpu_flags(),
        "cpus": available_cpus(),
        "torch": torch.__version__,
        "reference": options.reference.name,
    }


def main() -> None:
    """Measure and append a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--reference", type=Path, required=True, help="a stained image, at least 1024 px a side"
    )
    parser.add_argument(
        "--model", type=Path, help="segmenter at --mpp; without one, a few steps make one"
    )
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--patches", type=int, default=640)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS / "speed.jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        row = measure(options, Path(scratch))
    print(json.dumps(row, indent=2))
    append_rows(options.results, row)


if __name__ == "__main__":
    main()
