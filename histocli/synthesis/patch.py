"""One synthetic patch.

What it shows is drawn on the CPU, so that labels are the same on every device; how it looks is
painted in batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.types import BoolMask, FloatArray, InstanceLabels
from histocli.instances.components import renumber
from histocli.reference.statistics import Reference
from histocli.reference.texture import FRAME_EXTENT
from histocli.synthesis.arrangement import draw_arrangement
from histocli.synthesis.chromatin import (
    draw_appearances,
    draw_grain,
    draw_nucleoli,
    hematoxylin_direction,
)
from histocli.synthesis.directions import fibre_directions
from histocli.synthesis.layout import Sites, place_nuclei
from histocli.synthesis.painting import COLUMNS, Canvas, paint
from histocli.synthesis.placement import Layout
from histocli.synthesis.recipe import FULL_RECIPE, Recipe
from histocli.synthesis.surroundings import Stains, add_cytoplasm, add_distractors
from histocli.synthesis.variation import AS_MEASURED, Variation


@dataclass(frozen=True)
class Drawing:
    """One patch before painting."""

    instance_labels: InstanceLabels
    """(H, W), 1..n, -1 ignored."""
    layout: Layout
    background: FloatArray
    """(H, W, 3), optical density."""
    nucleoli: FloatArray
    grain: FloatArray
    """(H, W)."""
    nuclei: FloatArray
    """(n + 1, len(COLUMNS))."""
    textures: FloatArray
    """(T, 3, FRAME_PX, FRAME_PX)."""
    edge_px: float
    white: float
    fine: tuple[float, float]
    """Finest detail to reach within nuclei and along their borders; 0 leaves it as it is."""


def draw_patch(
    reference: Reference,
    patch_px: int,
    rng: np.random.Generator,
    recipe: Recipe = FULL_RECIPE,
    variation: Variation = AS_MEASURED,
) -> Drawing:
    """Draw what a patch shows.

    Parameters
    ----------
    reference : Reference
        Lends background, colours, textures and priors.
    patch_px : int
        Side of the patch, at the reference's pixel size.
    rng : numpy.random.Generator
        Of this patch.
    recipe : Recipe
        Which components are on.
    variation : Variation
        Factors on what was measured.
    """
    crop = _crop(reference, patch_px, rng)
    background = crop.background
    appearance = reference.statistics.appearance
    arrangement = draw_arrangement(
        reference.statistics.morphology, appearance.mixture, rng, recipe, variation
    )
    fibres = fibre_directions(background, reference.mpp) if recipe.fibres else None
    layout = place_nuclei(arrangement, crop.tissue, crop.sites, reference.mpp, rng, fibres)
    stains = Stains(hematoxylin_direction(reference), appearance)
    if recipe.cytoplasm:
        background = add_cytoplasm(background, layout.instance_labels, stains, reference.mpp, rng)
    if recipe.distractors:
        background = add_distractors(background, crop.tissue, stains, reference.mpp, rng)
    looks = draw_appearances(
        reference, layout, background, stains.hematoxylin, recipe, rng, variation
    )
    inset_px = max(-arrangement.margin_um, 0) / reference.mpp
    edge_px = variation.edge * appearance.edge_um * rng.uniform(0.8, 1.8) / reference.mpp
    # focus differs from place to place
    sharper = np.exp(rng.normal(0, 0.2, size=2)).tolist()
    fine = (
        appearance.fine_core * sharper[0] * variation.fine_core,
        appearance.fine_edge * sharper[1] * variation.fine_edge,
    )
    return Drawing(
        instance_labels=_labels(layout, looks.ghosts, crop.ignored, inset_px),
        layout=layout,
        background=background,
        nucleoli=draw_nucleoli(layout, looks.table, rng),
        grain=draw_grain(patch_px, reference.mpp, rng),
        nuclei=looks.table,
        textures=looks.textures,
        edge_px=float(np.clip(edge_px, 0.35, 1.7)),
        white=appearance.white_level,
        fine=fine if recipe.sharpness else (0.0, 0.0),
    )


def _labels(layout: Layout, ghosts: BoolMask, ignored: BoolMask, inset_px: float) -> InstanceLabels:
    """Return the labels of a patch, without what nobody could label: ghosts and missed nuclei."""
    labels = layout.instance_labels
    if inset_px:
        labels = np.where(layout.depth_px < inset_px, 0, labels)
    labels = np.where((labels == 0) & ignored, -1, labels)
    ghostly = ghosts[np.maximum(layout.instance_labels, 0)]  # with their rims
    return renumber(np.where(ghostly, -1, labels).astype(np.int32))


def paint_patches(drawings: Sequence[Drawing], device: torch.device) -> np.ndarray:
    """Paint drawings in one batch.

    Parameters
    ----------
    drawings : sequence of Drawing
        Of one patch size.
    device : torch.device

    Returns
    -------
    ndarray of uint8, shape (B, H, W, 3)
    """
    most = max(len(drawing.nuclei) for drawing in drawings)
    table = np.zeros((len(drawings), most, len(COLUMNS)), np.float32)
    textures: list[FloatArray] = []
    first = 0
    for row, drawing in zip(table, drawings, strict=True):
        row[: len(drawing.nuclei)] = drawing.nuclei
        row[: len(drawing.nuclei), COLUMNS.index("texture")] += first
        textures.append(drawing.textures)
        first += len(drawing.textures)

    def stack(fields: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.stack(fields)).to(dtype)

    half = torch.float16
    canvas = Canvas(
        background=stack(
            [drawing.background.transpose(2, 0, 1) for drawing in drawings], torch.float32
        ),
        owner=stack(
            [np.maximum(drawing.layout.instance_labels, 0) for drawing in drawings], torch.int32
        ),
        depth=stack([drawing.layout.depth_px for drawing in drawings], half),
        frame_u=stack([drawing.layout.frame_u for drawing in drawings], half),
        frame_v=stack([drawing.layout.frame_v for drawing in drawings], half),
        nucleoli=stack([drawing.nucleoli for drawing in drawings], half),
        grain=stack([drawing.grain for drawing in drawings], half),
        nuclei=torch.from_numpy(table),
        textures=torch.from_numpy(np.concatenate(textures)),
        edge_px=torch.tensor([drawing.edge_px for drawing in drawings], dtype=torch.float32),
        white=torch.tensor([drawing.white for drawing in drawings], dtype=torch.float32),
        fine=torch.tensor([drawing.fine for drawing in drawings], dtype=torch.float32),
    )
    with torch.inference_mode():
        painted = paint(canvas.to(device), FRAME_EXTENT)
    return np.ascontiguousarray(painted.permute(0, 2, 3, 1).cpu().numpy())


@dataclass(frozen=True)
class _Crop:
    """A place of a reference, turned and mirrored at random."""

    background: FloatArray
    """(H, W, 3), optical density."""
    ignored: BoolMask
    tissue: BoolMask
    sites: Sites


def _crop(reference: Reference, patch_px: int, rng: np.random.Generator) -> _Crop:
    """Cut a random place of the reference; a smaller reference is mirrored at its borders."""
    height, width = reference.tissue.shape
    for _ in range(5):
        top = int(rng.integers(0, max(1, height - patch_px + 1)))
        left = int(rng.integers(0, max(1, width - patch_px + 1)))
        box = (slice(top, top + patch_px), slice(left, left + patch_px))
        if reference.tissue[box].mean() >= 0.3:
            break
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    missing = (max(0, patch_px - height), max(0, patch_px - width))

    def take(field: np.ndarray) -> np.ndarray:
        part = field[box]
        if any(missing):
            part = np.pad(
                part,
                [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (field.ndim - 2),
                mode="symmetric",
            )
        part = np.rot90(part, turns)
        return np.ascontiguousarray(part[:, ::-1] if mirror else part)

    nuclei = reference.nuclei
    y, x = nuclei.y_px - top, nuclei.x_px - left
    here = (y > -4) & (y < patch_px + 4) & (x > -4) & (x < patch_px + 4)
    y, x, angle = y[here], x[here], nuclei.orientation_rad[here]
    for _ in range(turns):  # a quarter turn counterclockwise: the last column becomes the first row
        y, x, angle = patch_px - 1 - x, y, angle - np.pi / 2
    if mirror:
        x, angle = patch_px - 1 - x, -angle
    sites = Sites(
        y.astype(np.float32),
        x.astype(np.float32),
        angle.astype(np.float32),
        nuclei.area_um2[here].astype(np.float32),
        nuclei.elongation[here].astype(np.float32),
        _texture_of_nucleus(reference)[here],
    )
    background = take(reference.background).astype(np.float32)
    return _Crop(background, take(reference.ignored), take(reference.tissue), sites)


def _texture_of_nucleus(reference: Reference) -> npt.NDArray[np.int64]:
    """Return the texture of each nucleus of the reference; -1 for those that are not single."""
    found = np.full(len(reference.nuclei), -1, np.int64)
    clean = np.flatnonzero(reference.textures.single)
    found[reference.textures.nucleus[clean]] = clean
    return found
