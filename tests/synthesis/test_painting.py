"""The picture of one nucleus whose truth is known: a disk on an even background.

background 0.2 everywhere, a disk of radius 12 with absorbance (0.8, 0.6, 0.4) in the middle of 48 x
48 pixels
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from histocli.optics.density import optical_density_to_rgb
from histocli.reference.sharpness import fine_detail
from histocli.synthesis.painting import COLUMNS, Canvas, paint, sample_textures

SIDE, RADIUS = 48, 12
COLOUR = (0.8, 0.6, 0.4)
BACKGROUND = 0.2


def canvas(*, background=BACKGROUND, **columns):
    y, x = (np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5).astype(np.float32)
    radius = np.hypot(y, x)
    inside = radius < RADIUS
    values = {
        "red": 0.8,
        "green": 0.6,
        "blue": 0.4,
        "strength": 1,
        "core": 1,
        "rim_px": 2,
        **columns,
    }
    table = torch.zeros(1, 2, len(COLUMNS))
    table[0, :, COLUMNS.index("rim_px")] = 1
    for name, value in values.items():
        table[0, 1, COLUMNS.index(name)] = value

    def plane(values):
        return torch.from_numpy(np.where(inside, values, 0).astype(np.float32))[None].half()

    return Canvas(
        background=torch.full((1, 3, SIDE, SIDE), background),
        owner=torch.from_numpy(inside.astype(np.int32))[None],
        depth=plane(RADIUS - radius),
        frame_u=plane(x / RADIUS),
        frame_v=plane(y / RADIUS),
        nucleoli=torch.zeros(1, SIDE, SIDE).half(),
        grain=torch.zeros(1, SIDE, SIDE).half(),
        nuclei=table,
        textures=torch.zeros(1, 3, 8, 8),
        edge_px=torch.tensor([0.8]),
        white=torch.tensor([256.0]),
        fine=torch.zeros(1, 2),
    )


def painted(drawn):
    image = paint(drawn, 1.2)
    assert image.dtype == torch.uint8
    return image[0].permute(1, 2, 0).numpy().astype(int)


def level(density):
    return optical_density_to_rgb(np.asarray(density)).astype(int)


MIDDLE, OUTSIDE = (SIDE // 2, SIDE // 2), (2, 2)


def test_a_strong_nucleus_has_its_colour_and_the_rest_is_background():
    image = painted(canvas())
    assert np.abs(image[MIDDLE] - level(COLOUR)).max() <= 1
    assert np.abs(image[OUTSIDE] - level([BACKGROUND] * 3)).max() <= 1


def test_strength_blends_between_background_and_colour():
    image = painted(canvas(strength=0.5))
    assert np.abs(image[MIDDLE] - level(0.5 * np.array(COLOUR) + 0.5 * BACKGROUND)).max() <= 1
    faint = painted(canvas(strength=0.0))
    assert np.abs(faint - level([BACKGROUND] * 3)).max() <= 1


def test_a_vesicular_nucleus_is_paler_in_the_middle_than_at_its_rim():
    image = painted(canvas(core=0.2))[..., 0]
    rim = image[MIDDLE[0], MIDDLE[1] - RADIUS + 2]
    assert image[MIDDLE] > rim + 20
    cleared = painted(canvas(core=0.1, clearing=0.6))[..., 0]
    assert cleared[MIDDLE] > painted(canvas(core=0.1))[MIDDLE][0] + 5


def test_grain_and_nucleoli_act_inside_nuclei_only():
    even = canvas(core=0.5)
    rng = np.random.default_rng(0)
    grain = torch.from_numpy(rng.standard_normal((1, SIDE, SIDE)).astype(np.float32)).half()
    without = painted(replace(even, grain=grain))
    np.testing.assert_array_equal(without, painted(even))  # without its gain, grain does nothing
    with_grain = canvas(core=0.5, grain_gain=0.5)
    grainy = painted(replace(with_grain, grain=grain))
    middle = (slice(SIDE // 2 - 5, SIDE // 2 + 5),) * 2
    assert grainy[middle][..., 0].std() > painted(even)[middle][..., 0].std() + 3
    nucleoli = torch.zeros(1, SIDE, SIDE)
    nucleoli[:, SIDE // 2 - 2 : SIDE // 2 + 3, SIDE // 2 - 2 : SIDE // 2 + 3] = 1
    dotted = painted(replace(even, nucleoli=nucleoli.half()))
    assert dotted[MIDDLE][0] < painted(even)[MIDDLE][0] - 20
    for other in (grainy, dotted):
        np.testing.assert_array_equal(other[:4], painted(even)[:4])


def test_the_texture_of_a_real_nucleus_shows_along_its_axes():
    texture = torch.zeros(2, 3, 8, 8)
    texture[1, :, :, 4:] = 0.3  # darker towards the head
    drawn = replace(canvas(texture=1, texture_gain=1), textures=texture)
    image = painted(drawn)[..., 0]
    assert image[SIDE // 2, SIDE // 2 + 6] < image[SIDE // 2, SIDE // 2 - 6] - 15
    unused = painted(replace(canvas(texture=1, texture_gain=0), textures=texture))
    np.testing.assert_array_equal(unused, painted(canvas()))


def test_the_blur_of_edges_is_the_one_asked_for():
    sharp, soft = (
        painted(replace(canvas(), edge_px=torch.tensor([sigma])))[SIDE // 2, :, 0]
        for sigma in (0.4, 1.5)
    )
    assert np.abs(np.diff(sharp)).max() > 1.5 * np.abs(np.diff(soft)).max()


def test_the_level_of_glass_scales_the_light():
    dim = painted(replace(canvas(), white=torch.tensor([200.0])))
    np.testing.assert_allclose(dim + 1, (painted(canvas()) + 1) * 200 / 256, atol=1.1)


def test_deep_absorbance_is_black_and_none_is_white():
    assert painted(canvas(background=9.0, red=9, green=9, blue=9)).max() == 0
    assert painted(canvas(background=0.0, strength=0.0)).min() == 255


@pytest.mark.parametrize("extent", [1.0, 1.2])
def test_textures_are_read_bilinearly(extent):
    """The oracle reads NumPy's, one point at a time."""
    textures = torch.rand((3, 2, 6, 6), generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, 50)
    u, v = rng.uniform(-extent, extent, (2, 50)).astype(np.float32)
    found = sample_textures(
        textures, torch.from_numpy(index), torch.from_numpy(u), torch.from_numpy(v), extent
    ).numpy()
    for k in range(50):
        x, y = (np.clip((value / extent + 1) * 3 - 0.5, 0, 5 - 1e-3) for value in (u[k], v[k]))
        left, top = int(x), int(y)
        square = textures[index[k], :, top : top + 2, left : left + 2].numpy()
        weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
        np.testing.assert_allclose(found[k], (square * weights).sum(axis=(1, 2)), atol=2e-3)


def test_an_edge_out_of_focus_fades_inwards():
    """The middle keeps its colour, the border is paler, and nothing outside changes."""
    sharp, soft = painted(canvas())[..., 0], painted(canvas(softness_px=4))[..., 0]
    assert abs(sharp[MIDDLE] - soft[MIDDLE]) <= 1
    border = (MIDDLE[0], MIDDLE[1] - RADIUS + 1)
    assert soft[border] > sharp[border] + 15
    assert abs(sharp[OUTSIDE] - soft[OUTSIDE]) <= 1


def noisy_canvas(fine):
    """Background with noise, a disk without, and the finest detail that it is to reach."""
    drawn = canvas()
    generator = torch.Generator().manual_seed(0)
    noise = 0.04 * torch.randn(1, 3, SIDE, SIDE, generator=generator)
    return replace(drawn, background=drawn.background + noise, fine=torch.tensor([fine]))


def detail(image, mask):
    light = (image.astype(np.float32) + 1) / 256
    return fine_detail(light, mask)


@pytest.mark.parametrize("target", [0.01, 0.02, 0.03])
def test_nuclei_get_the_noise_that_the_reference_has(target):
    mask = canvas().owner[0].numpy() > 0
    before = detail(painted(noisy_canvas((0.0, 0.0))), mask)[0]
    after = detail(painted(noisy_canvas((target, 0.0))), mask)[0]
    assert before < 0.005
    assert after == pytest.approx(target, rel=0.25)


def test_borders_that_are_too_sharp_are_softened_and_soft_ones_stay():
    mask = canvas().owner[0].numpy() > 0
    sharp = detail(painted(canvas()), mask)[1]
    softened = detail(painted(replace(canvas(), fine=torch.tensor([[0.0, 0.5 * sharp]]))), mask)[1]
    assert 0.35 * sharp < softened < 0.75 * sharp
    assert np.array_equal(
        painted(replace(canvas(), fine=torch.tensor([[0.0, 2 * sharp]]))), painted(canvas())
    )


def test_a_faint_nucleus_is_no_measure_of_sharpness():
    """The reference's rough map would not have seen it, so nothing is known and nothing changes."""
    faint = canvas(strength=0.4)
    assert np.array_equal(
        painted(replace(faint, fine=torch.tensor([[0.02, 0.001]]))), painted(faint)
    )
