"""The segmenter keeps shapes, knows no place, and is built from its description alone."""

import json

import pytest
import torch

from histocli.base.errors import InvalidStore
from histocli.model.normalisation import PIXEL_MEAN, PIXEL_STD, standardise
from histocli.model.segmenter import (
    SIZES,
    TARGETS,
    Architecture,
    Segmenter,
    architecture_of_size,
    build_segmenter,
    channels_last,
    combine_maps,
)

CPU = torch.device("cpu")


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Segmenter(Architecture(channels=(4, 6, 8))).eval()


@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_output_is_as_large_as_the_input(size):
    segmenter = build_segmenter(architecture_of_size(size)).eval()
    multiple = segmenter.multiple_px
    with torch.inference_mode():
        logits = segmenter(noise(1, 3, 2 * multiple, 3 * multiple))
    assert logits.shape == (1, TARGETS["distance"], 2 * multiple, 3 * multiple)
    assert torch.isfinite(logits).all()


def test_larger_sizes_have_more_weights():
    counts = [
        sum(p.numel() for p in build_segmenter(architecture_of_size(size)).parameters())
        for size in ("S", "M", "L")
    ]
    assert counts[0] < counts[1] / 3 < counts[2] / 9


def test_a_shift_by_its_multiple_shifts_the_output(tiny):
    step = tiny.multiple_px
    assert step == 8
    image = noise(1, 3, 96, 96)
    with torch.inference_mode():
        first, second = tiny(image), tiny(torch.roll(image, (step, 2 * step), dims=(2, 3)))
    inner = slice(40, 60)
    torch.testing.assert_close(
        second[:, :, 40 + step : 60 + step, 40 + 2 * step : 60 + 2 * step],
        first[:, :, inner, inner],
        atol=1e-4,
        rtol=1e-3,
    )


def test_a_pixel_depends_on_its_surroundings_only(tiny):
    image = noise(1, 3, 128, 128)
    changed = image.clone()
    changed[:, :, :16] = 0
    with torch.inference_mode():
        difference = (tiny(image) - tiny(changed)).abs().amax(dim=(0, 1, 3))
    assert difference[:16].max() > 1e-3
    assert difference[96:].max() < 1e-5


def test_images_of_a_batch_do_not_mix_after_training(tiny):
    images = noise(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(tiny(images)[1:2], tiny(images[1:2]), atol=1e-5, rtol=1e-4)


def test_its_description_survives_json_and_rebuilds_it(tiny):
    description = json.loads(
        json.dumps({"family": "unet", "channels": list(tiny.architecture.channels)})
    )
    rebuilt = build_segmenter(description).eval()
    assert rebuilt.architecture == tiny.architecture
    rebuilt.load_state_dict(tiny.state_dict())
    image = noise(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(image), tiny(image))


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"family": "transformer", "channels": [8, 16]},
        {"family": "unet"},
        {"family": "unet", "channels": 8},
        {"family": "unet", "channels": "wide"},
        {"family": "unet", "channels": [8]},
        {"family": "unet", "channels": [8, -16]},
        {"family": "unet", "channels": [8, 16.5]},
        {"family": "unet", "channels": [8, 0]},
        {"family": "unet", "channels": [2] * 9},
    ],
)
def test_an_unknown_architecture_is_refused(description):
    with pytest.raises(InvalidStore, match="not known to this version"):
        build_segmenter(description)


def test_normalisation_is_the_one_that_is_written_into_models():
    assert standardise(torch.tensor(PIXEL_MEAN)) == 0
    assert standardise(torch.tensor(PIXEL_MEAN + PIXEL_STD)) == pytest.approx(1)


def test_the_memory_order_changes_nothing(tiny):
    image = noise(1, 3, 32, 32)
    with torch.inference_mode():
        before = tiny(image)
        after = channels_last(tiny, CPU)(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_every_weight_learns(tiny):
    tiny.train()
    tiny(noise(2, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tiny.parameters())


@pytest.mark.parametrize(("resolution", "multiple"), [("half", 8), ("full", 4)])
@pytest.mark.parametrize("targets", sorted(TARGETS))
def test_every_design_keeps_the_shape_and_has_as_many_maps_as_targets(
    resolution, multiple, targets
):
    segmenter = build_segmenter(
        {"family": "unet", "channels": [4, 6, 8], "resolution": resolution, "targets": targets}
    ).eval()
    assert segmenter.multiple_px == multiple
    with torch.inference_mode():
        logits = segmenter(noise(1, 3, 24, 32))
    assert logits.shape == (1, TARGETS[targets], 24, 32)
    assert combine_maps(torch.sigmoid(logits)).shape == (1, 2, 24, 32)


@pytest.mark.parametrize(
    "wrong", [{"resolution": "double"}, {"targets": "stars"}, {"family": "vit"}]
)
def test_a_design_of_another_version_is_refused(wrong):
    with pytest.raises(InvalidStore, match="not known to this version"):
        build_segmenter({"family": "unet", "channels": [4, 6], **wrong})


def test_a_contact_speaks_against_depth_and_not_against_the_mask():
    logits = torch.tensor([2.0, 1.0, 100.0])[None, :, None, None]
    nucleus, depth = combine_maps(torch.sigmoid(logits))[0, :, 0, 0]
    assert nucleus == torch.sigmoid(torch.tensor(2.0))
    assert depth == 0
    logits[:, 2] = -100
    assert combine_maps(torch.sigmoid(logits))[0, 1, 0, 0] == torch.sigmoid(torch.tensor(1.0))


@pytest.mark.parametrize("resolution", ["half", "full"])
@pytest.mark.parametrize("channels", [(2, 3), (2, 3, 4), (2, 2, 2, 2), (2, 2, 2, 2, 2)])
def test_it_looks_no_further_than_its_halo_and_not_much_less_far(channels, resolution):
    """All weights are positive, so that every pixel within reach brightens the logits."""
    segmenter = Segmenter(Architecture(channels=channels, resolution=resolution)).eval()
    halo, multiple = segmenter.halo_px, segmenter.multiple_px
    assert halo % multiple == 0
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.abs_().add_(0.1)
    dark = torch.full((1, 3, multiple, 4 * halo), PIXEL_MEAN, dtype=torch.float64)
    segmenter.double()
    reaches = []
    with torch.inference_mode():
        before = segmenter(dark)
        for place in range(2 * halo, 2 * halo + multiple):
            bright = dark.clone()
            bright[..., place] += 0.1
            seen = (segmenter(bright) != before).any(dim=2).flatten(0, 1).any(dim=0).nonzero()
            reaches += [place - int(seen.min()), int(seen.max()) - place]
    assert halo - 2 * multiple < max(reaches) <= halo
