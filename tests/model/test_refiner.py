"""The refiner and its critics: shapes, what they may touch, what they are blind to."""

import pytest
import torch

from histocli.base.errors import InvalidStore
from histocli.model.discriminator import Classifier, RealismCritic, StyleCritic, texture_of
from histocli.model.refiner import Refiner, RefinerArchitecture, build_refiner, describe_refiner

SMALL = RefinerArchitecture(width=4, blocks=1, style=6)


def inputs(height=32, width=48, batch=2):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    gate = (draw(batch, 1, height, width) > 0.5).float()
    return (
        draw(batch, 3, height, width),
        gate,
        draw(batch, 1, height, width),
        gate,
        draw(batch, 3, 16, 16),
        draw(batch, 1, 16, 16),
    )


def stirred(refiner):
    """Return the refiner with weights that change something."""
    torch.manual_seed(1)
    torch.nn.init.normal_(refiner.head.weight, std=0.5)
    return refiner


def test_an_untrained_refiner_changes_nothing():
    assert not build_refiner(describe_refiner(Refiner(SMALL)))(*inputs()).any()


def test_nothing_changes_where_the_gate_is_closed():
    values = inputs()
    change = stirred(Refiner(SMALL))(*values)
    assert change.shape == values[0].shape
    assert change.dtype == torch.float32
    closed = (values[3] == 0).expand_as(change)
    assert not change[closed].any()
    assert change[~closed].abs().min() > 0


@pytest.mark.parametrize("size", [(16, 16), (20, 44), (64, 32)])
def test_any_size_that_is_a_multiple_of_four_is_taken(size):
    assert stirred(Refiner(SMALL))(*inputs(*size)).shape[2:] == size


def test_the_style_of_the_reference_reaches_the_change():
    refiner, values = stirred(Refiner(SMALL)), inputs()
    other = (*values[:4], values[4] * 2, values[5])
    assert (refiner(*values) - refiner(*other)).abs().max() > 1e-4


def test_architectures_that_are_not_known_are_refused():
    for wrong in (
        {"family": "gan"},
        {"family": "modulated-residual", "width": -1, "blocks": 1, "style": 2},
        {},
    ):
        with pytest.raises(InvalidStore, match="not known to this version"):
            build_refiner(wrong)


def test_the_realism_critic_is_blind_to_tone():
    """A smooth change of brightness leaves texture alone; a pixel's noise does not."""
    critic = RealismCritic((4, 6, 8)).eval()
    pixels = torch.rand(1, 3, 32, 32) * 0.2 + 0.4
    ramp = torch.linspace(0, 0.2, 32)[None, None, None, :].expand_as(pixels)
    inside = (slice(None), slice(6, -6), slice(6, -6))
    assert torch.allclose(
        texture_of(pixels + ramp)[:, :, 5:-5, 5:-5], texture_of(pixels)[:, :, 5:-5, 5:-5], atol=1e-4
    )
    assert texture_of(torch.full((1, 3, 16, 16), 0.7)).abs().max() < 1e-4
    with torch.no_grad():
        same, other = critic(pixels + 0.1), critic(pixels + 0.05 * torch.randn_like(pixels))
        assert torch.allclose(same[inside], critic(pixels)[inside], atol=1e-3)
        assert not torch.allclose(other[inside], critic(pixels)[inside], atol=1e-3)
        assert critic(pixels).shape == (1, 16, 16)


def test_a_pair_has_no_order():
    critic = StyleCritic(4)
    pixels, nuclei = torch.rand(3, 3, 32, 32), (torch.rand(3, 1, 32, 32) > 0.5).float()
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2]])
    logits = critic(pixels, nuclei, pairs)
    assert logits.shape == (3,)
    assert torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_a_classifier_takes_patches_of_any_even_size():
    assert Classifier((2, 3, 4))(torch.rand(2, 3, 26, 40)).shape == (2,)
