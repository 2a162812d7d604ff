"""The loss is small where the network is right, and blind where pixels are ignored."""

import pytest
import torch

from histocli.training.losses import segmentation_loss


def truth(batch=2, side=16):
    nucleus = torch.zeros(batch, side, side)
    nucleus[:, 4:12, 4:12] = 1
    distance = nucleus * 0.6
    return nucleus, distance, torch.ones(batch, side, side), torch.ones(batch)


def perfect(nucleus, distance):
    return torch.stack([(nucleus * 2 - 1) * 20, torch.logit(distance.clamp(1e-6, 1 - 1e-6))], dim=1)


def test_perfect_logits_cost_next_to_nothing():
    nucleus, distance, valid, weight = truth()
    assert segmentation_loss(perfect(nucleus, distance), nucleus, distance, valid, weight) < 1e-3


def test_an_empty_patch_may_be_perfect_too():
    nothing = torch.zeros(1, 8, 8)
    found = segmentation_loss(
        perfect(nothing, nothing), nothing, nothing, torch.ones(1, 8, 8), torch.ones(1)
    )
    assert found < 1e-3
    false_alarm = segmentation_loss(
        torch.full((1, 2, 8, 8), 5.0), nothing, nothing, torch.ones(1, 8, 8), torch.ones(1)
    )
    assert false_alarm > 3


@pytest.mark.parametrize("output", [0, 1])
def test_each_output_is_punished(output):
    nucleus, distance, valid, weight = truth()
    wrong = perfect(nucleus, distance)
    wrong[:, output] = -wrong[:, output]
    assert segmentation_loss(wrong, nucleus, distance, valid, weight) > 0.2


def test_ignored_pixels_change_nothing():
    nucleus, distance, valid, weight = truth()
    valid[:, :, :7] = 0
    logits = torch.randn(
        2, 2, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    loss = segmentation_loss(logits, nucleus, distance, valid, weight)
    loss.backward()
    assert logits.grad[..., :7].abs().max() == 0
    assert logits.grad[..., 7:].abs().min() > 0
    other = logits.detach().clone()
    other[..., :7] = 30.0
    swapped = nucleus.clone()
    swapped[..., :7] = 1 - swapped[..., :7]
    assert segmentation_loss(
        other, swapped * valid + nucleus * (1 - valid), distance, valid, weight
    ) == pytest.approx(loss.item())


def test_a_patch_that_is_ignored_everywhere_stays_finite():
    nucleus, distance, _, weight = truth(1)
    assert torch.isfinite(
        segmentation_loss(
            torch.zeros(1, 2, 16, 16), nucleus, distance, torch.zeros(1, 16, 16), weight[:1]
        )
    )


def test_weights_choose_among_patches():
    nucleus, distance, valid, _ = truth()
    logits = perfect(nucleus, distance)
    logits[1] = -logits[1]
    each = [
        segmentation_loss(
            logits[i : i + 1], nucleus[:1], distance[:1], valid[:1], torch.ones(1)
        ).item()
        for i in range(2)
    ]
    for first, second in ((1, 0), (0, 1), (1, 1), (3, 1)):
        found = segmentation_loss(
            logits, nucleus, distance, valid, torch.tensor([float(first), float(second)])
        )
        assert found.item() == pytest.approx(
            (first * each[0] + second * each[1]) / (first + second), rel=1e-4, abs=1e-5
        )
    assert segmentation_loss(logits, nucleus, distance, valid, torch.zeros(2)) == 0


def test_distances_that_are_not_known_cost_nothing():
    nucleus, distance = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    nucleus[:, 2:6, 2:6], distance[:, 2:6, 2:6] = 1, 0.7
    valid, weight = torch.ones(2, 8, 8), torch.ones(2)
    right = perfect(nucleus, distance)
    wrong = right.clone()
    wrong[1, 1] = -8.0  # the second patch: no distance at all
    known = segmentation_loss(wrong, nucleus, distance, valid, weight)
    unknown = segmentation_loss(wrong, nucleus, distance, valid, weight, torch.tensor([1.0, 0.0]))
    assert known > 0.05
    assert unknown == pytest.approx(
        segmentation_loss(right, nucleus, distance, valid, weight).item(), abs=1e-4
    )
