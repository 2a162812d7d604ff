"""Image and labels move together, and the generator decides all."""

import cv2
import numpy as np
import pytest
import torch

from histocli.training.augmentation import (
    Augmentation,
    compress_jpeg,
    cut_crops,
    sometimes,
    transfer_colours,
    uniform,
    vary_appearance,
    vary_stains,
)
from tests.tissue import make_tissue, paint_ellipses


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(batch=4, side=48):
    """Return planes whose first channel is a gradient."""
    ramp = torch.linspace(0, 1, side)
    plane = ramp[None] * 0.7 + ramp[:, None] * 0.3
    return plane.expand(batch, 1, side, side).contiguous()


def test_image_and_mask_move_together():
    """The mask is painted into the image, so after any cut the two must be equal."""
    mask = torch.from_numpy(
        (paint_ellipses((64, 64), [(20, 20), (44, 40)], 12, 8, [0.3, 1.2]) > 0).astype(np.float32)
    )
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
    # three marks in a channel each: turning keeps the sense in which they follow one another,
    # mirroring reverses it
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
    light = torch.from_numpy(
        np.linspace(20, 240, 32 * 32).reshape(1, 1, 32, 32).astype(np.float32)
    ).expand(32, 3, -1, -1)
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
    assert (
        spread(underexposure=1.0).mean(dim=(1, 2, 3)).min() < nothing.mean(dim=(1, 2, 3)).min() - 20
    )
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


def picture(height=96, width=128, seed=0):
    """Return an image with edges, colours and noise, float32 of whole numbers, (1, 3, H, W)."""
    rng = np.random.default_rng(seed)
    tissue = make_tissue(128, seed=seed).image[:height, :width].astype(float)
    return torch.from_numpy(
        np.clip(np.rint(tissue + rng.normal(0, 4, tissue.shape)), 0, 255).astype(np.float32)
    ).permute(2, 0, 1)[None]


def by_opencv(light, quality):
    """Compress by libjpeg, with chroma at half resolution."""
    image = np.ascontiguousarray(light[0].permute(1, 2, 0).numpy().astype(np.uint8)[..., ::-1])
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    coded = cv2.imencode(".jpg", image, settings)[1]
    return torch.from_numpy(
        cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)
    ).permute(2, 0, 1)[None]


@pytest.mark.parametrize("quality", [25, 40, 50, 75, 90])
def test_jpeg_is_what_the_reference_implementation_gives(quality):
    light = picture()
    found, expected = (
        compress_jpeg(light, torch.tensor([float(quality)])),
        by_opencv(light, quality),
    )
    lost, lost_there = ((image - light).abs().mean().item() for image in (found, expected))
    assert lost_there > 1
    assert lost == pytest.approx(lost_there, rel=0.1)
    assert (found - expected).abs().mean() < min(2.0, 0.5 * lost_there)


def test_jpeg_of_the_highest_quality_loses_hardly_anything():
    """All but the fine chroma, which an even hue does not have."""
    grey = picture().mean(dim=1, keepdim=True).round().expand(-1, 3, -1, -1)
    assert (compress_jpeg(grey, torch.tensor([100.0])) - grey).abs().mean() < 0.5
    colour = picture()
    best, good, bad = (
        (compress_jpeg(colour, torch.tensor([q])) - colour).abs().mean()
        for q in (100.0, 80.0, 25.0)
    )
    assert best < good < bad


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 33), (16, 16), (50, 41)])
def test_jpeg_keeps_the_shape(height, width):
    light = picture(height, width)
    found = compress_jpeg(light, torch.tensor([60.0]))
    assert found.shape == light.shape
    assert found.min() >= 0
    assert found.max() <= 255
    assert (found - light).abs().mean() < 12


def test_each_image_has_its_own_quality():
    light = picture().expand(3, -1, -1, -1)
    together = compress_jpeg(light, torch.tensor([20.0, 60.0, 95.0]))
    for index, quality in enumerate((20.0, 60.0, 95.0)):
        torch.testing.assert_close(
            together[index : index + 1],
            compress_jpeg(light[:1], torch.tensor([quality])),
            atol=1e-3,
            rtol=0,
        )


def stained(batch=8):
    """Densities whose means and spreads differ from image to image."""
    base = torch.rand(batch, 3, 24, 24, generator=seeded(4))
    amount = torch.linspace(0.2, 0.9, batch)[:, None, None, None]
    return base * amount + amount


def test_no_transfer_is_identity():
    density = stained()
    torch.testing.assert_close(transfer_colours(density, 0.0, seeded()), density, atol=1e-6, rtol=0)


def test_transfer_moves_means_towards_those_of_another_image():
    """After it, every mean lies between the image's own and that of one other, the same for all
    three colours."""
    density = stained()
    for seed in range(5):
        moved = transfer_colours(density, 1.0, seeded(seed))
        assert moved.shape == density.shape
        own, new = density.mean(dim=(2, 3)), moved.mean(dim=(2, 3))
        for k in range(len(own)):
            ways = own - own[k]  # from this image's to each other's
            step = new[k] - own[k]
            if step.abs().max() < 1e-5:  # its own donor
                continue
            shares = step / torch.where(ways.abs() > 1e-6, ways, torch.inf)
            fits = (
                (shares.amax(dim=1) - shares.amin(dim=1) < 1e-3)
                & (shares.amin(dim=1) > 0.199)
                & (shares.amax(dim=1) < 1.001)
            )
            assert fits.any()
        assert ((new - own).abs().max(dim=1).values > 0.01).sum() >= len(own) // 2


def test_transfer_keeps_what_the_image_shows():
    """Only mean and spread change: within a colour, moved is a rising straight line of what was."""
    density = stained()
    moved = transfer_colours(density, 1.0, seeded(1))
    for before, after in zip(
        density.flatten(0, 1).flatten(1), moved.flatten(0, 1).flatten(1), strict=True
    ):
        assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.9999
        assert 0.59 < after.std() / before.std() < 1.61


def test_transfer_and_jpeg_are_decided_by_the_generator():
    density = stained()
    first, again, other = (transfer_colours(density, 1.0, seeded(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first, other)
    light = picture().expand(6, -1, -1, -1)
    all_settings = Augmentation(jpeg=1.0, transfer=1.0)
    torch.testing.assert_close(
        vary_appearance(light, all_settings, seeded(3)),
        vary_appearance(light, all_settings, seeded(3)),
        atol=0,
        rtol=0,
    )
    # the input is left alone
    torch.testing.assert_close(light, picture().expand(6, -1, -1, -1), atol=0, rtol=0)


def test_jpeg_is_a_setting():
    light = picture().expand(4, -1, -1, -1)
    still = {
        "stain_gain": 0,
        "stain_mixing": 0,
        "underexposure": 0,
        "blur_px": 0.3,
        "noise": 0,
        "transfer": 0,
    }
    without, compressed = (
        vary_appearance(light, Augmentation(**still, jpeg=share, jpeg_quality=(20, 20)), seeded(2))
        for share in (0.0, 1.0)
    )
    torch.testing.assert_close(
        compressed, compress_jpeg(without, torch.full((4,), 20.0)), atol=0.01, rtol=0
    )


def test_strong_changes_of_stains_keep_places_and_differ_between_crops():
    density = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    varied = vary_stains(density, 1.6, torch.Generator().manual_seed(1))
    again = vary_stains(density, 1.6, torch.Generator().manual_seed(1))
    assert torch.equal(varied, again)
    assert (varied.mean(dim=(2, 3)) - density.mean(dim=(2, 3))).std() > 0.1
    # each pixel's new colour depends on its own colour and on the mean of its crop only
    turned = vary_stains(density.flip(3), 1.6, torch.Generator().manual_seed(1))
    torch.testing.assert_close(turned.flip(3), varied, atol=1e-5, rtol=1e-5)
