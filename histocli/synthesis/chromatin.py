"""The look of each nucleus of a patch: colour, contrast, chromatin, nucleoli and texture.

A texture is the chromatin of one real nucleus, in the square frame around its ellipse
(``reference/texture.py``). It is single if the outline is that of one nucleus.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray
from histocli.instances.kinds import Kind
from histocli.reference.statistics import Reference
from histocli.reference.texture import FRAME_PX
from histocli.synthesis.painting import COLUMNS
from histocli.synthesis.placement import Layout
from histocli.synthesis.recipe import Recipe
from histocli.synthesis.variation import AS_MEASURED, Variation

FEWEST_TEXTURES = 6  # with fewer single textures, colours come from all nuclei
LEAST_CONTRAST = 0.10  # absorbance of red over the background, below which a nucleus is invisible


@dataclass(frozen=True)
class Appearances:
    """The looks of the n nuclei of one patch."""

    table: FloatArray  # (n + 1, len(COLUMNS)); row 0 stands for no nucleus
    textures: FloatArray  # (T, 3, FRAME_PX, FRAME_PX)
    ghosts: BoolMask  # (n + 1,), too pale to be labelled as nucleus or as background


def draw_appearances(
    reference: Reference,
    layout: Layout,
    background: FloatArray,
    hematoxylin: FloatArray,
    recipe: Recipe,
    rng: np.random.Generator,
    variation: Variation = AS_MEASURED,
) -> Appearances:
    """Draw colour, strength, chromatin and texture of every nucleus.

    Parameters
    ----------
    reference : Reference
        Lends colours and textures.
    layout : Layout
    background : ndarray of float32, shape (H, W, 3)
        Optical density under the nuclei.
    hematoxylin : ndarray of float32, shape (3,)
        Optical density that nuclei add for an absorbance of red of 1.
    recipe : Recipe
    rng : numpy.random.Generator
    variation : Variation
        Factors on the measurements.
    """
    n = len(layout.outlines)
    table = np.zeros((n + 1, len(COLUMNS)), np.float32)
    table[:, COLUMNS.index("rim_px")] = 1
    ghosts = np.zeros(n + 1, bool)
    if n == 0:
        return Appearances(table, np.zeros((1, 3, FRAME_PX, FRAME_PX), np.float32), ghosts)
    restored = np.asarray(layout.own_textures) >= 0
    texture_gain = rng.uniform(0.6, 1.15, size=n)
    lent = _lend(reference, layout, background, hematoxylin, recipe, rng)
    look = _draw_looks(reference, layout, restored, texture_gain, recipe, rng)
    look.strength[:] *= variation.strength
    look.grain[:] *= variation.grain
    look.texture_gain[:] *= variation.texture
    around = _local_background(layout, background)
    visible = look.strength * (lent.colour[:, 0] - around[:, 0]) * (0.45 + 0.55 * look.core)
    # annotators disagree on nuclei with less than 0.45 of the reference's median contrast
    typical = reference.statistics.appearance.contrast[2]
    ghosts[1:] = visible < max(LEAST_CONTRAST, 0.45 * typical)
    colour = np.maximum(lent.colour * np.exp(rng.normal(0, 0.06, size=(n, 1))), 0)
    shape = (look.strength, look.core, look.rim_px, look.clearing, look.softness_px)
    table[1:] = np.column_stack((colour, *shape, lent.index, look.texture_gain, look.grain))
    return Appearances(table, lent.textures, ghosts)


@dataclass(frozen=True)
class _Lent:
    """Colours and textures of the reference's nuclei, for the n nuclei of a patch."""

    colour: FloatArray  # (n, 3), optical density
    textures: FloatArray  # (T, 3, FRAME_PX, FRAME_PX)
    index: npt.NDArray[np.int64]  # (n,), texture of each nucleus


def _lend(
    reference: Reference,
    layout: Layout,
    background: FloatArray,
    hematoxylin: FloatArray,
    recipe: Recipe,
    rng: np.random.Generator,
) -> _Lent:
    """Choose a nucleus of the reference for each nucleus of the patch.

    With too few single textures, colours may come from any nucleus and textures are noise.
    """
    source, own = reference.textures, np.asarray(layout.own_textures)
    n, grain_sd = len(own), reference.statistics.appearance.grain_sd
    clean = np.flatnonzero(source.single)
    few = len(clean) < FEWEST_TEXTURES
    chosen = np.arange(len(source)) if few else clean
    if len(chosen):
        pick = np.where(own >= 0, own, rng.choice(chosen, size=n))
        colour = source.colour[pick]
        if not (few and recipe.noise_textures):
            used, index = np.unique(pick, return_inverse=True)
            return _Lent(colour, source.residual[used], index)
    else:
        tissue = np.median(background.reshape(-1, 3), axis=0)
        colour = (tissue + hematoxylin * rng.uniform(0.3, 0.8, size=(n, 1))).astype(np.float32)
    textures = _noise_textures(grain_sd, hematoxylin, rng)
    return _Lent(colour, textures, rng.integers(len(textures), size=n))


def _draw_looks(
    reference: Reference,
    layout: Layout,
    restored: BoolMask,
    texture_gain: npt.NDArray[np.float64],
    recipe: Recipe,
    rng: np.random.Generator,
) -> "_Look":
    """Draw strength, clearing and grain of each nucleus; restored nuclei look as measured."""
    n = len(restored)
    look = _Look.dense(texture_gain, reference.mpp, rng)
    kinds = np.asarray(layout.kinds)
    if not recipe.chromatin:
        share = rng.uniform(0, 0.8) if rng.random() < 0.6 else 0.0
        kinds = np.where(rng.random(n) < share, Kind.VESICULAR, Kind.DENSE)
    kinds = np.where(restored, Kind.DENSE, kinds)
    if recipe.pale and rng.random() < 0.5:  # half of the patches have pale nuclei
        pale = rng.random(n) < rng.uniform(0, 0.35)
        look.strength[pale] = rng.uniform(0.15, 0.65, size=int(pale.sum()))
    _shape_chromatin(look, kinds, reference.mpp, rng)
    if recipe.grain:
        # stretching removes about two thirds of the detail below 0.5 um from textures
        fine_grain = reference.statistics.appearance.fine_grain
        missing = 0.7 * fine_grain * float(rng.uniform(0.5, 1.5))
        look.grain[:] = np.where(kinds == Kind.BLURRED, 0, np.hypot(look.grain, missing))
    look.strength[restored] = rng.uniform(0.9, 1.05, size=int(restored.sum()))
    look.core[restored] = 1
    look.texture_gain[restored] = 1
    look.grain[restored] = 0.5 * look.grain[restored] if recipe.grain else 0
    return look


@dataclass(frozen=True)
class _Look:
    """Columns of the table, one entry per nucleus, changed in place kind by kind."""

    strength: npt.NDArray[np.float64]
    core: npt.NDArray[np.float64]
    rim_px: npt.NDArray[np.float64]
    clearing: npt.NDArray[np.float64]
    softness_px: npt.NDArray[np.float64]
    grain: npt.NDArray[np.float64]
    texture_gain: npt.NDArray[np.float64]

    @classmethod
    def dense(
        cls, texture_gain: npt.NDArray[np.float64], mpp: float, rng: np.random.Generator
    ) -> "_Look":
        """Draw dense nuclei.

        Patches differ more than the nuclei of one patch. Most are weaker than measured, because the
        rough map finds only strongly stained nuclei.
        """
        n = len(texture_gain)
        return cls(
            strength=np.clip(
                rng.normal(rng.uniform(0.65, 1.1), rng.uniform(0.05, 0.2), size=n), 0.3, 1.2
            ),
            core=rng.uniform(0.85, 1.0, size=n),
            rim_px=rng.uniform(0.25, 0.6, size=n) / mpp,
            clearing=np.zeros(n),
            softness_px=np.zeros(n),
            grain=rng.uniform(0, 0.2, size=n),
            texture_gain=texture_gain,
        )


def _shape_chromatin(
    look: _Look, kinds: npt.NDArray[np.integer], mpp: float, rng: np.random.Generator
) -> None:
    """Change the look of each nucleus to that of its kind."""
    n = len(kinds)

    def draw(low: float, high: float, members: BoolMask) -> npt.NDArray[np.float64]:
        return rng.uniform(low, high, size=n)[members]

    members = kinds == Kind.VESICULAR
    look.core[members], look.grain[members] = draw(0.15, 0.75, members), draw(0.1, 0.6, members)
    look.texture_gain[members] *= 0.6
    # the clearest nuclei have a middle paler than cytoplasm, and chromatin at the rim and in clumps
    clear = members & (rng.random(n) < rng.uniform(0, 0.6))
    look.core[clear], look.clearing[clear] = draw(0.0, 0.25, clear), draw(0.1, 0.6, clear)
    members = kinds == Kind.BLURRED
    look.softness_px[members] = draw(0.35, 1.0, members) / mpp
    look.strength[members] *= draw(0.6, 1.0, members)
    look.texture_gain[members] *= 0.3
    look.grain[members] = 0
    members = kinds == Kind.LYMPHOCYTE
    look.strength[members] = np.maximum(look.strength[members], draw(0.85, 1.2, members))
    look.grain[members] = draw(0.05, 0.35, members)
    members = kinds == Kind.APOPTOTIC
    look.strength[members] = draw(1.15, 1.5, members)
    look.texture_gain[members] *= 0.2
    members = kinds == Kind.MITOTIC
    look.strength[members], look.grain[members] = draw(1.1, 1.4, members), draw(0.1, 0.4, members)
    look.texture_gain[members] *= 0.5


def _noise_textures(
    grain_sd: float, hematoxylin: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Draw 12 textures of correlated noise of the measured spread."""
    noise = rng.standard_normal((12, FRAME_PX, FRAME_PX), dtype=np.float32)
    fine = np.stack([cv2.GaussianBlur(field, (0, 0), 1.0) for field in noise])
    coarse = np.stack([cv2.GaussianBlur(field, (0, 0), 2.5) for field in np.roll(noise, 1, axis=0)])
    both = fine / fine.std() + coarse / coarse.std()
    colour = np.clip(hematoxylin, 0.2, 2)[None, :, None, None]
    return np.asarray((both / both.std() * grain_sd)[:, None] * colour, np.float32)


def hematoxylin_direction(reference: Reference) -> FloatArray:
    """Return the optical density (3,) that nuclei add for an absorbance of red of 1."""
    textures = reference.textures
    clean = np.flatnonzero(textures.single)
    chosen = clean if len(clean) >= FEWEST_TEXTURES else np.arange(len(textures))
    if len(chosen):
        added = np.median(textures.colour[chosen] - textures.surround[chosen], axis=0)
        if added[0] > 0.05:
            return np.asarray(np.clip(added / added[0], 0, 3), np.float32)
    stain = np.asarray(reference.statistics.appearance.stain_matrix[0], np.float32)
    return np.asarray(np.clip(stain / max(float(stain[0]), 0.2), 0, 3), np.float32)


def _local_background(layout: Layout, background: FloatArray) -> FloatArray:
    """Return the mean background under each nucleus, (n, 3), from every fourth pixel."""
    owner = np.maximum(layout.instance_labels[::2, ::2], 0).ravel()
    n = len(layout.outlines)
    count = np.maximum(np.bincount(owner, minlength=n + 1), 1)
    flat = background[::2, ::2].reshape(-1, 3)
    sums = [np.bincount(owner, flat[:, channel], minlength=n + 1) for channel in range(3)]
    return (np.stack(sums, axis=1) / count[:, None])[1:].astype(np.float32)


def draw_nucleoli(layout: Layout, nuclei: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draw 0 to 3 round nucleoli into each nucleus with a pale middle; (H, W), 0..1."""
    field = np.zeros(layout.instance_labels.shape, np.float32)
    pale = np.flatnonzero(nuclei[1:, COLUMNS.index("core")] < 0.8)
    if len(pale) == 0:
        return field
    counts = np.zeros(len(layout.outlines) + 1, int)
    counts[pale + 1] = rng.integers(0, 4, size=len(pale))
    places = np.flatnonzero(counts[np.maximum(layout.instance_labels, 0)])
    owner = layout.instance_labels.ravel()[places]
    u, v = layout.frame_u.ravel()[places], layout.frame_v.ravel()[places]
    values = np.zeros(len(places), np.float32)
    for spot in range(3):
        angle = rng.uniform(0, 2 * np.pi, size=len(counts))
        distance = rng.uniform(0, 0.6, size=len(counts))
        radius = rng.uniform(0.1, 0.24, size=len(counts))
        du = u - (distance * np.cos(angle))[owner]
        dv = v - (distance * np.sin(angle))[owner]
        inside = np.clip(1.5 - np.hypot(du, dv) / radius[owner], 0, 1)
        values = np.where(counts[owner] > spot, np.maximum(values, inside), values)
    field.ravel()[places] = values
    return field


def draw_grain(patch_px: int, mpp: float, rng: np.random.Generator) -> FloatArray:
    """Draw chromatin noise (H, W) of unit spread, smoothed over 0.2 to 0.6 um."""
    noise = rng.standard_normal((patch_px, patch_px), dtype=np.float32)
    smooth = cv2.GaussianBlur(
        noise, (0, 0), float(rng.uniform(0.2, 0.6)) / mpp, borderType=cv2.BORDER_REFLECT
    )
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)
