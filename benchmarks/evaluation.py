"""How fast labels are compared: one image beside other implementations, and a whole slide.

    python benchmarks/evaluation.py image [--runs 5]
    python benchmarks/evaluation.py slide [--nuclei 1000000] [--keep FOLDER]

``image`` compares an image of 1,000 x 1,000 pixels with 700 nuclei: PQ, AJI and AJI+ alone, and
everything that ``evaluate`` measures, beside PQ of torchmetrics, cellseg-metrics and, where it is
installed (``pip install histosynth[bench]``), stardist. It takes the least time of several runs of
each, in one thread, and checks that all find the same PQ.

``slide`` writes two OME-Zarr label images with a million nuclei of about 290 px, 23 % of the
pixels, in the chunks and shards of a label store; nuclei lie across chunks and shards. It runs
``histosynth evaluate`` over them in a process of its own, and prints the seconds of the whole
command, the seconds of all processors together, and the largest resident memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import psutil
import zarr
from zarr.codecs import ZstdCodec

from histocli.base.system import available_cpus

# Side of a pattern, in pixels. Shards have another, so that nuclei lie across their borders.
PERIOD_PX = 2000
# Nuclei that are drawn in a pattern, and patterns that are drawn.
PER_PERIOD, PATTERNS = 3150, 6
SHARD_PX, CHUNK_PX = 2048, 512
Labels = npt.NDArray[np.int32]
Vector = npt.NDArray[np.float64]


class Pair(NamedTuple):
    """Two label images."""

    truth: Labels
    prediction: Labels


def draw(seed: int, side: int, n: int) -> Pair:
    """Draw ellipses on a jittered grid, and a prediction in which they are moved and resized, and
    some are missed, false, split or merged.
    """
    rng = np.random.default_rng(seed)
    pair = Pair(np.zeros((side, side), np.int32), np.zeros((side, side), np.int32))
    per_row = int(np.ceil(np.sqrt(n)))
    step = side / per_row
    found = 0
    for k in range(n):
        centre = (np.array(divmod(k, per_row)) + 0.5 + rng.uniform(-0.25, 0.25, 2)) * step
        axes, turn, fate = rng.uniform(6.5, 12.5, 2), rng.uniform(0, 180), rng.random()
        if fate > 0.06:
            draw_ellipse(pair.truth, k + 1, centre, axes, turn)
        if fate < 0.92:
            found += 1
            place, grown = centre + rng.normal(0, 1.2, 2), axes * rng.uniform(0.85, 1.15, 2)
            draw_ellipse(pair.prediction, found, place, grown, turn)
            if fate > 0.87:
                found += 1
                draw_ellipse(pair.prediction, found, place + 5, grown * 0.7, turn)
    return pair


def draw_ellipse(
    canvas: Labels, label: int, centre: Vector, half_axes: Vector, turn: float
) -> None:
    """Fill an ellipse with a label."""
    y, x = centre.tolist()
    box = ((x, y), tuple((2 * half_axes).tolist()), turn)
    cv2.ellipse(canvas, box, label, -1)


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
    import cellseg_metrics
    import torch
    from torchmetrics.functional.detection import panoptic_quality

    from histocli.metrics.comparison import Rules, compare
    from histocli.metrics.counts import count

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    truth, prediction = draw(0, 1000, 700)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any], turns: int = runs) -> Any:
        seconds[name], result = least(function, turns)
        return result

    ours = "histosynth: PQ, AJI, AJI+ and all other overlaps"
    counts = timed(ours, lambda: count(truth, prediction), 4 * runs)
    everything = "histosynth: with centroids, boundaries, Hausdorff"
    timed(everything, lambda: compare(truth, prediction, Rules()), 4 * runs)
    tensors = [
        torch.from_numpy(np.stack([each > 0, each], axis=-1).astype(np.int64))[None]
        for each in (prediction, truth)
    ]
    classes = {"things": {1}, "stuffs": {0}, "return_per_class": True}
    theirs = timed("torchmetrics: PQ", lambda: panoptic_quality(*tensors, **classes))
    pq = {"histosynth": counts.panoptic_quality, "torchmetrics": float(theirs[0, 0])}
    theirs = timed(
        "cellseg-metrics: PQ",
        lambda: cellseg_metrics.panoptic_quality(truth, prediction),
        min(runs, 2),
    )
    pq["cellseg-metrics"] = float(theirs["pq"])
    timed(
        "cellseg-metrics: AJI",
        lambda: cellseg_metrics.aggregated_jaccard_index(truth, prediction),
        1,
    )
    try:
        from stardist.matching import matching
    except ImportError:
        print("stardist is not installed and left out", file=sys.stderr)
    else:
        theirs = timed("stardist: PQ", lambda: matching(truth, prediction))
        pq["stardist"] = float(theirs.panoptic_quality)
    assert max(pq.values()) - min(pq.values()) < 1e-5, pq
    return {
        "truth": counts.n_truth,
        "prediction": counts.n_prediction,
        "pq": {name: round(value, 6) for name, value in pq.items()},
        "milliseconds": {name: round(1000 * value, 2) for name, value in seconds.items()},
        "times_as_long": {name: round(value / seconds[ours], 1) for name, value in seconds.items()},
    }


class Slides(NamedTuple):
    """Two label images on disk."""

    truth: Path
    prediction: Path
    side_px: int


def write(folder: Path, nuclei: int) -> Slides:
    """Write the two label images, unless they are there."""
    periods = int(np.ceil(np.sqrt(nuclei / (0.94 * PER_PERIOD))))
    slides = Slides(folder / "truth.ome.zarr", folder / "prediction.ome.zarr", periods * PERIOD_PX)
    patterns = [draw(seed, PERIOD_PX, PER_PERIOD) for seed in range(PATTERNS)]
    for side, path in (("prediction", slides.prediction), ("truth", slides.truth)):
        if not path.exists():
            write_labels(path, [getattr(pair, side) for pair in patterns], periods)
    return slides


def write_labels(path: Path, patterns: list[Labels], periods: int) -> None:
    """Write a label image of patterns in rows and columns, shard by shard."""
    root = zarr.open_group(path, mode="w", zarr_format=3)
    about = {"version": "0.5", "labels": ["nuclei"]}
    labels = root.create_group("labels", attributes={"ome": about})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    scale = [{"type": "scale", "scale": [0.25, 0.25]}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    about = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    side = periods * PERIOD_PX
    array = labels.create_group("nuclei", attributes={"ome": about}).create_array(
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
            rows = slice(top, min(top + SHARD_PX, side))
            columns = slice(left, min(left + SHARD_PX, side))
            array[rows, columns] = shard_of(patterns, periods, rows, columns)


def shard_of(
    patterns: list[Labels], periods: int, rows: slice, columns: slice
) -> npt.NDArray[np.uint32]:
    """Cut a shard out of the patterns; the labels of each have numbers of their own."""
    shard = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
    for row in range(rows.start // PERIOD_PX, -(-rows.stop // PERIOD_PX)):
        for column in range(columns.start // PERIOD_PX, -(-columns.stop // PERIOD_PX)):
            number = row * periods + column
            y0, x0 = row * PERIOD_PX, column * PERIOD_PX
            here = (
                slice(max(rows.start, y0), min(rows.stop, y0 + PERIOD_PX)),
                slice(max(columns.start, x0), min(columns.stop, x0 + PERIOD_PX)),
            )
            part = patterns[number * 7 % PATTERNS][moved(here, y0, x0)]
            own = np.where(part > 0, part + number * 2 * PER_PERIOD, 0)
            shard[moved(here, rows.start, columns.start)] = own
    return shard


def moved(region: tuple[slice, slice], top: int, left: int) -> tuple[slice, slice]:
    """Return a region as seen from another corner."""
    rows, columns = region
    return (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )


def watched(command: list[str]) -> tuple[dict[str, float], Any]:
    """Run a command; return what it took and the JSON that it printed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out) as process:
        status, largest, busy = psutil.Process(process.pid), 0, 0.0
        while process.poll() is None:
            try:
                largest = max(largest, status.memory_info().rss)
                busy = sum(status.cpu_times()[:2])
            except psutil.Error:
                break
            time.sleep(0.05)
        process.wait()
        seconds = time.perf_counter() - start
        out.seek(0)
        found = json.loads(out.read())
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(busy, 1),
        "largest_gib": round(largest / 2**30, 2),
    }, found


def slide(nuclei: int, folder: Path, workers: int) -> dict[str, Any]:
    """Time the whole command over two label images, with and without boundaries."""
    slides = write(folder, nuclei)
    row: dict[str, Any] = {"side_px": slides.side_px, "workers": workers}
    command = [sys.executable, "-m", "histocli", "evaluate"]
    command += [str(slides.prediction), str(slides.truth)]
    command += ["--json", "-q", "--workers", str(workers)]
    for name, words in (("all", []), ("without boundaries", ["--no-boundaries"])):
        row[name], found = watched(command + words)
        scores = found["images"][0]
        row |= {key: scores[key] for key in ("n_truth", "n_prediction", "pq", "aji", "aji_plus")}
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
    print(json.dumps(row | {"cpus": available_cpus()}, indent=2))


if __name__ == "__main__":
    main()
