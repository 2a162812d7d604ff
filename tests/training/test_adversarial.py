"""The adversarial training: what it may touch, what it draws, and that critics learn what they are
for.

``world``: eight images; each has a colour of its own and patches of 64 px, in which nuclei are dark
disks. Real disks carry noise, painted ones are smooth.
"""

import copy

import numpy as np
import pytest
import torch

from histocli.model.refiner import Refiner, RefinerArchitecture
from histocli.training.adversarial.gate import edit_gate
from histocli.training.adversarial.guard import SATURATED_STEPS, Guard
from histocli.training.adversarial.judge import judge_held_out
from histocli.training.adversarial.losses import feature_distance
from histocli.training.adversarial.networks import AdversarialTraining, History, Networks
from histocli.training.adversarial.repaint import refine_patches
from histocli.training.adversarial.sampling import InitialPatches, RealPatches, Sampler, hold_out
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.adversarial.step import StepReport, train_adversarial

CPU = torch.device("cpu")
SIDE, MPP = 64, 0.5
SCHEDULE = AdversarialSchedule(
    batch=4, crop_px=32, warm_up=40 / 140, history=8, critic_rate=5e-3, seed=3
)


def disks(rng, n):
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((n, SIDE, SIDE), np.int32)
    for label in labels:
        for number in range(1, 7):
            cy, cx = rng.integers(6, SIDE - 6, 2)
            label[(y - cy) ** 2 + (x - cx) ** 2 < 36] = number
    return labels


def patches(rng, labels, colour, noise):
    images = np.tile(colour, (*labels.shape, 1)).astype(float)
    images[labels > 0] *= 0.45
    images += np.where(labels[..., None] > 0, rng.normal(0, noise, images.shape), 0)
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    colours = rng.uniform(120, 235, (8, 3))
    real_labels = disks(rng, 32)
    initial_labels = disks(rng, 24)
    image_of, style_of = np.arange(32) // 4, np.arange(24) % 8
    real = np.concatenate(
        [patches(rng, real_labels[i : i + 1], colours[image_of[i]], 22) for i in range(32)]
    )
    initial = np.concatenate(
        [patches(rng, initial_labels[i : i + 1], colours[style_of[i]], 0) for i in range(24)]
    )
    return InitialPatches(initial, initial_labels, style_of), RealPatches(
        real, real_labels > 0, image_of
    )


def begin(seed=0):
    torch.manual_seed(seed)
    return AdversarialTraining.start(
        Networks.fresh(Refiner(RefinerArchitecture(width=8, blocks=1, style=8)), seed), SCHEDULE
    )


def run(training, sampler, steps):
    return list(
        train_adversarial(training, sampler, SCHEDULE, lambda step: step / steps, torch.float32)
    )


@pytest.fixture(scope="module")
def trained(world):
    training, sampler = begin(), Sampler(*world, MPP, SCHEDULE)
    before = copy.deepcopy(training.networks.averaged.state_dict())
    return training, sampler, before, run(training, sampler, 140)


def test_the_gate_is_open_on_nuclei_and_their_ring_only():
    labels = np.zeros((40, 40), np.int32)
    labels[15:25, 15:25], labels[15:25, 26:30] = 1, -1
    gate = edit_gate(labels, 0.5)
    assert gate[20, 20] == pytest.approx(1, abs=1e-3)
    assert 0 < gate[13, 20] < 1.01
    assert not gate[:8].any()
    assert not gate[labels < 0].any()


def test_the_gate_of_the_whole_patch_leaves_out_what_is_ignored():
    labels = np.zeros((20, 20), np.int32)
    labels[3:6, 3:6] = -1
    assert np.array_equal(edit_gate(labels, 0.5, "patch"), (labels >= 0).astype(np.float32))


def test_features_are_compared_within_their_regions():
    rng = torch.Generator().manual_seed(0)
    first, second = torch.randn(3, 5, 8, 8, generator=rng), torch.randn(3, 5, 8, 8, generator=rng)
    region = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    region[..., :8, :] = True
    assert feature_distance([first], [first], region, region) == 0
    outside = first.clone()
    outside[:, :, 4:] = second[:, :, 4:]  # the other half of the map
    assert feature_distance([outside], [first], region, region) == 0
    assert feature_distance([first + 1], [first], region, region) > 0.15
    assert feature_distance([2 * first], [first], region, region) > 0.1
    # a permutation of the pixels keeps means and spreads
    turned = first[:, :, :4].flip(2, 3)
    assert feature_distance(
        [torch.cat([turned, second[:, :, 4:]], 2)], [first], region, region
    ) == pytest.approx(0, abs=1e-10)
    empty = torch.zeros_like(region)
    assert feature_distance([first + 1], [first], empty, region) == 0


def test_partners_are_other_parts_of_the_same_image(world):
    """Each image has its own colour, so a pair's backgrounds are equal; and the two crops never
    overlap."""
    sampler = Sampler(*world, MPP, SCHEDULE)
    batch = sampler.draw(4, np.random.default_rng(1), CPU)
    median = [
        side.flatten(2).median(dim=2).values for side in (batch.real.pixels, batch.partner.pixels)
    ]
    assert torch.allclose(*median, atol=1e-6)
    reference = batch.reference.pixels.flatten(2).median(dim=2).values
    painted = torch.exp(-batch.density.flatten(2).median(dim=2).values) * 256 - 1
    assert torch.allclose(painted / 255, reference, atol=1e-2)
    unique = torch.unique(median[0], dim=0)
    assert len(unique) == 4  # one crop of each of four images


def test_patches_without_their_reference_are_not_drawn(world):
    initial, real = world
    few = real.part(np.arange(4))
    assert set(initial.style_of[Sampler(initial, few, MPP, SCHEDULE).usable]) == {0}
    with pytest.raises(ValueError, match="no initial patch"):
        Sampler(
            InitialPatches(initial.images, initial.labels, initial.style_of + 50),
            few,
            MPP,
            SCHEDULE,
        )


def test_whole_references_are_held_out_if_there_are_enough(world):
    initial, real = world
    out = hold_out(initial, real, np.random.default_rng(0))
    assert set(real.image_of[out.real]) == set(initial.style_of[out.initial])
    assert not set(real.image_of[out.real]) & set(real.image_of[~out.real])


def test_patches_are_held_out_if_there_are_few_references_and_nothing_if_there_are_few_patches(
    world,
):
    initial, real = world
    few = real.part(real.image_of < 2)
    styled = initial.part(initial.style_of < 2)
    out = hold_out(styled, few, np.random.default_rng(1), share=0.5)
    assert out.real.any()
    assert out.initial.any()
    assert set(few.image_of[out.real]) & set(few.image_of[~out.real])
    assert hold_out(styled.part([0]), few, np.random.default_rng(0)) is None


def test_the_critic_proves_itself_before_the_refiner_moves(trained):
    _, _, _, reports = trained
    waiting, later = reports[:40], reports[40:]
    assert all(report.refiner is None and report.change == 0 for report in waiting)
    assert waiting[-1].skill > 0.75 > waiting[0].skill
    assert sum(report.refiner is not None for report in later) > 30
    assert max(report.change for report in later) > 0.005


def test_repainted_nuclei_gain_the_texture_of_real_ones(trained, world):
    training, _, before, _ = trained
    initial, real = world
    refined, closed = refine_patches(
        training.networks.averaged, initial.images[:8], initial.labels[:8], real.part(np.arange(8)),
        [np.random.default_rng(i) for i in range(8)], MPP, torch.float32,
    )  # fmt: skip
    assert refined.dtype == np.uint8
    assert np.array_equal(refined[closed], initial.images[:8][closed])
    inside = initial.labels[:8] > 0

    def roughness(images):
        steps = np.abs(np.diff(images.astype(float), axis=2)).mean(axis=-1)
        return steps[inside[:, :, 1:] & inside[:, :, :-1]].mean()

    assert roughness(refined) > 1.5 * roughness(initial.images[:8])
    assert any(
        not torch.equal(before[name], value)
        for name, value in training.networks.averaged.state_dict().items()
    )


def test_matched_pairs_score_above_shuffled_ones(trained):
    training, sampler, _, _ = trained
    found = judge_held_out(training, sampler, 0, 6, 8, torch.float32)
    assert found.style_matched > 0.75
    assert found.auc_initial > 0.8
    assert 0.2 < found.diversity < 10


def test_a_run_that_was_interrupted_is_the_run_that_was_not(world):
    torch.use_deterministic_algorithms(True)
    try:
        whole, sampler = begin(), Sampler(*world, MPP, SCHEDULE)
        run(whole, sampler, 50)
        first = begin()
        for report in train_adversarial(
            first, sampler, SCHEDULE, lambda step: step / 50, torch.float32
        ):
            if report.step == 45:
                break
        state = copy.deepcopy(first)
        run(state, sampler, 50)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in whole.networks.refiner.state_dict().items():
        assert torch.equal(value, state.networks.refiner.state_dict()[name]), name


def test_the_history_is_bounded_and_returns_what_was_put_in():
    history, rng = History(4, 8), np.random.default_rng(0)
    region = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    seen = set()
    for step in range(12):
        pixels = torch.full((2, 3, 8, 8), step / 255)
        shown, regions = history.exchange(pixels, region, rng)
        assert shown.shape == pixels.shape
        assert regions.all()
        seen |= {round(float(value) * 255) - step for value in shown[:, 0, 0, 0]}
    assert history.pixels.dtype == torch.uint8
    assert history.filled == 4
    assert min(seen) < 0
    assert max(seen) == 0


def test_a_critic_that_is_never_fooled_ends_the_training():
    guard = Guard(begin())
    perfect = StepReport(1, 0.0, 0.5, 5.0, 0.01, 1.0)
    found = [guard.look(perfect) for _ in range(SATURATED_STEPS)]
    assert found[:-1] == [None] * (SATURATED_STEPS - 1)
    assert "never fooled" in found[-1]
    assert guard.hopeless
