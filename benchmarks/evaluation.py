"""How fast labels are compared: one image beside other people's implementations, and a whole slide.

    python benchmarks/evaluation.py image [--runs 5]
    python benchmarks/evaluation.py slide [--nuclei 1000000] [--keep FOLDER]

``image``: PQ, AJI and AJI+ of a 1,000 x 1,000 image with 700 nuclei, and everything that
``evaluate`` measures, beside PQ of torchmetrics, cellseg-metrics and, where it is installed (``pip
install histosynth[bench]``), stardist; the least of several runs of each, one thread. What they
find is compared too.

``slide``: two OME-Zarr label images with a million nuclei of about 290 px, 23 % of the pixels,
written in the chunks and shards of a label store, and ``histosynth evaluate`` over them in a
process of its own: seconds of the whole command, seconds of all processors together, and the
largest resident memory. Nuclei lie across chunks and shards.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import zarr
from zarr.codecs import ZstdCodec

PERIOD_PX = 2000  # of the pattern; the shards have 2048, so nuclei lie across them everywhere
PER_PERIOD = 3150
PATTERNS = 6
SHARD_PX, CHUNK_PX = 2048, 512


def draw(seed: int, side: int, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Draw ellipses on a jittered grid, and a prediction with moved, resized, missed, false, split
    and merged ones.
    """
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros((side, side), np.int32), np.zeros((side, side), np.int32)
    per_row = int(np.ceil(np.sqrt(n)))
    step = side / per_row
    found = 0
    for k in range(n):
        centre = (np.array(divmod(k, per_row)) + 0.5 + rng.uniform(-0.25, 0.25, 2)) * step
        axes, turn, fate = rng.uniform(6.5, 12.5, 2), rng.uniform(0, 180), rng.random()

        def ellipse(
            canvas: np.ndarray[Any, Any],
            label: int,
            y: float,
            x: float,
            a: float,
            b: float,
            turn: float = turn,
        ) -> None:
            cv2.ellipse(
                canvas,
                ((float(x), float(y)), (2 * float(a), 2 * float(b)), float(turn)),
                int(label),
                -1,
            )

        if fate > 0.06:
            ellipse(truth, k + 1, *centre, *axes)
        if fate < 0.92:
            found += 1
            moved, grown = centre + rng.normal(0, 1.2, 2), axes * rng.uniform(0.85, 1.15, 2)
            ellipse(prediction, found, *moved, *grown)
            if fate > 0.87:
                found += 1
                ellipse(prediction, found, *(moved + 5), *(grown * 0.7))
    return truth, prediction


def least(function: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """Return the least seconds of several runs, and the result."""
    best, result = float("inf"), None
    for _ in range(runs):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def image(runs: int) -> dict[str, Any]:
    """Time one image beside other implementations."""
    import torch

    from histocli.metrics.comparison import compare
    from histocli.metrics.counts import count

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    truth, prediction = draw(0, 1000, 700)
    seconds: dict[str, float] = {}
    pq: dict[str, float] = {}
    seconds["histosynth: PQ, AJI, AJI+ and all other overlaps"], counts = least(
        lambda: count(truth, prediction), 4 * runs
    )
    pq["histosynth"] = counts.panoptic_quality
    seconds["histosynth: with centroids, boundaries, Hausdorff"], _ = least(
        lambda: compare(truth, prediction), 4 * runs
    )
    from torchmetrics.functional.detection import panoptic_quality

    pair = [
        torch.from_numpy(np.stack([each > 0, each], axis=-1).astype(np.int64))[None]
        for each in (prediction, truth)
    ]
    seconds["torchmetrics: PQ"], found = least(
        lambda: panoptic_quality(*pair, things={1}, stuffs={0}, return_per_class=True), runs
    )
    pq["torchmetrics"] = float(found[0, 0])
    import cellseg_metrics

    seconds["cellseg-metrics: PQ"], found = least(
        lambda: cellseg_metrics.panoptic_quality(truth, prediction), min(runs, 2)
    )
    pq["cellseg-metrics"] = float(found["pq"])
    seconds["cellseg-metrics: AJI"], _ = least(
        lambda: cellseg_metrics.aggregated_jaccard_index(truth, prediction), 1
    )
    try:
        from stardist.matching import matching
    except ImportError:
        print("stardist is not installed and left out", file=sys.stderr)
    else:
        seconds["stardist: PQ"], found = least(lambda: matching(truth, prediction), runs)
        pq["stardist"] = float(found.panoptic_quality)
    assert max(pq.values()) - min(pq.values()) < 1e-5, pq
    ours = seconds["histosynth: PQ, AJI, AJI+ and all other overlaps"]
    return {
        "truth": counts.n_truth,
        "prediction": counts.n_prediction,
        "pq": {name: round(value, 6) for name, value in pq.items()},
        "milliseconds": {name: round(1000 * value, 2) for name, value in seconds.items()},
        "times_as_long": {name: round(value / ours, 1) for name, value in seconds.items()},
    }


def write(folder: Path, nuclei: int) -> tuple[list[Path], int]:
    """Write the two label images shard by shard; returns their paths and the side."""
    periods = int(np.ceil(np.sqrt(nuclei / (0.94 * PER_PERIOD))))
    side = periods * PERIOD_PX
    patterns = [draw(seed, PERIOD_PX, PER_PERIOD) for seed in range(PATTERNS)]
    paths = [folder / "prediction.ome.zarr", folder / "truth.ome.zarr"]
    for which, path in ((1, paths[0]), (0, paths[1])):
        if path.exists():
            continue
        root = zarr.open_group(path, mode="w", zarr_format=3)
        folder_group = root.create_group(
            "labels", attributes={"ome": {"version": "0.5", "labels": ["nuclei"]}}
        )
        axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
        datasets = [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.25, 0.25]}]}
        ]
        group = folder_group.create_group(
            "nuclei",
            attributes={
                "ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
            },
        )
        array = group.create_array(
            "0",
            shape=(side, side),
            dtype="uint32",
            chunks=(CHUNK_PX, CHUNK_PX),
            shards=(SHARD_PX, SHARD_PX),
            compressors=ZstdCodec(level=3),
            fill_value=0,
        )
        for top in range(0, side, SHARD_PX):
            for left in range(0, side, SHARD_PX):
                height, width = min(SHARD_PX, side - top), min(SHARD_PX, side - left)
                tile = np.zeros((height, width), np.uint32)
                for row in range(top // PERIOD_PX, -(-(top + height) // PERIOD_PX)):
                    for column in range(left // PERIOD_PX, -(-(left + width) // PERIOD_PX)):
                        number = row * periods + column
                        y0, y1 = max(top, row * PERIOD_PX), min(top + height, (row + 1) * PERIOD_PX)
                        x0, x1 = (
                            max(left, column * PERIOD_PX),
                            min(left + width, (column + 1) * PERIOD_PX),
                        )
                        pattern = patterns[number * 7 % PATTERNS][which]
                        part = pattern[
                            y0 - row * PERIOD_PX : y1 - row * PERIOD_PX,
                            x0 - column * PERIOD_PX : x1 - column * PERIOD_PX,
                        ]
                        tile[y0 - top : y1 - top, x0 - left : x1 - left] = np.where(
                            part > 0, part + number * 2 * PER_PERIOD, 0
                        )
                array[top : top + height, left : left + width] = tile
    return paths, side


def slide(nuclei: int, folder: Path, workers: int) -> dict[str, Any]:
    """Time the whole command over two label images, with and without boundaries."""
    paths, side = write(folder, nuclei)
    row: dict[str, Any] = {"side_px": side, "workers": workers}
    for name, words in (("all", ()), ("without boundaries", ("--no-boundaries",))):
        command = [
            sys.executable,
            "-m",
            "histocli",
            "evaluate",
            *map(str, paths),
            "--json",
            "-q",
            "--workers",
            str(workers),
            *words,
        ]
        start = time.perf_counter()
        with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out) as process:
            watched, largest, busy = psutil.Process(process.pid), 0, 0.0
            while process.poll() is None:
                try:
                    largest = max(largest, watched.memory_info().rss)
                    busy = sum(watched.cpu_times()[:2])
                except psutil.Error:
                    break
                time.sleep(0.05)
            process.wait()
            seconds = time.perf_counter() - start
            out.seek(0)
            found = json.loads(out.read())["images"][0]
        row[name] = {
            "seconds": round(seconds, 1),
            "processor_seconds": round(busy, 1),
            "largest_gib": round(largest / 2**30, 2),
        }
        row |= {key: found[key] for key in ("n_truth", "n_prediction", "pq", "aji", "aji_plus")}
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("image", "slide"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--keep", type=Path, help="folder where the slides are kept and found again"
    )
    options = parser.parse_args()
    if options.what == "image":
        row = image(options.runs)
    elif options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        row = slide(options.nuclei, options.keep, options.workers)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            row = slide(options.nuclei, Path(scratch), options.workers)
    print(
        json.dumps(
            row
            | {
                "cpus": len(os.sched_getaffinity(0))
                if hasattr(os, "sched_getaffinity")
                else os.cpu_count()
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
