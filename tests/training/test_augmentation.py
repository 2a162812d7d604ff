"""Image and labels move together, and the generator decides all."""

import numpy as np
import pytest
import torch

from histocli.training.augmentation import Augmentation, cut_crops, sometimes, uniform, vary_appearance
from tests.tissue import paint_ellipses


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(batch=4, side=48):
    """Return planes whose first channel is a gradient."""
    ramp = torch.linspace(0, 1, side)
    plane = ramp[None] * 0.7 + ramp[:, None] * 0.3
    return plane.expand(batch, 1, side, side).contiguous()


def test_image_and_mask_move_together():
    """The mask is painted into the image, so after any cut the two must be equal."""
    mask = torch.from_numpy((paint_ellipses((64, 64), [(20, 20), (44, 40)], 12, 8, [0.3, 1.2]) > 0).astype(np.float32))
    planes = torch.stack([mask * 200, mask])[None].expand(16, -1, -1, -1)
    crops = cut_crops(planes, 48, (0.7, 1.4), seeded())
    assert crops.shape == (16, 2, 48, 48)
    torch.testing.assert_close(crops[:, 0] / 200, crops[:, 1], atol=1e-4, rtol=0)
    shares = crops[:, 1].mean(dim=(1, 2))
    assert shares.min() >= 0
    assert shares.std() > 0.01  # the crops differ


def test_crops_hold_pixels_of_their_patch_only():
    planes = torch.arange(6.0)[:, None, None, None].expand(6, 1, 40, 40)
    crops = cut_crops(planes, 64, (0.5, 1.5), seeded())  # larger than the patch: mirrored
    torch.testing.assert_close(crops, planes[..., :1, :1].expand(6, 1, 64, 64))


def test_magnification_is_the_one_asked_for():
    """The gradient of a crop is that of its patch over the magnification, whatever the angle."""
    planes = smooth(64, 96)
    for zoom in (0.8, 1.0, 1.3):
        crops = cut_crops(planes, 32, (zoom, zoom), seeded())
        slope = [torch.gradient(crops[:, 0], dim=d)[0][:, 12:20, 12:20] for d in (1, 2)]
        found = torch.hypot(*slope).flatten(1).median(dim=1).values
        expected = np.hypot(0.7, 0.3) / 95 / zoom
        assert np.median(found.numpy()) == pytest.approx(expected, rel=0.05)
    between = cut_crops(planes, 32, (0.5, 2.0), seeded())
    slope = [torch.gradient(between[:, 0], dim=d)[0][:, 12:20, 12:20] for d in (1, 2)]
    found = torch.hypot(*slope).flatten(1).median(dim=1).values * 95 / np.hypot(0.7, 0.3)
    assert found.min() < 0.75
    assert found.max() > 1.3


def test_all_angles_and_both_hands_occur():
    crops = cut_crops(smooth(200, 64), 24, (1.0, 1.0), seeded())[:, 0]
    slope_y, slope_x = (torch.gradient(crops, dim=d)[0].mean(dim=(1, 2)) for d in (1, 2))
    angle = torch.atan2(slope_y, slope_x)
    counts = torch.histc(angle, 8, -np.pi, np.pi)
    assert counts.min() > 8
    # three marks in a channel each: turning keeps the sense in which they follow one another, mirroring reverses it
    marks = torch.zeros(200, 3, 64, 64)
    for channel, (y, x) in enumerate([(24, 24), (24, 40), (40, 24)]):
        marks[:, channel, y - 2 : y + 3, x - 2 : x + 3] = 1
    found = cut_crops(marks, 64, (1.0, 1.0), seeded())
    side = torch.arange(64.0)
    mass = found.sum(dim=(2, 3))
    y, x = (found.sum(dim=3) @ side) / mass, (found.sum(dim=2) @ side) / mass
    sense = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    assert (sense.abs() > 200).all()  # 16 x 16, either way
    assert 0.3 < (sense > 0).float().mean() < 0.7


@pytest.mark.parametrize("change", ["crops", "appearance"])
def test_the_generator_decides_all(change):
    light = torch.rand((3, 3, 32, 32), generator=seeded(9)) * 255

    def run(seed):
        torch.manual_seed(seed + 100)  # the global generator has no say
        if change == "crops":
            return cut_crops(light, 24, (0.8, 1.2), seeded(seed))
        return vary_appearance(light, Augmentation(), seeded(seed))

    torch.testing.assert_close(run(1), run(1), rtol=0, atol=0)
    assert not torch.equal(run(1), run(2))


def test_appearance_stays_light():
    light = torch.rand((24, 3, 32, 32), generator=seeded(9)) * 255
    varied = vary_appearance(light, Augmentation(), seeded())
    assert varied.shape == light.shape
    assert torch.isfinite(varied).all()
    assert varied.min() >= 0
    assert varied.max() <= 255
    assert (varied - light).abs().mean(dim=(1, 2, 3)).min() > 1  # each patch is changed


def test_settings_of_nothing_change_next_to_nothing():
    light = torch.from_numpy(np.linspace(20, 240, 32 * 32).reshape(1, 1, 32, 32).astype(np.float32)).expand(32, 3, -1, -1)
    still = Augmentation(stain_gain=0, stain_mixing=0, underexposure=0, blur_px=0.3, noise=0)
    difference = (vary_appearance(light, still, seeded()) - light).abs()
    assert difference.mean() < 12  # exposure still differs by some per cent
    assert difference.max() < 45
    crops = cut_crops(smooth(), 48, (1.0, 1.0), seeded())
    assert crops.min() >= 0
    assert crops.max() <= 1


def test_each_setting_acts():
    light = torch.full((64, 3, 24, 24), 150.0)
    light[..., ::2, :] = 200.0

    def spread(**settings):
        still = {"stain_gain": 0, "stain_mixing": 0, "underexposure": 0, "blur_px": 0.3, "noise": 0}
        return vary_appearance(light, Augmentation(**{**still, **settings}), seeded())

    nothing = spread()
    assert (spread(stain_gain=0.4) - nothing).abs().mean() > 5
    mixed = (spread(stain_mixing=0.2) - nothing).mean(dim=(2, 3))
    assert mixed.std(dim=1).mean() > 2  # the colours part
    assert spread(underexposure=1.0).mean(dim=(1, 2, 3)).min() < nothing.mean(dim=(1, 2, 3)).min() - 20
    contrast = lambda image: (image[..., 1::2, :] - image[..., ::2, :]).abs().mean(dim=(1, 2, 3))  # noqa: E731
    assert contrast(spread(blur_px=1.6)).min() < 0.5 * contrast(nothing).min()
    rows = spread(noise=0.1)[..., 1::2, :]
    assert rows.std(dim=3).mean(dim=(1, 2)).max() > 5


def test_draws_lie_where_they_should():
    values = uniform(2000, -2, 3, seeded())
    assert (values >= -2).all()
    assert (values < 3).all()
    assert values.mean() == pytest.approx(0.5, abs=0.15)
    chances = sometimes(2000, 0.2, seeded())
    assert set(chances.tolist()) == {0.0, 1.0}
    assert chances.mean() == pytest.approx(0.2, abs=0.04)
