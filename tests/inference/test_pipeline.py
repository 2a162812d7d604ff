"""The pipeline gives what a plain loop would give, whatever the tiles, batches and workers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import ndimage

from histocli.inference import windows as module
from histocli.inference.pipeline import Pipeline, collect, whole_image
from histocli.instances.anchors import renumber_by_anchor
from histocli.instances.targets import maps_to_instances


class Darkness:
    """A predictor with a bounded receptive field and integer arithmetic, so that every tile gives
    the very same numbers."""

    mpp = 0.5
    halo_px = 16
    multiple_px = 8

    def __init__(self):
        self.windows = []

    def maps(self, tiles):
        assert tiles.dtype == np.uint8
        assert all(side % self.multiple_px == 0 for side in tiles.shape[1:3])
        self.windows.append(tiles.shape)
        dark = 255 - tiles[..., 0].astype(np.int64)
        depth = ndimage.uniform_filter(dark * 4096, (1, 9, 9), mode="constant") // 4096
        return np.stack([dark / 255, np.clip(depth / 255 * 1.3, 0, 1)], axis=3).astype(np.float32)

    def instances(self, maps):
        return maps_to_instances(maps, self.mpp)


def tissue(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Dark discs of radius 5..9 on glass, some of which touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    dark = np.zeros(shape, bool)
    for _ in range(max(1, shape[0] * shape[1] // 600)):
        cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(5, 9)
        dark |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return np.where(dark[..., None], [60, 40, 120], [240, 235, 245]).astype(np.uint8)


def pend(pipeline, images):
    grid = pipeline.block_grid(images[0].shape[:2])
    return [whole_image(image, grid) for image in images]


def through(pipeline, images, *on_tiles):
    pending = pend(pipeline, images)
    pipeline.run(pending, *on_tiles)
    return [collect(image, Darkness.mpp) for image in pending]


def run(images, **settings):
    with Pipeline(Darkness(), **({"tile_px": 64, "workers": 2} | settings)) as pipeline:
        return through(pipeline, images)


@pytest.fixture
def small_windows(monkeypatch):
    """Windows so small that an image has many of them."""
    monkeypatch.setattr(module, "WINDOW_PX", 90)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (129, 64), (260, 333)])
def test_tiles_batches_and_workers_change_nothing(shape, small_windows):
    image = tissue(shape)
    (reference,) = run([image], tile_px=4096, workers=1)
    for settings in (
        {"tile_px": 32},
        {"tile_px": 64, "workers": 4},
        {"tile_px": 96, "batch_px": 1},
        {"batch_px": 10**9},
    ):
        (found,) = run([image], **settings)
        np.testing.assert_array_equal(found, reference)


def test_windows_give_what_the_whole_image_gives(small_windows):
    image = tissue((260, 333))
    predictor = Darkness()
    (found,) = run([image])
    padded = np.pad(image, ((16, 20), (16, 19), (0, 0)), mode="reflect")[None]
    maps = predictor.maps(padded)[0, 16 : 16 + 260, 16 : 16 + 333]
    whole = renumber_by_anchor(predictor.instances(maps))
    assert whole.max() > 30
    assert found.max() == whole.max()
    assert (found != whole).mean() < 0.001  # pixels between touching nuclei


def test_images_of_one_shape_share_batches_and_stay_apart():
    images = [tissue((48, 48), seed) for seed in range(5)]
    predictor = Darkness()
    with Pipeline(predictor, tile_px=64, workers=2, batch_px=3 * 80 * 80) as pipeline:
        together = through(pipeline, images)
    assert [windows[0] for windows in predictor.windows] == [3, 2]
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(found, run([image])[0])


def test_progress_counts_every_tile_once():
    seen = []
    with Pipeline(Darkness(), tile_px=32, workers=1) as pipeline:
        through(pipeline, [tissue((100, 70)), tissue((100, 70), 1)], seen.append)
        assert sum(seen) == 2 * 4 * 3


def test_no_images():
    with Pipeline(Darkness(), tile_px=32, workers=1) as pipeline:
        pipeline.run([])


def test_an_error_ends_it_without_hanging():
    def stop(n):
        raise KeyError("enough")

    before = set(threading.enumerate())  # other tests may hold a pipeline open
    with pytest.raises(KeyError), Pipeline(Darkness(), tile_px=32, workers=2) as pipeline:
        through(pipeline, [tissue((200, 200))], stop)
    assert not set(threading.enumerate()) - before


def test_an_error_in_a_decoder_reaches_the_collector():
    class Broken(Darkness):
        def instances(self, maps):
            raise ZeroDivisionError

    with Pipeline(Broken(), tile_px=64, workers=1) as pipeline:
        pending = pend(pipeline, [tissue((50, 50))])
        pipeline.run(pending)
        with pytest.raises(ZeroDivisionError):
            collect(pending[0], 0.5)


def test_who_waits_while_the_network_runs_gets_the_result_or_the_error():
    def stop(n):
        raise KeyError("enough")

    image = tissue((200, 200))
    with ThreadPoolExecutor(2) as waiters, Pipeline(Darkness(), tile_px=32, workers=2) as pipeline:
        good, bad = pend(pipeline, [image]), pend(pipeline, [image])
        collected = [waiters.submit(collect, pending, 0.5) for (pending,) in (good, bad)]
        pipeline.run(good)
        with pytest.raises(KeyError):
            pipeline.run(bad, stop)
        np.testing.assert_array_equal(collected[0].result(timeout=60), run([image])[0])
        with pytest.raises(KeyError):
            collected[1].result(timeout=60)


def test_what_fills_the_image_is_one_nucleus(small_windows, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_HALO_UM", 200)
    (found,) = run([np.zeros((250, 250, 3), np.uint8)])
    assert (found == 1).all()


def test_nothing_is_found_on_glass():
    (found,) = run([np.full((90, 50, 3), 255, np.uint8)])
    assert not found.any()
