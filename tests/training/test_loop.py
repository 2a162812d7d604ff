"""Training learns, goes on where it stopped, and ends when it is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from histocli.inference.predict import Predictor
from histocli.metrics.counts import count
from histocli.model.segmenter import Architecture, Segmenter
from histocli.training import loop
from histocli.training.augmentation import Augmentation
from histocli.training.loop import (
    WARM_UP,
    Extra,
    Schedule,
    Training,
    learning_rate_at,
    start_training,
    train_steps,
)
from tests.training.easy import easy_patches, patch_set

CPU = torch.device("cpu")
GENTLE = Augmentation(
    scale=(0.9, 1.1), stain_gain=0.05, stain_mixing=0.0, underexposure=0.0, blur_px=0.5, noise=0.01
)
SCHEDULE = Schedule(batch=4, crop_px=32, learning_rate=1e-2, seed=3, augmentation=GENTLE)


def fresh(channels=(4, 8)):
    torch.manual_seed(0)
    return start_training(Segmenter(Architecture(channels=channels)), SCHEDULE)


@pytest.fixture(scope="module")
def patches():
    return patch_set(*easy_patches())


def run(training, patches, steps, total=None, schedule=SCHEDULE, dtype=torch.float32):
    """Train up to ``steps`` of a schedule of ``total``."""
    records = []
    for record in train_steps(
        training, patches, schedule, lambda step: step / (total or steps), dtype
    ):
        records.append(record)
        if record.step == steps:
            break
    return records


def tensors(training: Training):
    state = {
        f"weight {name}": value.clone() for name, value in training.segmenter.state_dict().items()
    }
    for index, each in training.optimizer.state_dict()["state"].items():
        state |= {f"moment {index} {name}": value.clone() for name, value in each.items()}
    return state


def test_the_loss_falls(patches):
    losses = [record.loss for record in run(fresh(), patches, 40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_progress_ends_the_training_and_steps_are_counted(patches):
    training = fresh()
    records = run(training, patches, 5)
    assert [record.step for record in records] == [1, 2, 3, 4, 5]
    assert training.step == 5
    assert list(train_steps(training, patches, SCHEDULE, lambda step: 1.0, torch.float32)) == []
    assert training.step == 5


def test_a_resumed_training_is_the_uninterrupted_one(patches):
    whole = fresh()
    run(whole, patches, 8)
    first = fresh()
    run(first, patches, 3, total=8)
    torch.manual_seed(99)  # the global generator has no say
    second = start_training(Segmenter(Architecture(channels=(4, 8))), SCHEDULE)
    second.restore(first.state())
    run(second, patches, 8)
    expected, found = tensors(whole), tensors(second)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_the_seed_decides_the_batches(patches):
    same, again, other = (
        run(
            fresh(),
            patches,
            3,
            schedule=Schedule(batch=4, crop_px=32, learning_rate=1e-2, seed=seed),
        )
        for seed in (1, 1, 2)
    )
    assert [r.loss for r in same] == [r.loss for r in again]
    assert [r.loss for r in same] != [r.loss for r in other]


def test_every_step_draws_another_batch(patches, monkeypatch):
    drawn = []
    original = loop.draw_crops

    def spy(*given):
        drawn.append(original(*given))
        return drawn[-1]

    monkeypatch.setattr(loop, "draw_crops", spy)
    run(fresh(), patches, 4)
    assert len({batch.pixels.numpy().tobytes() for batch in drawn}) == 4


def test_the_schedule_rises_and_falls():
    rates = np.array([learning_rate_at(p, 2.0) for p in np.linspace(0, 1, 201)])
    peak = int(rates.argmax())
    assert peak == round(WARM_UP * 200)
    assert rates[peak] == pytest.approx(2.0)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()
    assert rates[0] < 0.1 * 2.0
    assert 0 < rates[-1] < 0.01 * 2.0
    assert np.abs(np.diff(rates)).max() < 0.15  # no jumps


def test_the_rate_of_the_record_is_the_one_used(patches):
    training = fresh()
    records = run(training, patches, 4)
    assert [record.learning_rate for record in records] == [
        learning_rate_at(step / 4, 1e-2) for step in range(4)
    ]
    assert training.optimizer.param_groups[0]["lr"] == records[-1].learning_rate


def test_patches_of_no_weight_teach_nothing():
    images, labels = easy_patches()
    training = fresh()
    before = training.segmenter.head.weight.detach().clone()
    records = run(training, patch_set(images, labels, weight=np.zeros(len(images))), 3)
    assert [record.loss for record in records] == [0, 0, 0]
    # decay only
    torch.testing.assert_close(training.segmenter.head.weight.detach(), before, rtol=1e-3, atol=0)


def test_bfloat16_learns_too(patches):
    losses = [record.loss for record in run(fresh(), patches, 15, dtype=torch.bfloat16)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_a_tiny_network_finds_easy_nuclei():
    """Trained on some patches for some dozens of steps, it counts and outlines the disks of
    others."""
    training = fresh((8, 16))
    run(training, patch_set(*easy_patches(8)), 90)
    predictor = Predictor(training.segmenter, mpp=0.5, device=CPU, dtype=torch.float32)
    images, labels = easy_patches(3, seed=7)
    for image, truth in zip(images, labels, strict=True):
        found = predictor.instances(predictor.maps(image[None])[0])
        scores = count(truth, found)
        assert scores.dice > 0.85
        assert scores.panoptic_quality > 0.6


def test_extras_join_every_step(patches):
    """Patches may change before a step, crops may become harder, and what is said is recorded."""

    class Counting(Extra):
        seen = 0

        def before_step(self, patches, step):
            patches.weight[:] = step + 1

        def harden(self, segmenter, batch, moment):
            assert (batch.weight == round(4 * moment.progress) + 1).all()
            return replace(batch, weight=torch.zeros_like(batch.weight))

        def after_step(self, segmenter):
            self.seen += 1

        def latest(self):
            return {"seen": self.seen}

    extra = Counting()
    training = fresh()
    mine = replace(patches, weight=patches.weight.copy())
    records = list(
        train_steps(training, mine, SCHEDULE, lambda step: step / 4, torch.float32, extras=[extra])
    )
    assert [record.loss for record in records] == [0] * 4
    assert [record.latest()["seen"] for record in records] == [1, 2, 3, 4]
    assert list(Extra().phases(patches)) == []


def test_a_new_phase_forgets_the_momentum(patches):
    training = fresh()
    run(training, patches, 2)
    weights = training.weights()
    training.restart(0.5)
    assert training.optimizer.state_dict()["state"] == {}
    assert all((weights[name] == value).all() for name, value in training.weights().items())
