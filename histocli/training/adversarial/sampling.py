"""Initial (synthetic) and real patches in memory, and the batches of crops drawn from them.

A *reference* is a real image that patches are cut from. *Rough* nuclei are a mask that a simple
method finds in a reference, which has no labels. The *gate* is the factor on the refiner's change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histocli.optics.density import light_to_optical_density, optical_density_to_light
from histocli.training.adversarial.gate import edit_gate, judged_region, with_ring
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.crops import random_crop


@dataclass(frozen=True)
class RealPatches:
    """Patches of reference images; glass, the empty background, is made white."""

    images: npt.NDArray[np.uint8]  # (m, H, W, 3), sRGB
    nuclei: npt.NDArray[np.bool_]  # (m, H, W), rough nuclei
    image_of: npt.NDArray[np.int64]  # (m,), reference of each patch; patches of one do not overlap

    @classmethod
    def joined(
        cls, images: Sequence[npt.NDArray[np.uint8]], nuclei: Sequence[npt.NDArray[np.bool_]]
    ) -> RealPatches:
        """Join the patches of several references; item i of both lists becomes reference i."""
        image_of = np.repeat(np.arange(len(images)), [len(each) for each in images])
        return cls(np.concatenate(images), np.concatenate(nuclei), image_of)

    def part(self, where: npt.NDArray[np.generic]) -> RealPatches:
        """Return the patches that a mask or an array of indices selects."""
        return RealPatches(self.images[where], self.nuclei[where], self.image_of[where])


@dataclass(frozen=True)
class InitialPatches:
    """Synthetic patches before refinement, glass made white."""

    images: npt.NDArray[np.uint8]  # (n, H, W, 3), sRGB
    labels: npt.NDArray[np.int32]  # (n, H, W), number of the nucleus; 0 background, below 0 ignored
    style_of: npt.NDArray[np.int64]  # (n,), reference to paint like: see ``RealPatches.image_of``

    def part(self, where: npt.NDArray[np.generic]) -> InitialPatches:
        """Return the patches that a mask or an array of indices selects."""
        return InitialPatches(self.images[where], self.labels[where], self.style_of[where])


@dataclass(frozen=True)
class HeldOutPatches:
    """Masks, (n,) and (m,), of the patches on which networks are judged and do not learn."""

    initial: npt.NDArray[np.bool_]
    real: npt.NDArray[np.bool_]


def hold_out(
    initial: InitialPatches, real: RealPatches, rng: np.random.Generator, share: float = 1 / 6
) -> HeldOutPatches | None:
    """Hold out whole references, or single patches where there are fewer than four references.

    Parameters
    ----------
    initial : InitialPatches
    real : RealPatches
        References are numbered from 0 without gaps.
    rng : numpy.random.Generator
        Chooses what is held out.
    share : float
        Share of the references, or of the patches, that is held out; 0..1.

    Returns
    -------
    HeldOutPatches or None
        None if, in one of the two parts, no initial patch has a real patch of its reference.
    """
    n_references = int(real.image_of.max()) + 1
    if n_references >= 4:
        held = rng.permutation(n_references)[: max(1, round(share * n_references))]
        out = HeldOutPatches(np.isin(initial.style_of, held), np.isin(real.image_of, held))
    else:
        out_real = rng.random(len(real.image_of)) < share
        out = HeldOutPatches(rng.random(len(initial.style_of)) < share, out_real)
    for chosen, shown in ((out.initial, out.real), (~out.initial, ~out.real)):
        if not np.isin(initial.style_of[chosen], real.image_of[shown]).any():
            return None
    return out


@dataclass(frozen=True)
class RealCrops:
    """Crops of reference images."""

    pixels: Tensor  # (B, 3, h, w), sRGB 0..1
    nuclei: Tensor  # (B, 1, h, w), 1 in rough nuclei, else 0
    region: Tensor  # (B, 1, h/2, w/2) bool, where realism is judged


@dataclass(frozen=True)
class CropBatch:
    """The crops of one step: initial ones, and three sets of real ones."""

    density: Tensor  # (B, 3, h, w), optical density of the initial crops
    nuclei: Tensor  # (B, 1, h, w), 1 in labelled nuclei of the initial crops, else 0
    gate: Tensor  # (B, 1, h, w), 0..1, factor on the refiner's change of each pixel
    region: Tensor  # (B, 1, h/2, w/2) bool, where realism is judged
    noise: Tensor  # (B, 1, h, w), standard normal, an input of the refiner
    reference: RealCrops  # for each initial crop, one of the reference that it is refined towards
    real: RealCrops  # the real crops of the realism critic, from references drawn at random
    partner: RealCrops  # for each crop of ``real``, one of the same reference without overlap
    targets: Tensor | None = None  # (B, k, h, w), planes of initial crops that a subclass adds

    def change_by(self, refiner: Callable[..., Tensor]) -> Tensor:
        """Return a refiner's change of the initial crops' optical density, (B, 3, h, w)."""
        return refiner(
            self.density,
            self.nuclei,
            self.noise,
            self.gate,
            light_to_optical_density(self.reference.pixels * 255),
            self.reference.nuclei,
        )

    def repainted(self, change: Tensor | float) -> Tensor:
        """Return the initial crops with ``change`` added to their density, as sRGB 0..1."""
        return optical_density_to_light(self.density + change) / 255


class Sampler:
    """Draws crops of initial and real patches, mirrored and turned by quarters, not resampled."""

    def __init__(
        self, initial: InitialPatches, real: RealPatches, mpp: float, schedule: AdversarialSchedule
    ) -> None:
        self.initial = initial
        self.real = real
        self.mpp = mpp
        self.schedule = schedule
        image_of = real.image_of
        self.of_image = {int(i): np.flatnonzero(image_of == i) for i in np.unique(image_of)}
        self.images = np.array(sorted(self.of_image))
        styled = np.isin(initial.style_of, self.images)
        if not styled.any():
            raise ValueError("no initial patch has a reference among the real ones")
        self.usable = np.flatnonzero(styled)

    def draw(self, size: int, rng: np.random.Generator, device: torch.device) -> CropBatch:
        """Draw one batch."""
        crop = self.schedule.crop_px
        chosen = rng.choice(self.usable, size)
        painted = _stack(
            [random_crop(self._initial_planes(int(patch)), crop, rng) for patch in chosen], device
        )
        references = [
            random_crop(self._real_planes(int(style), rng), crop, rng)
            for style in self.initial.style_of[chosen]
        ]
        images = rng.choice(self.images, size, replace=len(self.images) < size)
        pairs = [self._two_parts(int(image), crop, rng) for image in images]
        noise = torch.from_numpy(rng.standard_normal((size, 1, crop, crop), np.float32)).to(device)
        gate = painted[:, 4:5] / 255
        return CropBatch(
            density=light_to_optical_density(painted[:, :3]),
            nuclei=painted[:, 3:4],
            gate=gate,
            region=judged_region((gate > 0.5).float()),
            noise=noise,
            reference=_real_crops(references, device),
            real=_real_crops([first for first, _ in pairs], device),
            partner=_real_crops([second for _, second in pairs], device),
            targets=painted[:, 5:] if painted.shape[1] > 5 else None,
        )

    def _initial_planes(self, patch: int) -> npt.NDArray[np.uint8]:
        """Return planes (H, W, 5) of an initial patch: colours, nuclei, and the gate in 0..255."""
        labels = self.initial.labels[patch]
        gate = np.rint(255 * edit_gate(labels, self.mpp, self.schedule.edits)).astype(np.uint8)
        return np.dstack([self.initial.images[patch], (labels > 0).astype(np.uint8), gate])

    def _real_planes(self, image: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Return planes (H, W, 5) of any patch: colours, rough nuclei, judged region."""
        patch = int(rng.choice(self.of_image[image]))
        nuclei = self.real.nuclei[patch]
        whole = self.schedule.edits == "patch"
        judged = np.ones(nuclei.shape, np.uint8) if whole else with_ring(nuclei, self.mpp)
        return np.dstack([self.real.images[patch], nuclei.astype(np.uint8), judged])

    def _two_parts(
        self, image: int, crop: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Cut two crops of an image from opposite halves of its patches: they never overlap."""
        first, second = self._real_planes(image, rng), self._real_planes(image, rng)
        half = first.shape[1] // 2
        if rng.random() < 0.5:
            first, second = first.swapaxes(0, 1), second.swapaxes(0, 1)
        return random_crop(first[:, :half], crop, rng), random_crop(second[:, half:], crop, rng)


def _stack(crops: list[npt.NDArray[np.uint8]], device: torch.device) -> Tensor:
    channels_first = np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).to(device).float()


def _real_crops(crops: list[npt.NDArray[np.uint8]], device: torch.device) -> RealCrops:
    planes = _stack(crops, device)
    return RealCrops(planes[:, :3] / 255, planes[:, 3:4], judged_region(planes[:, 4:5]))
