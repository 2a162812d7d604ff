"""Drawing and painting of synthetic patches.

A patch is drawn on the CPU, so labels are the same on every device. Drawings are painted in batches
on any device. The reference is the real image that a patch imitates.
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
    """One patch before painting, H x W pixels with n nuclei."""

    instance_labels: InstanceLabels  # (H, W), 1..n; -1 ignored
    layout: Layout
    background: FloatArray  # (H, W, 3), optical density
    nucleoli: FloatArray  # (H, W), 0..1
    grain: FloatArray  # (H, W)
    nuclei: FloatArray  # (n + 1, len(COLUMNS))
    textures: FloatArray  # (T, 3, FRAME_PX, FRAME_PX)
    edge_px: float
    white: float
    fine: tuple[float, float]
    """Targets of finest detail within nuclei and along borders; 0: unchanged."""


def draw_patch(
    reference: Reference,
    patch_px: int,
    rng: np.random.Generator,
    recipe: Recipe = FULL_RECIPE,
    variation: Variation = AS_MEASURED,
) -> Drawing:
    """Draw a square patch, at the pixel size of its reference.

    Parameters
    ----------
    reference : Reference
        Lends background, colours, textures and priors.
    patch_px : int
        Side of the patch, in pixels.
    rng : numpy.random.Generator
    recipe : Recipe
        Which components are on.
    variation : Variation
        Factors on the measurements.
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
    # focus varies between places of an image
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
    """Return the labels; ghosts (nuclei too pale to label) and missed nuclei are ignored (-1)."""
    labels = layout.instance_labels
    if inset_px:
        labels = np.where(layout.depth_px < inset_px, 0, labels)
    labels = np.where((labels == 0) & ignored, -1, labels)
    ghostly = ghosts[np.maximum(layout.instance_labels, 0)]  # labels before the inset
    return renumber(np.where(ghostly, -1, labels).astype(np.int32))


def paint_patches(drawings: Sequence[Drawing], device: torch.device) -> np.ndarray:
    """Paint drawings of one size in one batch; returns uint8 sRGB (B, H, W, 3)."""
    most = max(len(drawing.nuclei) for drawing in drawings)
    table = np.zeros((len(drawings), most, len(COLUMNS)), np.float32)
    first = 0  # textures of earlier drawings
    for row, drawing in zip(table, drawings, strict=True):
        row[: len(drawing.nuclei)] = drawing.nuclei
        row[: len(drawing.nuclei), COLUMNS.index("texture")] += first
        first += len(drawing.textures)

    def stack(fields: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.stack(fields)).to(dtype)

    half = torch.float16
    layouts = [drawing.layout for drawing in drawings]
    canvas = Canvas(
        background=stack([each.background.transpose(2, 0, 1) for each in drawings], torch.float32),
        owner=stack([np.maximum(each.instance_labels, 0) for each in layouts], torch.int32),
        depth=stack([each.depth_px for each in layouts], half),
        frame_u=stack([each.frame_u for each in layouts], half),
        frame_v=stack([each.frame_v for each in layouts], half),
        nucleoli=stack([each.nucleoli for each in drawings], half),
        grain=stack([each.grain for each in drawings], half),
        nuclei=torch.from_numpy(table),
        textures=torch.from_numpy(np.concatenate([each.textures for each in drawings])),
        edge_px=torch.tensor([each.edge_px for each in drawings], dtype=torch.float32),
        white=torch.tensor([each.white for each in drawings], dtype=torch.float32),
        fine=torch.tensor([each.fine for each in drawings], dtype=torch.float32),
    )
    with torch.inference_mode():
        painted = paint(canvas.to(device), FRAME_EXTENT)
    return np.ascontiguousarray(painted.permute(0, 2, 3, 1).cpu().numpy())


@dataclass(frozen=True)
class _Crop:
    """A part of a reference, turned and mirrored at random."""

    background: FloatArray  # (H, W, 3), optical density
    ignored: BoolMask
    tissue: BoolMask
    sites: Sites


def _crop(reference: Reference, patch_px: int, rng: np.random.Generator) -> _Crop:
    """Cut a random part of the reference; a smaller reference is mirrored at its borders."""
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
            after = [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (field.ndim - 2)
            part = np.pad(part, after, mode="symmetric")
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
    """Return the texture index of each nucleus of the reference; -1 if not single."""
    found = np.full(len(reference.nuclei), -1, np.int64)
    clean = np.flatnonzero(reference.textures.single)
    found[reference.textures.nucleus[clean]] = clean
    return found
