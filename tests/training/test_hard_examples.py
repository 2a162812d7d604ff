"""Hard examples are harder, stay within their bounds, and leave labels and the network alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from histocli.model.segmenter import Architecture, Segmenter
from histocli.training.appearance import (
    NUMBERS,
    AppearanceBounds,
    AppearanceModel,
    bounds_from_references,
)
from histocli.training.augmentation import Augmentation
from histocli.training.hard_examples import AppearanceAscent, ascend, crop_losses, measure_hardness
from histocli.training.loop import Moment, Schedule, start_training, train_steps
from histocli.training.sampling import PatchSet, draw_crops
from tests.tissue import paint_ellipses

FLOAT = torch.float32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def patches():
    """Dark nuclei on pink, with soft noise."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for _ in range(6):
        drawn = paint_ellipses(
            (64, 64),
            [tuple(each) for each in rng.uniform(8, 56, (6, 2))],
            7,
            5,
            rng.uniform(0, 3, 6),
        )
        image = np.where(drawn[..., None] > 0, (110, 80, 150), (225, 170, 200)) + rng.normal(
            0, 6, (64, 64, 3)
        )
        images.append(image.clip(0, 255).astype(np.uint8))
        labels.append(drawn)
    return PatchSet.labelled(np.stack(images), np.stack(labels))


@pytest.fixture(scope="module")
def trained(patches):
    torch.manual_seed(0)
    training = start_training(Segmenter(Architecture(channels=(6, 8, 12))), schedule())
    for _ in train_steps(training, patches, schedule(), lambda step: step / 60, FLOAT):
        pass
    return training.segmenter


def schedule():
    return Schedule(batch=4, crop_px=48, learning_rate=5e-3, seed=0)


def draw(patches, size=4):
    return draw_crops(patches, size, 48, Augmentation(), np.random.default_rng(1), CPU)


def model_of(batch, bounds=None):
    noise = torch.randn(batch.pixels.shape, generator=torch.Generator().manual_seed(0))
    return AppearanceModel(
        batch.pixels, batch.nucleus, batch.distance, noise, bounds or AppearanceBounds()
    )


def test_zero_changes_nothing(patches):
    batch = draw(patches)
    torch.testing.assert_close(
        model_of(batch).render(torch.zeros(4, NUMBERS)), batch.pixels, atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("number", range(NUMBERS))
@pytest.mark.parametrize("sign", [-1, 1])
def test_each_number_changes_the_picture_and_has_a_slope(patches, number, sign):
    bounds = AppearanceBounds(noise=(-0.03, 0.03))
    batch = draw(patches)
    model = model_of(batch, bounds)
    unit = torch.zeros(4, NUMBERS)
    unit[:, number] = sign
    unit.requires_grad_()
    picture = model.render(unit)
    assert (picture - batch.pixels).abs().mean() > 1e-3
    assert picture.min() >= 0
    assert picture.max() <= 1
    (slope,) = torch.autograd.grad((picture * batch.nucleus[:, None]).sum(), unit)
    assert slope[:, number].abs().min() > 0


def test_contrast_is_the_factor_of_what_nuclei_absorb_more(patches):
    """On flat tissue the arithmetic is plain: nuclei end half as far from what surrounds them."""
    batch = draw(patches)
    nucleus = torch.zeros(1, 96, 96)
    nucleus[:, 30:66, 30:66] = 1
    pixels = torch.where(nucleus[:, None] > 0, 0.3, 0.8).expand(1, 3, 96, 96)
    flat = replace(batch.part(slice(0, 1)), pixels=pixels, nucleus=nucleus, distance=nucleus)
    model = model_of(flat, AppearanceBounds(contrast=(-0.5, 0.5), interior=(-0.5, 0.5)))
    unit = torch.zeros(1, NUMBERS)
    unit[:, 3] = -1
    before, after = model.density, model.density_of(unit)
    inside, outside = (0, 0, 48, 48), (0, 0, 5, 5)
    assert after[outside] == pytest.approx(before[outside].item())
    assert (after[inside] - after[outside]).item() == pytest.approx(
        0.5 * (before[inside] - before[outside]).item(), rel=0.02
    )


def test_ascent_makes_crops_harder_than_chance_does(patches, trained):
    batch = draw(patches, 16)
    model = model_of(batch)
    start = torch.rand((16, NUMBERS), generator=torch.Generator().manual_seed(1)) - 0.5
    weights = {name: value.clone() for name, value in trained.state_dict().items()}
    unit = ascend(trained, batch, model, start, 2, 0.4, FLOAT)
    assert unit.abs().max() <= 1
    trained.eval()
    with torch.no_grad():
        ordinary = crop_losses(trained, batch.pixels, batch, FLOAT)
        hard = crop_losses(trained, model.render(unit), batch, FLOAT)
        random = 2 * torch.rand(unit.shape, generator=torch.Generator().manual_seed(3)) - 1
        chance = crop_losses(trained, model.render(random.sign() * unit.abs()), batch, FLOAT)
    assert hard.mean() > ordinary.mean()
    assert hard.mean() > chance.mean()
    assert all((value == weights[name]).all() for name, value in trained.state_dict().items())
    found = measure_hardness(trained, batch, model.render(unit), FLOAT)
    assert found.before == pytest.approx(ordinary.mean().item(), rel=1e-5)
    assert found.after == pytest.approx(hard.mean().item(), rel=1e-5)
    assert found.change > 0


def test_a_part_of_the_batch_is_hardened_after_the_warm_up(patches, trained):
    batch = draw(patches, 8)
    ascent = AppearanceAscent(AppearanceBounds(), share=0.25, warm_up=0.2)
    trained.train()
    rng = np.random.default_rng(0)
    assert ascent.harden(trained, batch, Moment(rng, 0.1, FLOAT, measure=True)) is batch
    assert ascent.latest() == {}
    late = ascent.harden(trained, batch, Moment(rng, 0.9, FLOAT, measure=True))
    changed = (late.pixels != batch.pixels).flatten(1).any(dim=1)
    assert changed.tolist() == [True, True, *6 * [False]]
    assert ascent.latest()["hard"].keys() == {"before", "after", "change"}
    assert late.nucleus is batch.nucleus
    assert trained.training


def test_training_with_hard_examples_is_decided_by_the_seed(patches):
    def weights():
        torch.manual_seed(0)
        segmenter = Segmenter(Architecture(channels=(4, 6)))
        ascent = AppearanceAscent(AppearanceBounds(), warm_up=0.1)
        records = list(
            train_steps(
                start_training(segmenter, schedule()),
                patches,
                schedule(),
                lambda step: step / 21,
                FLOAT,
                extras=[ascent],
            )
        )
        return segmenter.state_dict(), records

    (first, records), (second, _) = weights(), weights()
    assert all((first[name] == second[name]).all() for name in first)
    assert [record.step for record in records if "hard" in record.latest()] == [21]


def test_bounds_are_what_references_show():
    like = {
        "hematoxylin": [0, 0, 0.2, 0, 0],
        "eosin": [0, 0, 0.3, 0, 0],
        "contrast": [0.1, 0.15, 0.2, 0.24, 0.3],
    }
    alike = bounds_from_references([like] * 5)
    assert alike.hematoxylin == alike.eosin == (-0.1, 0.1)  # the least that is allowed
    assert alike.contrast == pytest.approx((-0.5, 0.5))
    various = [
        like | {"hematoxylin": [0, 0, 0.2 * np.exp(step), 0, 0]}
        for step in np.linspace(-0.4, 0.4, 41)
    ]
    assert bounds_from_references(various).hematoxylin == pytest.approx((-0.32, 0.32), abs=0.01)
    assert bounds_from_references([]) == AppearanceBounds()
    assert bounds_from_references([{}] * 9) == AppearanceBounds()
