"""Memory and time at the scale of slides: peak memory against gigapixels, and the export of a
million nuclei.

    python benchmarks/scale.py memory --tissue SLIDE --gigapixels 1 4 [--model M] [--max-memory 2]
    python benchmarks/scale.py virtual --gigapixels 4 16
    python benchmarks/scale.py export --nuclei 1000000 --format geojson csv parquet

``memory`` writes a tiled JPEG TIFF with a coarse level that repeats a square of real tissue, and
segments it. Without a model it takes a network of two channels that takes dark for nucleus, so that
everything else is measured. ``virtual`` needs no file: a reader makes its pixels, a twelfth of them
tissue, and the network only thresholds. ``export`` makes a label store of discs and exports it.

Each measurement runs in a process of its own. Its peak resident memory (``ru_maxrss``) is printed,
and a row is appended to ``--results``.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rows import RESULTS, ROOT, Row, append_rows

# Side of a tile of the TIFF, and of the square that is repeated, in pixels.
TILE, SQUARE = 512, 2048
# Downsample of the coarse level of the TIFF, and of the slide without a file.
COARSE, VIRTUAL_COARSE = 16, 32
MPP = 0.25
# Of the label store of discs: pixels from disc to disc, and along a side of a shard.
STEP, SHARD = 32, 2048
Array = npt.NDArray[Any]


def peak_mb() -> float:
    """Return the peak resident memory of this process, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def repeated_slide(tissue: Path, path: Path, gigapixels: float) -> None:
    """Write a pyramidal JPEG TIFF that repeats one square of tissue; each tile is encoded once."""
    import imagecodecs
    import tifffile

    from histocli.base.pyramid import shrink
    from histocli.slides.open import read_image

    pixels = read_image(tissue, mpp=MPP).pixels
    square = np.tile(pixels, (2, 2, 1))[-SQUARE - 900 : -900, 400 : 400 + SQUARE]
    side = max(1, round((gigapixels * 1e9) ** 0.5 / SQUARE))

    def encoded(image: Array, repeats: int) -> Iterator[bytes]:
        n = image.shape[0] // TILE
        tiles = [
            imagecodecs.jpeg8_encode(
                np.ascontiguousarray(image[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]),
                level=85,
            )
            for y in range(n)
            for x in range(n)
        ]
        for y in range(n * repeats):
            for x in range(n * repeats):
                yield tiles[(y % n) * n + x % n]

    coarse = np.tile(shrink(square, COARSE), (COARSE, COARSE, 1))[:SQUARE, :SQUARE]
    length = side * SQUARE
    rest = -(-length // COARSE)
    options: Row = {
        "photometric": "rgb",
        "tile": (TILE, TILE),
        "compression": "jpeg",
        "dtype": np.uint8,
    }
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


def dark_model(path: Path) -> Path:
    """Write a segmenter of two channels that takes dark for nucleus."""
    import torch

    from histocli.model.segmenter import build_segmenter
    from histocli.stores.models import ModelHeader, write_model

    architecture = {"family": "unet", "channels": [2, 2]}
    network: Any = build_segmenter(architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4 or parameter is network.head.bias:
                parameter.zero_()
        network.stem.convolution.weight[:, :, 1, 1] = -1 / 12
        network.stem.normalisation.bias.fill_(1.0)
        first, second = network.encoder[0]
        level = network.decoder[0]
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


def measured(start: float, nuclei: int | None) -> Row:
    """Return what every measurement ends with."""
    seconds = round(time.perf_counter() - start, 1)
    return {"nuclei": nuclei, "seconds": seconds, "peak_mb": round(peak_mb(), 1)}


def segment_once(slide: Path, model: Path, max_memory: float | None) -> Row:
    """Segment a slide."""
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
    return measured(start, result.nuclei)


class VirtualSlide:
    """A slide without a file: dark dots on pink in every twelfth square, and glass elsewhere."""

    path, name, backend, mpp, mpp_source = Path("virtual"), "virtual", "virtual", MPP, "given"

    def __init__(self, gigapixels: float) -> None:
        from histocli.slides.slide import Level

        side = round((gigapixels * 1e9) ** 0.5 / SQUARE) * SQUARE
        coarse = (side // VIRTUAL_COARSE, side // VIRTUAL_COARSE)
        self.levels = (Level((side, side), 1.0), Level(coarse, float(VIRTUAL_COARSE)))
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:SQUARE, :SQUARE]
        dots = ((y % 40 - 20 + rng.integers(-4, 5)) ** 2 + (x % 40 - 20) ** 2) < 100
        self._square = np.where(dots[..., None], [70, 40, 120], [235, 190, 215]).astype(np.uint8)

    def read(self, level: int, rows: slice, columns: slice) -> npt.NDArray[np.uint8]:
        """Make the pixels of a region."""
        step = 1 if level == 0 else VIRTUAL_COARSE
        y, x = (np.arange(side.start, side.stop) * step for side in (rows, columns))
        tissue = ((y // SQUARE)[:, None] * 5 + (x // SQUARE)[None]) % 12 == 0
        image = np.full((len(y), len(x), 3), 245, np.uint8)
        seen = self._square[y % SQUARE][:, x % SQUARE]
        np.copyto(image, seen, where=tissue[..., None])
        return image

    def close(self) -> None:
        """There is nothing to close."""


class Thresholding:
    """A network that only thresholds."""

    mpp, halo_px, multiple_px = MPP, 32, 16

    def maps(self, tiles: Array) -> npt.NDArray[np.float32]:
        """Return darkness for both maps."""
        dark = (255 - tiles[..., 0]).astype(np.float32) / 255
        return np.stack([dark, dark], axis=3)

    def instances(self, maps: Array) -> npt.NDArray[np.int32]:
        """Number the dark pieces."""
        from histocli.instances.components import drop_small, label_components

        return drop_small(label_components(maps[..., 0] > 0.5), 30)


def virtual_once(gigapixels: float) -> Row:
    """Make the label store of a slide without a file, block after block."""
    from histocli.base.memory import reuse_freed_memory
    from histocli.inference.pipeline import Pipeline
    from histocli.inference.settling import SlideWindows
    from histocli.stages.segment.assemble import make_store
    from histocli.stages.segment.loaded import LoadedModel
    from histocli.stages.segment.view import (
        first_look,
        keep_windows,
        look,
        read_block,
        recorded_view,
    )
    from histocli.stores.labels import CONTRACT, FirstLook, TiledLabelsWriter, open_labels
    from histocli.stores.models import ModelHeader
    from histocli.stores.provenance import Provenance

    reuse_freed_memory()
    start = time.perf_counter()
    made_by = Provenance(contract=CONTRACT, command="segment", config={}, config_hash="v")
    header = ModelHeader(architecture={}, mpp=MPP, config_hash="virtual")
    with (
        tempfile.TemporaryDirectory() as folder,
        Pipeline(Thresholding(), tile_px=2048, workers=2) as pipeline,
    ):
        slide = VirtualSlide(gigapixels)
        model = LoadedModel(header, [pipeline], block_windows=2, expected_bytes=0, workers=2)

        def glance(factor: int) -> FirstLook:
            return first_look(slide, model, look(slide, factor, find_tissue=True, roi=None))

        with TiledLabelsWriter(
            Path(folder) / "v.ome.zarr",
            shape=slide.levels[0].shape,
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            look=glance,
            source={},
            model={},
            provenance=made_by,
        ) as writer:
            view = recorded_view(slide, model, writer.facts, writer.tissue)
            grid = model.grid(view.shape)
            shows_tissue = view.has_tissue(grid)
            for block in grid.blocks(shows_tissue):
                pending = read_block(view, grid, block)
                pipeline.run([pending])
                keep_windows(writer.work, view, pending)
            make_store(
                writer, SlideWindows(grid.windows, slide.mpp, 1.0, shows_tissue), mpp=MPP, workers=2
            )
            store = writer.finish()
        return measured(start, open_labels(store).n_nuclei)


def disc_store(path: Path, nuclei: int) -> Path:
    """Make a label store of discs of some 20 pixels on a lattice, with a table."""
    from histocli.stores.labels import CONTRACT, FirstLook, TiledLabelsWriter
    from histocli.stores.provenance import Provenance

    across = int(np.ceil(nuclei**0.5 / (SHARD // STEP))) * (SHARD // STEP)
    down = -(-nuclei // across)
    y, x = np.mgrid[:STEP, :STEP]
    disc = (y - 16) ** 2 / 100 + (x - 16) ** 2 / 64 < 1
    made_by = Provenance(contract=CONTRACT, command="segment", config={}, config_hash="d")
    shape = (-(-down * STEP // SHARD) * SHARD, across * STEP)

    def glass(factor: int) -> FirstLook:
        height, width = (-(-side // factor) for side in shape)
        return FirstLook(np.full((height, width, 3), 240, np.uint8), np.ones((height, width), bool))

    with TiledLabelsWriter(
        path,
        shape=shape,
        mpp=MPP,
        mpp_source="given",
        look=glass,
        source={"name": "discs", "sha256": "0"},
        model={"name": "discs", "sha256": "1"},
        provenance=made_by,
    ) as writer:
        table = disc_table(nuclei, across, disc)
        writer.begin_table(nuclei, {name: column[:0] for name, column in table.items()})
        writer.append_rows(table)
        writer.end_table({"n_cut": 0})
        cell = np.arange(SHARD // STEP)
        for place in writer.shards():
            rows, columns = writer.shard_region(place)
            first_row, first_column = rows.start // STEP, columns.start // STEP
            ids = (cell[:, None] + first_row) * across + cell[None] + first_column + 1
            ids = np.where(ids <= nuclei, ids, 0).astype(np.uint32)
            canvas = np.kron(ids, disc.astype(np.uint32)).astype(np.uint32)
            writer.write_shard(place, canvas)
            writer.write_coarser(place, canvas)
        writer.end_labels()
        writer.finish()
    return path


def disc_table(nuclei: int, across: int, disc: npt.NDArray[np.bool_]) -> dict[str, Array]:
    """Return the columns of the table: places that are true, and made-up measurements."""
    number = np.arange(nuclei)
    top, left = number // across * STEP, number % across * STEP
    rows, columns = np.flatnonzero(disc.any(axis=1)), np.flatnonzero(disc.any(axis=0))
    edges = (top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1)
    table = {
        "id": number + 1,
        "y_px": top + 16.0,
        "x_px": left + 16.0,
        "y_um": (top + 16) * MPP,
        "x_um": (left + 16) * MPP,
        "box": np.stack(edges, axis=1),
    }
    names = "area_um2 eccentricity elongation orientation_rad major_um minor_um probability"
    for index, name in enumerate([*names.split(), "hematoxylin"]):
        table[name] = np.full(nuclei, 0.1234 * (index + 1))
    return table


def export_once(store: Path, name: str) -> Row:
    """Export a label store in one format."""
    from histocli.config.common import Execution
    from histocli.config.export import ExportConfig
    from histocli.stages.export import export

    start = time.perf_counter()
    (result,) = export([str(store)], store.parent, ExportConfig(formats=(name,)), Execution())
    size = Path(result.output).stat().st_size
    each = round(size / max(1, result.nuclei or 0), 1)
    return {"format": name} | measured(start, result.nuclei) | {"bytes_per_nucleus": each}


def in_a_process(*arguments: object) -> Row:
    """Run one measurement in a process of its own, so that the peak of memory is its own."""
    from histocli.base.memory import c_library, tunables_against_gaps

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    tunables = tunables_against_gaps(c_library(), os.environ.get("GLIBC_TUNABLES", ""))
    # The command sets these for itself, too.
    environment |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Make what is measured, and measure it."""
    if options.what == "export":
        store = disc_store(folder / "discs.ome.zarr", options.nuclei)
        return [
            in_a_process("export-once", "--tissue", store, "--format", name)
            for name in options.format
        ]
    rows = []
    for gigapixels in options.gigapixels:
        if options.what == "virtual":
            row = in_a_process("virtual-once", "--gigapixels", gigapixels)
        else:
            slide = folder / "tissue.tif"
            repeated_slide(options.tissue, slide, gigapixels)
            model = options.model or dark_model(folder / "dark.safetensors")
            more = ["--max-memory", options.max_memory] if options.max_memory else []
            row = in_a_process("segment-once", "--tissue", slide, "--model", model, *more)
            slide.unlink()
        rows.append({"gigapixels": gigapixels, "max_memory": options.max_memory} | row)
    if len(rows) > 1:
        rise, run = (rows[-1][key] - rows[0][key] for key in ("peak_mb", "gigapixels"))
        rows[-1]["slope_mb_per_gigapixel"] = round(rise / run, 2)
    return rows


def main() -> None:
    """Measure, print and append the rows."""
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
    parser.add_argument("--results", type=Path, default=RESULTS / "scale.jsonl")
    options = parser.parse_args()
    if options.what == "segment-once":
        print(json.dumps(segment_once(options.tissue, options.model, options.max_memory)))
    elif options.what == "virtual-once":
        print(json.dumps(virtual_once(options.gigapixels[0])))
    elif options.what == "export-once":
        print(json.dumps(export_once(options.tissue, options.format[0])))
    else:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            rows = [{"what": options.what} | row for row in rows_of(options, Path(folder))]
        print("\n".join(json.dumps(row) for row in rows))
        append_rows(options.results, *rows)


if __name__ == "__main__":
    main()
