"""The predictor turns tiles into maps, the same for any tile that shows a pixel's surroundings."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from histocli.inference.predict import Predictor
from histocli.instances.targets import Thresholds
from histocli.model.segmenter import SIZES, Architecture, Segmenter, build_segmenter

CPU = torch.device("cpu")


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return Predictor(
        Segmenter(Architecture(channels=(4, 6, 8))), mpp=0.5, device=CPU, dtype=torch.float32
    )


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_maps_are_probabilities_of_the_shape_of_the_tiles(predictor):
    maps = predictor.maps(pixels(2, 16, 40))
    assert maps.shape == (2, 16, 40, 2)
    assert maps.dtype == np.float32
    assert 0 <= maps.min() <= maps.max() <= 1


def test_maps_are_those_of_the_network(predictor):
    tiles = pixels(2, 16, 24)
    tensor = torch.from_numpy(tiles.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    with torch.inference_mode():
        expected = torch.sigmoid(predictor.segmenter(tensor)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(predictor.maps(tiles), expected, atol=1e-5)


def test_it_evaluates_and_leaves_no_trace(predictor):
    """Batch statistics are fixed: a tile's maps do not depend on its batch, nor on what was seen
    before."""
    tiles = pixels(3, 32, 32)
    before = {name: value.clone() for name, value in predictor.segmenter.state_dict().items()}
    together = predictor.maps(tiles)
    np.testing.assert_allclose(together[1], predictor.maps(tiles[1:2])[0], atol=1e-5)
    assert not predictor.segmenter.training
    for name, value in predictor.segmenter.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("size", ["S", "M"])
def test_the_halo_is_context_enough(size):
    """Inside the halo, maps of a tile are those of a larger tile around it, up to a hair."""
    torch.manual_seed(0)
    # the reach is that of the size, the cost is not
    channels = tuple(max(2, c // 8) for c in SIZES[size])
    predictor = Predictor(
        Segmenter(Architecture(channels=channels)), mpp=0.5, device=CPU, dtype=torch.float32
    )
    halo, multiple = predictor.halo_px, predictor.multiple_px
    assert multiple == build_segmenter({"family": "unet", "channels": SIZES[size]}).multiple_px
    assert halo % multiple == 0
    side = 2 * halo + multiple
    image = pixels(1, side + 2 * multiple, side + 2 * multiple)
    inner = slice(halo, halo + multiple)
    whole = predictor.maps(image)[0, multiple:-multiple, multiple:-multiple][inner, inner]
    tile = predictor.maps(image[:, multiple:-multiple, multiple:-multiple])[0, inner, inner]
    np.testing.assert_allclose(tile, whole, atol=2e-3)


def test_thresholds_are_its_own():
    torch.manual_seed(0)
    segmenter = Segmenter(Architecture(channels=(4, 6)))
    maps = np.zeros((24, 24, 2), np.float32)
    maps[4:20, 4:20] = 0.8
    strict = Predictor(
        segmenter, mpp=0.5, device=CPU, dtype=torch.float32, thresholds=Thresholds(probability=0.9)
    )
    plain = Predictor(segmenter, mpp=0.5, device=CPU, dtype=torch.float32)
    assert strict.instances(maps).max() == 0
    assert plain.instances(maps).max() == 1


def test_the_pixel_size_is_its_own():
    torch.manual_seed(0)
    segmenter = Segmenter(Architecture(channels=(4, 6)))
    maps = np.zeros((24, 24, 2), np.float32)
    maps[4:9, 4:9] = 0.9  # 25 pixels
    fine, coarse = (
        Predictor(segmenter, mpp=mpp, device=CPU, dtype=torch.float32).instances(maps).max()
        for mpp in (0.25, 1.0)
    )
    assert (fine, coarse) == (0, 1)


def test_bfloat16_is_float32_up_to_rounding(predictor):
    half = Predictor(predictor.segmenter, mpp=0.5, device=CPU, dtype=torch.bfloat16)
    tiles = pixels(1, 32, 32)
    found = half.maps(tiles)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, predictor.maps(tiles), atol=0.02)


def blobs(height, width, seed=0):
    """Return pale pixels with dark blobs, so that an image has something to decode."""
    smooth = ndimage.gaussian_filter(
        np.random.default_rng(seed).standard_normal((height, width)), 3
    )
    level = np.where(smooth > 0.05, 60, 220)
    return np.repeat(level[..., None], 3, axis=2).astype(np.uint8)


def decoding(predictor):
    """Let the predictor find nuclei in half of an untrained network's values."""
    maps = predictor.maps(blobs(64, 64)[None])[0]
    predictor.thresholds = Thresholds(
        probability=float(np.median(maps[..., 0])),
        confidence=0.0,
        smallest_um2=0.5,
        smallest_core_um2=0.1,
    )
    return predictor


@pytest.mark.parametrize("shape", [(64, 64), (61, 83), (17, 40), (1, 1), (3, 90)])
def test_an_image_of_any_size_is_segmented(predictor, shape):
    labels = decoding(predictor).segment(blobs(*shape))
    assert labels.shape == shape
    assert set(np.unique(labels)) == set(range(labels.max() + 1))


def test_segmenting_is_cutting_from_the_mirrored_image(predictor):
    """The oracle mirrors by index arithmetic, further than needed, and cuts the maps out of the
    middle."""
    decoding(predictor)
    found_any = False
    for height, width in ((64, 64), (61, 83)):
        image = blobs(height, width)
        margin = predictor.halo_px + predictor.multiple_px
        rows, columns = (
            [
                min(k % (2 * side), 2 * side - 1 - k % (2 * side))
                for k in range(-margin, side + margin + -side % predictor.multiple_px)
            ]
            for side in (height, width)
        )
        mirrored = np.ascontiguousarray(image[rows][:, columns])
        maps = predictor.maps(mirrored[None])[0, margin : margin + height, margin : margin + width]
        expected = predictor.instances(np.ascontiguousarray(maps))
        labels = predictor.segment(image)
        assert ((labels > 0) == (expected > 0)).mean() > 0.999  # a hair may tip a pixel
        found_any |= labels.max() > 3
    assert found_any


def test_segmenting_leaves_the_image_alone(predictor):
    image = blobs(40, 50)
    image.setflags(write=False)
    first, again = decoding(predictor).segment(image), predictor.segment(image)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(("turns", "mirrored"), [(1, False), (2, True), (3, False)])
def test_with_all_views_a_turned_tile_gives_turned_maps(turns, mirrored):
    """One view does not: a network has learnt that light falls from nowhere, but never exactly."""
    torch.manual_seed(0)
    segmenter = Segmenter(Architecture(channels=(4, 6, 8)))
    tile = pixels(1, 32, 32)

    def turn(array):
        turned = np.rot90(array, turns, (1, 2))
        return np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned)

    for views, same in ((8, True), (1, False)):
        predictor = Predictor(segmenter, mpp=0.5, device=CPU, dtype=torch.float32, views=views)
        assert (
            np.allclose(predictor.maps(turn(tile)), turn(predictor.maps(tile)), atol=1e-5) == same
        )


def test_views_of_tiles_that_are_not_square_keep_their_shape(predictor):
    several = Predictor(predictor.segmenter, mpp=0.5, device=CPU, dtype=torch.float32, views=4)
    assert several.maps(pixels(2, 16, 40)).shape == (2, 16, 40, 2)
