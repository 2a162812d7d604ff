"""Memory and time at the scale of slides: peak memory against gigapixels, and the export of a
million nuclei.

    python benchmarks/scale.py memory --tissue SLIDE --gigapixels 1 4 [--model MODEL] [--max-memory
    2] python benchmarks/scale.py virtual --gigapixels 4 16 python benchmarks/scale.py export
    --nuclei 1000000 --format geojson csv parquet

``memory`` repeats a square of real tissue in a tiled JPEG TIFF with a coarse level and segments it
in a process of its own, by default with a network of two channels that takes dark for nucleus: what
is measured is all the rest. ``virtual`` needs no file: a reader that makes its pixels, a twelfth of
them tissue, and a network that only thresholds. ``export`` makes a label store of discs. Each
prints the process's peak resident memory (``ru_maxrss``) and appends a row to ``--results``.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TILE = 512
SQUARE = 2048
COARSE = 16
MPP = 0.25


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def repeated_slide(tissue: Path, path: Path, gigapixels: float) -> tuple[int, int]:
    """Write a pyramidal JPEG TIFF of one square of tissue, again and again; each tile is encoded
    once.
    """
    import imagecodecs
    import tifffile

    from histocli.base.pyramid import shrink
    from histocli.slides.open import read_image

    pixels = read_image(tissue, mpp=MPP).pixels
    square = np.tile(pixels, (2, 2, 1))[-SQUARE - 900 : -900, 400 : 400 + SQUARE]
    side = max(1, round((gigapixels * 1e9) ** 0.5 / SQUARE))

    def encoded(image: np.ndarray[Any, Any], repeats: int) -> Any:
        n = image.shape[0] // TILE
        tiles = [
            imagecodecs.jpeg8_encode(
                np.ascontiguousarray(image[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]),
                level=85,
            )
            for y in range(n)
            for x in range(n)
        ]
        return (tiles[(y % n) * n + x % n] for y in range(n * repeats) for x in range(n * repeats))

    coarse = np.tile(shrink(square, COARSE), (COARSE, COARSE, 1))[:SQUARE, :SQUARE]
    length = side * SQUARE
    rest = -(-length // COARSE)
    options = {"photometric": "rgb", "tile": (TILE, TILE), "compression": "jpeg", "dtype": np.uint8}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            encoded(square, side),
            shape=(length, length, 3),
            subifds=1,
            resolution=(1e4 / MPP, 1e4 / MPP),
            resolutionunit="CENTIMETER",
            **options,
        )
        small = np.tile(coarse, (-(-rest // SQUARE), -(-rest // SQUARE), 1))[:rest, :rest]
        tiff.write(small, subfiletype=1, **options)
    return length, length


def dark_model(path: Path) -> Path:
    """Write a segmenter of two channels that passes darkness on."""
    import torch

    from histocli.model.segmenter import build_segmenter
    from histocli.stores.models import ModelHeader, write_model

    architecture = {"family": "unet", "channels": [2, 2]}
    network = build_segmenter(architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4 or parameter is network.head.bias:
                parameter.zero_()
        network.stem.convolution.weight[:, :, 1, 1] = -1 / 12
        network.stem.normalisation.bias.fill_(1.0)
        first, second = network.encoder[0]
        level: Any = network.decoder[0]
        for block, offset in ((first, 0), (second, 0), (level["reduce"], 2), (level["mix"], 0)):
            block.convolution.weight[0, offset, 1, 1] = 1
            block.convolution.weight[1, offset + 1] = 1 / 9
        network.head.weight[:4, 0, 1, 1] = 8
        network.head.weight[4:, 1, 1, 1] = 4
        network.head.bias[:4] = -8 * 1.9
        network.head.bias[4:] = -4 * 1.9
    write_model(
        path,
        network.state_dict(),
        ModelHeader(architecture=architecture, mpp=MPP, config_hash="dark"),
    )
    return path


def segment_once(slide: Path, model: Path, max_memory: float | None) -> dict[str, Any]:
    from histocli.config.common import Execution
    from histocli.config.segment import SegmentConfig
    from histocli.stages.segment.run import segment

    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=slide.parent) as out:
        (result,) = segment(
            [str(slide)],
            model,
            Path(out),
            SegmentConfig(max_memory=max_memory),
            Execution(device="cpu"),
        )
    return {
        "nuclei": result.nuclei,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": round(peak_mb(), 1),
    }


class VirtualSlide:
    """A slide without a file: a disc of dark dots on pink in every twelfth square, glass
    elsewhere.
    """

    path, name, backend, mpp, mpp_source = Path("virtual"), "virtual", "virtual", MPP, "given"

    def __init__(self, gigapixels: float) -> None:
        from histocli.slides.slide import Level

        side = round((gigapixels * 1e9) ** 0.5 / SQUARE) * SQUARE
        self.levels = (Level((side, side), 1.0), Level((side // 32, side // 32), 32.0))
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:SQUARE, :SQUARE]
        dots = ((y % 40 - 20 + rng.integers(-4, 5)) ** 2 + (x % 40 - 20) ** 2) < 100
        self._square = np.where(dots[..., None], [70, 40, 120], [235, 190, 215]).astype(np.uint8)

    def read(self, level: int, rows: slice, columns: slice) -> Any:
        """Make a region."""
        step = 1 if level == 0 else 32
        y, x = (
            np.arange(rows.start, rows.stop) * step,
            np.arange(columns.start, columns.stop) * step,
        )
        tissue = ((y // SQUARE)[:, None] * 5 + (x // SQUARE)[None]) % 12 == 0
        image = np.full((len(y), len(x), 3), 245, np.uint8)
        seen = self._square[y % SQUARE][:, x % SQUARE]
        np.copyto(image, seen, where=tissue[..., None])
        return image

    def close(self) -> None:
        """Hold nothing."""


class Thresholding:
    """A network that only thresholds."""

    mpp, halo_px, multiple_px = MPP, 32, 16

    def maps(self, tiles: Any) -> Any:
        """Take darkness for both maps."""
        dark = (255 - tiles[..., 0]).astype(np.float32) / 255
        return np.stack([dark, dark], axis=3)

    def instances(self, maps: Any) -> Any:
        """Number what is dark."""
        from histocli.instances.components import drop_small, label_components

        return drop_small(label_components(maps[..., 0] > 0.5), 30)


def virtual_once(gigapixels: float) -> dict[str, Any]:
    from histocli.base.memory import reuse_freed_memory
    from histocli.inference.pipeline import PendingBlock, Pipeline
    from histocli.inference.settling import SlideWindows
    from histocli.slides.slide import shape_of
    from histocli.stages.segment.assemble import make_store
    from histocli.stages.segment.view import keep_windows, look, view_of
    from histocli.stores.labels import CONTRACT, FirstLook, TiledLabelsWriter
    from histocli.stores.provenance import Provenance

    reuse_freed_memory()
    slide = VirtualSlide(gigapixels)

    def look_at(factor: int) -> FirstLook:
        seen = look(slide, factor, find_tissue=True, roi=None)
        return FirstLook(seen.overview, seen.tissue, {"glass_level": seen.glass_level})

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        made_by = Provenance(contract=CONTRACT, command="segment", config={}, config_hash="v")
        with (
            TiledLabelsWriter(
                Path(folder) / "v.ome.zarr",
                shape=shape_of(slide),
                mpp=MPP,
                mpp_source="given",
                look=look_at,
                source={},
                model={},
                provenance=made_by,
            ) as writer,
            Pipeline(Thresholding(), tile_px=2048, workers=2) as pipeline,
        ):
            view = view_of(slide, MPP, writer.facts["glass_level"], writer.tissue)
            grid = pipeline.block_grid(view.shape, 2)
            wanted = view.has_tissue(grid)
            for block in grid.blocks(wanted):
                pixels = view.pixels.read(*block.pixels)
                pending = PendingBlock(block, grid, pixels, view.pixels.read)
                pipeline.run([pending])
                keep_windows(writer.work, view, pending)
            windows = SlideWindows(grid.windows, MPP, view.pixels.ratio, wanted)
            nuclei = make_store(writer, windows, mpp=MPP, workers=2)
            writer.finish()
    return {
        "nuclei": nuclei,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": round(peak_mb(), 1),
    }


def disc_store(path: Path, nuclei: int) -> Path:
    """Make a label store of discs of some 20 pixels on a lattice, with a table."""
    from histocli.stores.labels import CONTRACT, FirstLook, TiledLabelsWriter
    from histocli.stores.provenance import Provenance

    step, shard = 32, 2048
    across = int(np.ceil(nuclei**0.5 / (shard // step))) * (shard // step)
    side = across * step
    down = -(-nuclei // across)
    y, x = np.mgrid[:step, :step]
    dot = (y - 16) ** 2 / 100 + (x - 16) ** 2 / 64 < 1
    made_by = Provenance(contract=CONTRACT, command="segment", config={}, config_hash="d")
    shape = (-(-down * step // shard) * shard, side)
    with TiledLabelsWriter(
        path,
        shape=shape,
        mpp=MPP,
        mpp_source="given",
        look=lambda f: FirstLook(
            np.full((-(-shape[0] // f), -(-shape[1] // f), 3), 240, np.uint8),
            np.ones((-(-shape[0] // f), -(-shape[1] // f)), bool),
        ),
        source={"name": "discs", "sha256": "0"},
        model={"name": "discs", "sha256": "1"},
        provenance=made_by,
    ) as writer:
        number = np.arange(nuclei)
        top, left = number // across * step, number % across * step
        rows, columns = np.flatnonzero(dot.any(axis=1)), np.flatnonzero(dot.any(axis=0))
        box = np.stack(
            [top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1], axis=1
        )
        one = np.ones(nuclei)
        table = {
            "id": number + 1,
            "y_px": top + 16.0,
            "x_px": left + 16.0,
            "y_um": (top + 16) * MPP,
            "x_um": (left + 16) * MPP,
            "box": box,
        }
        names = (
            "area_um2",
            "eccentricity",
            "elongation",
            "orientation_rad",
            "major_um",
            "minor_um",
            "probability",
            "hematoxylin",
        )
        table |= {name: one * 0.1234 * (index + 1) for index, name in enumerate(names)}
        writer.begin_table(nuclei, {name: column[:0] for name, column in table.items()})
        writer.append_rows(table)
        writer.end_table({"n_cut": 0})
        for place in writer.shards():
            region_rows, region_columns = writer.shard_region(place)
            cells = shard // step
            ids = (
                (np.arange(cells)[:, None] + region_rows.start // step) * across
                + np.arange(cells)[None]
                + region_columns.start // step
                + 1
            )
            ids = np.where(ids <= nuclei, ids, 0).astype(np.uint32)
            canvas = np.kron(ids, dot.astype(np.uint32)).astype(np.uint32)
            writer.write_shard(place, canvas)
            writer.write_coarser(place, canvas)
        writer.end_labels()
        writer.finish()
    return path


def export_once(store: Path, name: str) -> dict[str, Any]:
    from histocli.config.common import Execution
    from histocli.config.export import ExportConfig
    from histocli.stages.export import export

    start = time.perf_counter()
    (result,) = export([str(store)], store.parent, ExportConfig(formats=(name,)), Execution())
    size = Path(result.output).stat().st_size
    return {
        "format": name,
        "nuclei": result.nuclei,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": round(peak_mb(), 1),
        "bytes_per_nucleus": round(size / max(1, result.nuclei or 0), 1),
    }


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run one measurement in a process of its own, so that its peak is its own."""
    from histocli.base.memory import c_library, tunables_against_gaps

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    tunables = tunables_against_gaps(c_library(), os.environ.get("GLIBC_TUNABLES", ""))
    # as the command does for itself
    environment |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        choices=["memory", "virtual", "export", "segment-once", "virtual-once", "export-once"],
    )
    parser.add_argument("--tissue", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--max-memory", type=float)
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--format", nargs="+", default=["geojson", "csv", "parquet"])
    parser.add_argument("--scratch", type=Path)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "scale.jsonl"
    )
    options = parser.parse_args()
    if options.what == "segment-once":
        print(json.dumps(segment_once(options.tissue, options.model, options.max_memory)))
        return
    if options.what == "virtual-once":
        print(json.dumps(virtual_once(options.gigapixels[0])))
        return
    if options.what == "export-once":
        print(json.dumps(export_once(options.tissue, options.format[0])))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        if options.what == "export":
            store = disc_store(Path(folder) / "discs.ome.zarr", options.nuclei)
            rows = [
                in_a_process("export-once", "--tissue", str(store), "--format", name)
                for name in options.format
            ]
        for gigapixels in options.gigapixels if options.what != "export" else []:
            if options.what == "virtual":
                row = in_a_process("virtual-once", "--gigapixels", str(gigapixels))
            else:
                slide = Path(folder) / "tissue.tif"
                repeated_slide(options.tissue, slide, gigapixels)
                model = options.model or dark_model(Path(folder) / "dark.safetensors")
                more = ["--max-memory", str(options.max_memory)] if options.max_memory else []
                row = in_a_process(
                    "segment-once", "--tissue", str(slide), "--model", str(model), *more
                )
                slide.unlink()
            rows.append({"gigapixels": gigapixels, "max_memory": options.max_memory} | row)
    if len(rows) > 1 and "gigapixels" in rows[0]:
        slope = (rows[-1]["peak_mb"] - rows[0]["peak_mb"]) / (
            rows[-1]["gigapixels"] - rows[0]["gigapixels"]
        )
        rows[-1]["slope_mb_per_gigapixel"] = round(slope, 2)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("a") as stream:
        for row in rows:
            print(json.dumps({"what": options.what} | row))
            stream.write(json.dumps({"what": options.what} | row) + "\n")


if __name__ == "__main__":
    main()
