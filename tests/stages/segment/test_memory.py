"""Segmenting in memory finds what the command writes for the same pixels."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from histocli.base.errors import OutOfResources, UnknownPixelSize
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.stages.segment import memory
from histocli.stages.segment.memory import ImageSegmenter
from histocli.stages.segment.run import segment
from histocli.stores.labels import open_labels
from tests.drawn import rectangle
from tests.stages.segment.given import MPP, tissue, write_png, write_tiff

CPU = Execution(device="cpu", precision="fp32", workers=2)


def command(path, model, out, config):
    (result,) = segment([str(path)], model, out, config, CPU)
    return result, open_labels(out / f"{path.stem}.ome.zarr")


def assert_same(found, store):
    assert np.array_equal(found.labels, store.labels())
    assert found.labels.dtype == np.int32
    for name, values in store.table.items():
        if name == "box":
            mine = [found.columns[f"box_{side}"] for side in ("y0", "x0", "y1", "x1")]
            assert np.array_equal(np.stack(mine, axis=1), values)
        else:
            assert np.array_equal(found.columns[name], values), name
            assert found.columns[name].dtype == values.dtype, name


@pytest.mark.parametrize("mpp", [MPP, 0.4, 0.8])
@pytest.mark.parametrize("tile_px", [64, 8192])
@pytest.mark.usefixtures("small")
def test_an_array_has_the_labels_and_table_that_the_command_writes(model, tmp_path, mpp, tile_px):
    image, config = tissue((230, 310)), SegmentConfig(tile_px=tile_px)
    path = write_tiff(tmp_path / "slide.tif", image, mpp)
    result, store = command(path, model, tmp_path / "out", config)
    images = ImageSegmenter(model, config, CPU)
    for found in (
        images.segment_array(image, mpp),
        images.segment_array(image, mpp),  # the model stays loaded
        images.segment_file(path, None),
    ):
        assert_same(found, store)
        assert found.facts.nuclei == result.nuclei > 20
        assert found.facts.mm2 == pytest.approx(result.mm2)


def test_regions_count_as_on_the_command_line(model, tmp_path):
    image = tissue()
    roi = rectangle(tmp_path / "roi.geojson", 20, 30, 100, 140)
    config = SegmentConfig(roi=str(roi), tissue="none", mpp=MPP)
    _, store = command(write_png(tmp_path / "a.png", image), model, tmp_path / "out", config)
    found = ImageSegmenter(model, config, CPU).segment_array(image, None)
    assert_same(found, store)
    whole = ImageSegmenter(model, SegmentConfig(mpp=MPP), CPU).segment_array(image, None)
    assert 0 < found.facts.nuclei < whole.facts.nuclei


def test_an_image_without_nuclei_has_an_empty_table(model):
    glass = np.full((64, 80, 3), 245, np.uint8)
    found = ImageSegmenter(model, SegmentConfig(tissue="none"), CPU).segment_array(glass, MPP)
    assert not found.labels.any()
    assert found.outlines() == []
    assert {len(column) for column in found.columns.values()} == {0}


def test_outlines_hold_the_pixels_of_their_nuclei(model):
    found = ImageSegmenter(model, SegmentConfig(), CPU).segment_array(tissue(), MPP)
    for number, outline in enumerate(found.outlines(), 1):
        x, y = outline.T
        area = abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2  # the shoelace formula
        assert area == pytest.approx(np.count_nonzero(found.labels == number), rel=0.1)


def test_progress_counts_the_tiles(model):
    steps, totals = [], []

    class Counter:
        def advance(self, n=1, note=""):
            steps.append(n)

    @contextmanager
    def track(description, total):
        totals.append(total)
        yield Counter()

    config = SegmentConfig(tile_px=64)
    ImageSegmenter(model, config, CPU).segment_array(tissue(), MPP, track=track)
    assert totals == [sum(steps)]
    assert totals[0] > 4


def test_what_does_not_fit_in_memory_is_refused(model, monkeypatch):
    monkeypatch.setattr(memory, "LARGEST_PX", 1000)
    with pytest.raises(OutOfResources, match=r"histocli\.segment"):
        ImageSegmenter(model, SegmentConfig(), CPU).segment_array(tissue(), MPP)


def test_an_array_without_a_pixel_size_is_refused(model):
    with pytest.raises(UnknownPixelSize):
        ImageSegmenter(model, SegmentConfig(), CPU).segment_array(tissue(), None)


def test_threads_share_a_segmenter(model):
    images = ImageSegmenter(model, SegmentConfig(mpp=MPP), CPU)
    drawn = [tissue(seed=seed) for seed in range(6)]
    alone = [images.segment_array(image, None).labels for image in drawn]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda image: images.segment_array(image, None).labels, drawn))
    assert all(map(np.array_equal, alone, together))
