"""Speed on this machine: patches a second, the bare network, and segmentation end to end beside it
in the same run.

    python benchmarks/speed.py --reference SLIDE [--model MODEL] [--runs 3] [--patches 0]

Absolute numbers depend on the machine and on what else it does; the ratio of end to end to the bare
network is the one to compare. The median of the runs is appended to ``--results`` with the
processor's or the GPU's name. ``steps`` are processor seconds of each step of the last run, without
those of the network's own threads; steps overlap. With ``--patches 0`` none are drawn.
"""

import argparse
import functools
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histocli.base.device import cpu_flags, resolve_device, resolve_precision
from histocli.base.progress import Bar
from histocli.base.system import available_cpus
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.config.segment import SegmentConfig
from histocli.config.train import TrainConfig
from histocli.inference.predict import Predictor
from histocli.model.segmenter import build_segmenter
from histocli.slides.open import read_image
from histocli.slides.resampling import ResampledSlide, resample
from histocli.stages.generate.run import generate
from histocli.stages.segment import opened, view
from histocli.stages.segment.run import segment
from histocli.stages.train.run import train
from histocli.stores.models import read_model

ROOT = Path(__file__).resolve().parent.parent
TILE_PX = 1024


class Stages:
    """A track that notes how long each task of a stage took, and from when its first item was
    done.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.items: dict[str, int] = {}

    @contextmanager
    def __call__(self, description: str, total: int | None) -> Iterator[Bar]:
        """Time a task."""
        clock = _Clock()
        yield clock
        self.seconds[description] = clock.last - (clock.first or clock.last)
        self.items[description] = clock.later


class _Clock:
    def __init__(self) -> None:
        self.first: float | None = None
        self.last = time.perf_counter()
        self.later = 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Note the time; what came with the first item is start-up and does not count."""
        if steps == 0:
            return
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        else:
            self.later += steps


def processor() -> str:
    """Name the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def draw(reference: Path, folder: Path, patches: int, run: int, device: str) -> float:
    """Return patches a second once the workers run (256 px, 0.25 um/px)."""
    stages = Stages()
    config = GenerateConfig(n=patches, reference_mpp=0.25, seed=run)
    generate(
        [str(reference)], folder / f"{run}.zarr", config, Execution(device=device), track=stages
    )
    return stages.items["drawing patches"] / stages.seconds["drawing patches"]


def bare_network(predictor: Predictor, pixels: np.ndarray[Any, Any]) -> float:
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
    """Processor seconds that the steps of segmentation take, over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        for owner, name, step in (
            (ResampledSlide, "read", "read"),
            (Predictor, "instances", "decode"),
            (view, "window_to_runs", "keep"),
            (opened, "make_store", "store"),
        ):
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
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "speed.jsonl"
    )
    options = parser.parse_args()
    device = resolve_device(options.device)
    dtype = resolve_precision("auto", device)
    rates: dict[str, list[float]] = {
        "patches_per_s": [],
        "network_mpx_per_s": [],
        "segment_mpx_per_s": [],
        "ratio": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rates["patches_per_s"] = [
            draw(options.reference, folder, options.patches, run, options.device)
            for run in range(options.runs if options.patches else 0)
        ]
        model = options.model
        if model is None:
            model = folder / "model.safetensors"
            train(
                [str(folder / "0.zarr")],
                model,
                TrainConfig(steps=150),
                Execution(device=options.device),
            )
        header, tensors = read_model(model)
        segmenter = build_segmenter(header.architecture)
        segmenter.load_state_dict(tensors)
        predictor = Predictor(segmenter, mpp=header.mpp, device=device, dtype=dtype)
        image = read_image(options.reference, mpp=options.mpp)
        pixels = resample(image.pixels, options.mpp, header.mpp)
        megapixels = pixels.shape[0] * pixels.shape[1] / 1e6
        steps, processor_s, wall_s = Steps(), 0.0, 0.0
        # a warm process is meant, so the first run of both is not counted
        for run in range(options.runs + 1):
            network = bare_network(predictor, pixels)
            steps.seconds.clear()
            processor_s, start = time.process_time(), time.perf_counter()
            config = SegmentConfig(formats=("ome-zarr",), mpp=options.mpp)
            results = segment(
                [str(options.reference)],
                model,
                folder / f"out{run}",
                config,
                Execution(device=options.device),
            )
            wall_s, processor_s = time.perf_counter() - start, time.process_time() - processor_s
            whole = megapixels / wall_s
            if run:
                rates["network_mpx_per_s"].append(network)
                rates["segment_mpx_per_s"].append(whole)
                rates["ratio"].append(whole / network)
        nuclei = results[0].nuclei
    mm2 = megapixels * header.mpp**2
    row = {
        name: round(statistics.median(values), 2) for name, values in rates.items() if values
    } | {
        "mm2_per_s": round(statistics.median(rates["segment_mpx_per_s"]) * header.mpp**2, 3),
        "mm2": round(mm2, 2),
        "steps": {name: round(seconds, 2) for name, seconds in steps.seconds.items()}
        | {"all": round(processor_s, 2)},
        "megapixels": round(megapixels, 2),
        "nuclei": nuclei,
        "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "amx": "amx_bf16" in cpu_flags(),
        "cpus": available_cpus(),
        "torch": torch.__version__,
        "reference": options.reference.name,
    }
    print(json.dumps(row, indent=2))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
