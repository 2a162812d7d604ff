"""A slide in blocks gives what it gives in one piece: the laws of tiling, on random blobs, real
tissue and any pixel size."""

import itertools

import numpy as np
import pytest
import skimage.data
from scipy import ndimage

from histocli.base.pyramid import nearest_level
from histocli.inference import windows
from histocli.inference.pipeline import Pipeline, collect, whole_image
from histocli.instances.anchors import anchors
from histocli.slides.open import open_slide
from histocli.slides.slide import shape_of
from histocli.stages.segment import assemble
from histocli.stages.segment.view import look, view_of
from tests.stages.segment.in_blocks import MPP, Darkness, blobs, files_of, make, write_slide


def real_tissue() -> np.ndarray:
    """A corner of a real section whose nuclei are dark."""
    return np.ascontiguousarray(skimage.data.immunohistochemistry()[:330, :290])


def whole(slide_path) -> np.ndarray:
    """Segment a slide of the model's pixel size as one block."""
    slide = open_slide(slide_path)
    height, width = shape_of(slide)
    level = look(slide, 1, find_tissue=False, roi=None).glass_level
    pixels = view_of(slide, MPP, level, np.ones((height, width), bool)).pixels.read(
        slice(0, height), slice(0, width)
    )
    slide.close()
    with Pipeline(Darkness(), tile_px=4096, workers=1) as pipeline:
        image = whole_image(pixels, pipeline.block_grid((height, width)))
        pipeline.run([image])
        return collect(image, MPP)


def same_objects(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two label images differ by numbers only."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize(
    "image",
    [blobs((331, 290)), blobs((200, 500), 1), real_tissue()],
    ids=["blobs", "wide", "tissue"],
)
def test_a_slide_in_blocks_is_the_slide_in_one_piece(tmp_path, small, image):
    slide = write_slide(tmp_path / "s.tif", image)
    expected = whole(slide)
    store = make(slide, tmp_path / "s.ome.zarr")
    assert expected.max() > 20
    np.testing.assert_array_equal(store.labels(), expected)


def test_windows_of_any_size_find_the_same_objects(tmp_path, small, monkeypatch):
    slide = write_slide(tmp_path / "s.tif", blobs((300, 310)))
    found = []
    for side in (72, 96, 4000):
        monkeypatch.setattr(windows, "WINDOW_PX", side)
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
    for name in ("settle_windows", "number_objects", "write_labels"):
        target = tmp_path / name / "s.ome.zarr"
        original = getattr(assemble, name)

        def broken(*arguments, original=original):
            list(original(*arguments) or ())
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(assemble, name, broken)
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
    labels, rows = store.labels(), store.table
    numbers = np.arange(1, store.n_nuclei + 1)
    np.testing.assert_array_equal(rows["id"], numbers)
    np.testing.assert_array_equal(np.unique(labels), np.arange(store.n_nuclei + 1))
    np.testing.assert_array_equal(np.bincount(labels.ravel())[1:] * MPP**2, rows["area_um2"])
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers))
    np.testing.assert_allclose(np.stack([rows["y_px"], rows["x_px"]], axis=1), centres, atol=1e-9)
    np.testing.assert_allclose(rows["y_um"], centres[:, 0] * MPP, atol=1e-9)
    boxes = [[y.start, x.start, y.stop, x.stop] for y, x in ndimage.find_objects(labels)]
    np.testing.assert_array_equal(rows["box"], boxes)
    from skimage.measure import regionprops

    for region in regionprops(labels.astype(np.int32))[::7]:
        # pixels as points
        assert rows["eccentricity"][region.label - 1] == pytest.approx(
            region.eccentricity, abs=5e-3
        )
        if region.eccentricity > 0.3:
            off = abs(rows["orientation_rad"][region.label - 1] - (np.pi / 2 - region.orientation))
            assert min(off % np.pi, np.pi - off % np.pi) < 0.02
    image = blobs((300, 310), 6)
    assert rows["hematoxylin"].min() > 0.5
    assert image.shape[:2] == store.shape


def test_ids_follow_the_anchors_over_all_windows(tmp_path, small):
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
