"""A slide in blocks gives what it gives in one piece: the laws of tiling, on random blobs, real
tissue and any pixel size."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from scipy import ndimage

from histocli.base import files
from histocli.base.pyramid import nearest_level
from histocli.inference import pipeline as pipelines
from histocli.inference.pipeline import Pipeline
from histocli.instances.targets import maps_to_instances
from histocli.slides.open import open_slide
from histocli.slides.slide import shape_of
from histocli.stages import tiled
from histocli.stages.tiled import has_tissue, keep_windows, look, make_store, view_of
from histocli.stores import labels as label_stores
from histocli.stores.labels import CONTRACT, TiledLabelsWriter, open_labels
from histocli.stores.provenance import Provenance

MPP = 0.5


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No test pulls the plug, so none waits for the disk."""
    monkeypatch.setattr(files, "sync_file", lambda path: None)


@pytest.fixture
def small(monkeypatch):
    """Windows, halos and shards so small that a small slide has many of them."""
    monkeypatch.setattr(pipelines, "WINDOW_PX", 96)
    monkeypatch.setattr(label_stores, "SHARD_PX", 64)
    monkeypatch.setattr(label_stores, "CHUNK_PX", 32)
    monkeypatch.setattr(label_stores, "SMALLEST_LEVEL_PX", 40)
    monkeypatch.setattr(label_stores, "CHUNK_ROWS", 16)


class Darkness:
    """A predictor with a bounded receptive field and integer arithmetic, so that every tile gives
    the very same numbers."""

    mpp = MPP
    halo_px = 32
    multiple_px = 8

    def maps(self, tiles):
        dark = 255 - tiles[..., 0].astype(np.int64)
        depth = ndimage.uniform_filter(dark * 4096, (1, 9, 9), mode="constant") // 4096
        return np.stack([dark / 255, np.clip(depth / 255 * 1.3, 0, 1)], axis=3).astype(np.float32)

    def instances(self, maps):
        return maps_to_instances(maps, self.mpp)


def blobs(shape: tuple[int, int], seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Dark discs of radius 5..9 on pink, some of which touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    dark = np.zeros(shape, bool)
    for _ in range(max(1, int(shape[0] * shape[1] / 700 / scale**2))):
        cy, cx, radius = (
            rng.uniform(0, shape[0]),
            rng.uniform(0, shape[1]),
            rng.uniform(5, 9) * scale,
        )
        dark |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return np.where(dark[..., None], [60, 40, 120], [240, 200, 225]).astype(np.uint8)


def real_tissue() -> np.ndarray:
    """A corner of a real section whose nuclei are dark."""
    return np.ascontiguousarray(skimage.data.immunohistochemistry()[:330, :290])


def write_slide(path: Path, image: np.ndarray, mpp: float = MPP) -> Path:
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        tile=(64, 64),
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
    )
    return path


def make(slide_path: Path, target: Path, **settings):
    """Segment a slide in blocks."""
    slide = open_slide(slide_path)
    try:
        return segment_in_blocks(slide, target, **settings)
    finally:
        slide.close()


def segment_in_blocks(
    slide, target, *, block=2, tile_px=64, workers=2, order=None, find_tissue=False, stop_after=None
):
    """Do it; with ``stop_after``, only some of the blocks."""
    levels: list[float] = []

    def look_at(factor):
        overview, tissue, level = look(slide, factor, find_tissue=find_tissue, roi=None)
        levels.append(level)
        return overview, tissue

    with (
        TiledLabelsWriter(
            target,
            shape=shape_of(slide),
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            look=look_at,
            source={"name": "s"},
            model={"name": "m"},
            provenance=Provenance(
                contract=CONTRACT, command="segment", config={}, config_hash="h", created="2026"
            ),
            note=lambda: {"glass_level": levels[0]},
        ) as writer,
        Pipeline(Darkness(), tile_px=tile_px, workers=workers) as pipeline,
    ):
        view = view_of(slide, MPP, writer.facts["glass_level"], writer.tissue)
        grid = pipeline.block_grid(view.shape, block)
        wanted = has_tissue(view, grid)
        numbers = list(range(len(grid))) if order is None else order(len(grid))
        for number in numbers[:stop_after]:
            part = grid.block(number, wanted)
            if part is None or all(writer.has_found(window.index) for window in part.windows):
                continue
            pending = pipeline.begin_block(part, view.pixels.read(*part.pixels), view.pixels.read)
            pipeline.run_block(pending, grid)
            keep_windows(writer.work, view, pending)
        if stop_after is not None:
            return None
        make_store(writer, grid, wanted, ratio=view.pixels.ratio, mpp=slide.mpp, workers=workers)
        writer.finish()
    return open_labels(target)


def whole(slide_path: Path, monkeypatch) -> np.ndarray:
    """Segment a slide of the model's pixel size at once."""
    slide = open_slide(slide_path)
    height, width = shape_of(slide)
    _, _, level = look(slide, 1, find_tissue=False, roi=None)
    pixels = view_of(slide, MPP, level, np.ones((height, width), bool)).pixels.read(
        slice(0, height), slice(0, width)
    )
    slide.close()
    with Pipeline(Darkness(), tile_px=4096, workers=1) as pipeline:
        pending = pipeline.prepare([pixels])
        pipeline.run(pending)
        return pending[0].collect().labels


def files_of(store: Path) -> dict[str, str]:
    return {
        file.relative_to(store).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }


def same_objects(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two label images differ by numbers only."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize(
    "image",
    [blobs((331, 290)), blobs((200, 500), 1), real_tissue()],
    ids=["blobs", "wide", "tissue"],
)
def test_a_slide_in_blocks_is_the_slide_in_one_piece(tmp_path, small, monkeypatch, image):
    slide = write_slide(tmp_path / "s.tif", image)
    expected = whole(slide, monkeypatch)
    store = make(slide, tmp_path / "s.ome.zarr")
    assert expected.max() > 20
    np.testing.assert_array_equal(store.labels(), expected)


def test_windows_of_any_size_find_the_same_objects(tmp_path, small, monkeypatch):
    slide = write_slide(tmp_path / "s.tif", blobs((300, 310)))
    found = []
    for side in (72, 96, 4000):
        monkeypatch.setattr(pipelines, "WINDOW_PX", side)
        found.append(make(slide, tmp_path / f"{side}.ome.zarr").labels())
    assert same_objects(found[0], found[1])
    assert same_objects(found[0], found[2])


def test_blocks_tiles_workers_and_order_change_no_byte(tmp_path, small):
    slide = write_slide(tmp_path / "s.tif", blobs((300, 410), 3))
    expected = None
    backwards = lambda n: list(range(n))[::-1]  # noqa: E731
    shuffled = lambda n: np.random.default_rng(0).permutation(n).tolist()  # noqa: E731
    for number, (block, tile_px, workers, order) in enumerate(
        [(2, 64, 1, None), (1, 32, 3, backwards), (3, 200, 2, shuffled), (9, 4096, 2, None)]
    ):
        make(
            slide,
            tmp_path / f"{number}" / "s.ome.zarr",
            block=block,
            tile_px=tile_px,
            workers=workers,
            order=order,
        )
        files = files_of(tmp_path / f"{number}" / "s.ome.zarr")
        expected = expected or files
        assert files == expected


def test_any_point_of_resumption_gives_the_same_bytes(tmp_path, small):
    slide = write_slide(tmp_path / "s.tif", blobs((260, 300), 4))
    make(slide, tmp_path / "whole" / "s.ome.zarr")
    expected = files_of(tmp_path / "whole" / "s.ome.zarr")
    for stop in (1, 2, 3):
        target = tmp_path / str(stop) / "s.ome.zarr"
        assert make(slide, target, block=1, stop_after=stop) is None
        assert not target.exists()
        make(slide, target)
        assert files_of(target) == expected


def test_a_store_that_was_broken_off_while_it_was_made_is_completed(tmp_path, small, monkeypatch):
    slide = write_slide(tmp_path / "s.tif", blobs((260, 300), 4))
    make(slide, tmp_path / "whole" / "s.ome.zarr")
    expected = files_of(tmp_path / "whole" / "s.ome.zarr")
    for name in ("settle_all", "write_table", "write_labels"):
        target = tmp_path / name / "s.ome.zarr"
        original = getattr(tiled._StoreMaker, name)

        def broken(self, *arguments, original=original):
            original(self, *arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(tiled._StoreMaker, name, broken)
            with pytest.raises(KeyboardInterrupt):
                make(slide, target)
        make(slide, target)
        assert files_of(target) == expected


@pytest.mark.parametrize("mpp", [0.23, 0.499, 0.7])
def test_other_pixel_sizes_are_locked_to_the_origin(tmp_path, small, mpp):
    slide = write_slide(tmp_path / "s.tif", blobs((420, 380), 5, scale=MPP / mpp), mpp)
    stores = [
        make(slide, tmp_path / f"{block}" / "s.ome.zarr", block=block, tile_px=tile)
        for block, tile in ((1, 32), (4, 512))
    ]
    np.testing.assert_array_equal(stores[0].labels(), stores[1].labels())
    truth = blobs((420, 380), 5, scale=MPP / mpp)[..., 0] < 150
    found = stores[0].labels() > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.8
    # what is found lies neither up, down, left nor right of the truth
    overlaps = {
        shift: (np.roll(found, shift, (0, 1)) & truth).sum()
        for shift in itertools.product((-1, 0, 1), repeat=2)
    }
    assert max(overlaps, key=overlaps.get) == (0, 0)


def test_the_table_says_what_the_labels_show(tmp_path, small):
    store = make(write_slide(tmp_path / "s.tif", blobs((300, 310), 6)), tmp_path / "s.ome.zarr")
    labels, table = store.labels(), store.table
    numbers = np.arange(1, store.n_nuclei + 1)
    np.testing.assert_array_equal(table["id"], numbers)
    np.testing.assert_array_equal(np.unique(labels), np.arange(store.n_nuclei + 1))
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:] * MPP**2, table["area_um2"])
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers))
    np.testing.assert_allclose(np.stack([table["y_px"], table["x_px"]], axis=1), centres, atol=1e-9)
    np.testing.assert_allclose(table["y_um"], centres[:, 0] * MPP, atol=1e-9)
    boxes = [[y.start, x.start, y.stop, x.stop] for y, x in ndimage.find_objects(labels)]
    np.testing.assert_array_equal(table["box"], boxes)
    from skimage.measure import regionprops

    for region in regionprops(labels.astype(np.int32))[::7]:
        # pixels as points
        assert table["eccentricity"][region.label - 1] == pytest.approx(
            region.eccentricity, abs=5e-3
        )
        if region.eccentricity > 0.3:
            off = abs(table["orientation_rad"][region.label - 1] - (np.pi / 2 - region.orientation))
            assert min(off % np.pi, np.pi - off % np.pi) < 0.02
    image = blobs((300, 310), 6)
    assert table["hematoxylin"].min() > 0.5
    assert image.shape[:2] == store.shape


def test_ids_follow_the_anchors_over_all_windows(tmp_path, small):
    from histocli.inference.tiling import anchors

    labels = make(
        write_slide(tmp_path / "s.tif", blobs((300, 310), 6)), tmp_path / "s.ome.zarr"
    ).labels()
    places = anchors(labels.astype(np.int32))
    assert (np.lexsort((places[:, 1], places[:, 0])) == np.arange(len(places))).all()


def test_coarser_levels_show_the_nearest_pixel(tmp_path, small):
    store = make(write_slide(tmp_path / "s.tif", blobs((331, 290))), tmp_path / "s.ome.zarr")
    assert store.n_levels > 3
    for level in range(1, store.n_levels):
        np.testing.assert_array_equal(store.labels(level), nearest_level(store.labels(), 2**level))


def test_glass_is_not_looked_at(tmp_path, small):
    image = np.full((400, 400, 3), 245, np.uint8)
    image[150:280, 150:270] = blobs((130, 120), 7)
    slide = write_slide(tmp_path / "s.tif", image)
    everywhere = make(slide, tmp_path / "all.ome.zarr")
    store = make(slide, tmp_path / "s.ome.zarr", find_tissue=True)
    np.testing.assert_array_equal(store.labels(), everywhere.labels())
    assert 0.1 < store.tissue.mean() < 0.4
    assert store.facts["mm2"] == pytest.approx(store.tissue.mean() * 400 * 400 * MPP**2 / 1e6)


def test_what_reaches_further_than_any_window_looks_is_counted(tmp_path, small):
    image = blobs((300, 400), 8)
    image[140:160] = (60, 40, 120)
    store = make(write_slide(tmp_path / "s.tif", image), tmp_path / "s.ome.zarr")
    assert store.facts["n_cut"] >= 1
    assert (
        make(write_slide(tmp_path / "t.tif", blobs((300, 400), 8)), tmp_path / "t.ome.zarr").facts[
            "n_cut"
        ]
        == 0
    )
