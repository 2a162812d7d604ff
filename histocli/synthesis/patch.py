"""One synthetic patch.

What it shows is drawn on the CPU, so that labels are the same on every device; how it looks is painted in batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from histocli.base.types import BoolMask, FloatArray, InstanceLabels
from histocli.instances.components import renumber
from histocli.reference.statistics import Reference
from histocli.reference.texture import FRAME_EXTENT, FRAME_PX
from histocli.synthesis.layout import Layout, Sites, draw_arrangement, place_nuclei
from histocli.synthesis.painting import COLUMNS, Canvas, paint

FEWEST_TEXTURES = 6  # with fewer clean nuclei than this, all rough ones lend their colour
LEAST_CONTRAST = 0.10  # absorbance of red over the background that a nucleus must have to be told from nothing
GHOST = 0.45  # a nucleus with less than this share of the reference's typical contrast is one that annotators disagree on
WORTH_DRAWING = 0.3  # share of tissue that a crop should have, if some tries find one


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


def draw_patch(reference: Reference, patch_px: int, rng: np.random.Generator) -> Drawing:
    """Draw what a patch shows.

    Parameters
    ----------
    reference : Reference
        Lends background, colours, textures and priors.
    patch_px : int
        Side of the patch, at the reference's pixel size.
    rng : numpy.random.Generator
        Of this patch.

    Returns
    -------
    Drawing
    """
    background, ignored, tissue, sites = _crop(reference, patch_px, rng)
    arrangement = draw_arrangement(reference.statistics.morphology, rng)
    layout = place_nuclei(arrangement, tissue, sites, reference.mpp, rng)
    nuclei, textures, ghosts = _appearances(reference, layout, background, rng)
    labels = np.where((layout.instance_labels == 0) & ignored, -1, layout.instance_labels)
    labels = renumber(np.where(ghosts[np.maximum(labels, 0)], -1, labels).astype(np.int32))
    return Drawing(
        instance_labels=labels,
        layout=layout,
        background=background,
        nucleoli=_draw_nucleoli(layout, nuclei, rng),
        grain=_draw_grain(patch_px, reference.mpp, rng),
        nuclei=nuclei,
        textures=textures,
        edge_px=float(np.clip(reference.statistics.appearance.edge_um * rng.uniform(0.8, 1.8) / reference.mpp, 0.35, 1.7)),
        white=reference.statistics.appearance.white_level,
    )


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
        background=stack([drawing.background.transpose(2, 0, 1) for drawing in drawings], torch.float32),
        owner=stack([np.maximum(drawing.layout.instance_labels, 0) for drawing in drawings], torch.int32),
        depth=stack([drawing.layout.depth_px for drawing in drawings], half),
        frame_u=stack([drawing.layout.frame_u for drawing in drawings], half),
        frame_v=stack([drawing.layout.frame_v for drawing in drawings], half),
        nucleoli=stack([drawing.nucleoli for drawing in drawings], half),
        grain=stack([drawing.grain for drawing in drawings], half),
        nuclei=torch.from_numpy(table),
        textures=torch.from_numpy(np.concatenate(textures)),
        edge_px=torch.tensor([drawing.edge_px for drawing in drawings], dtype=torch.float32),
        white=torch.tensor([drawing.white for drawing in drawings], dtype=torch.float32),
    )
    with torch.inference_mode():
        painted = paint(canvas.to(device), FRAME_EXTENT)
    return np.ascontiguousarray(painted.permute(0, 2, 3, 1).cpu().numpy())


def _crop(reference: Reference, patch_px: int, rng: np.random.Generator) -> tuple[FloatArray, BoolMask, BoolMask, Sites]:
    """Cut, turn and mirror a random place of the reference; a smaller reference is mirrored at its borders."""
    height, width = reference.tissue.shape
    for _ in range(5):
        top = int(rng.integers(0, max(1, height - patch_px + 1)))
        left = int(rng.integers(0, max(1, width - patch_px + 1)))
        box = (slice(top, top + patch_px), slice(left, left + patch_px))
        if reference.tissue[box].mean() >= WORTH_DRAWING:
            break
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    missing = (max(0, patch_px - height), max(0, patch_px - width))

    def take(field: np.ndarray) -> np.ndarray:
        part = field[box]
        if any(missing):
            part = np.pad(part, [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (field.ndim - 2), mode="symmetric")
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
    return take(reference.background).astype(np.float32), take(reference.ignored), take(reference.tissue), sites


def _texture_of_nucleus(reference: Reference) -> npt.NDArray[np.int64]:
    """Which texture belongs to each nucleus of the reference; -1 where there is none, or its outline is not that of one."""
    found = np.full(len(reference.nuclei), -1, np.int64)
    clean = np.flatnonzero(reference.textures.single)
    found[reference.textures.nucleus[clean]] = clean
    return found


def _appearances(
    reference: Reference, layout: Layout, background: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, BoolMask]:
    """Draw colour, strength, chromatin and texture of every nucleus.

    Returns a table of ``COLUMNS``, the textures it points to, and which nuclei are too pale to be called either way.
    """
    n = len(layout.outlines)
    source = reference.textures
    chosen = np.flatnonzero(source.single)
    if len(chosen) < FEWEST_TEXTURES:
        chosen = np.arange(len(source))
    table = np.zeros((n + 1, len(COLUMNS)), np.float32)
    table[:, COLUMNS.index("rim_px")] = 1
    if n == 0:
        return table, np.zeros((1, 3, FRAME_PX, FRAME_PX), np.float32), np.zeros(1, bool)
    hematoxylin = _hematoxylin_direction(reference, chosen)
    own = np.asarray(layout.own_textures)
    restored = own >= 0
    if len(chosen):
        pick = np.where(restored, own, rng.choice(chosen, size=n))
        used, index = np.unique(pick, return_inverse=True)
        textures, colour, texture_gain = source.residual[used], source.colour[pick], rng.uniform(0.6, 1.15, size=n)
    else:
        textures, index = np.zeros((1, 3, FRAME_PX, FRAME_PX), np.float32), np.zeros(n, int)
        tissue = np.median(background.reshape(-1, 3), axis=0)
        colour = (tissue + hematoxylin * rng.uniform(0.3, 0.8, size=(n, 1))).astype(np.float32)
        texture_gain = np.zeros(n)
    # Patches differ more than nuclei of one patch, and weaker than measured is common: the rough map knows the strong ones only.
    strength = np.clip(rng.normal(rng.uniform(0.65, 1.1), rng.uniform(0.05, 0.2), size=n), 0.3, 1.2)
    vesicular_share = rng.uniform(0, 0.8) if rng.random() < 0.6 else 0.0
    strength = np.where(restored, rng.uniform(0.9, 1.05, size=n), strength)
    vesicular = (rng.random(n) < vesicular_share) & ~restored
    core = np.where(vesicular, rng.uniform(0.15, 0.75, size=n), np.where(restored, 1, rng.uniform(0.85, 1.0, size=n)))
    texture_gain = np.where(vesicular, texture_gain * 0.6, np.where(restored, 1, texture_gain))
    rim_px = rng.uniform(0.25, 0.6, size=n) / reference.mpp
    clear = vesicular & (
        rng.random(n) < rng.uniform(0, 0.6)
    )  # chromatin at the rim and in clumps, the middle paler than the cytoplasm
    core = np.where(clear, rng.uniform(0.0, 0.25, size=n), core)
    clearing = np.where(clear, rng.uniform(0.1, 0.6, size=n), 0)
    grain_gain = np.where(vesicular, rng.uniform(0.1, 0.6, size=n), np.where(restored, 0, rng.uniform(0, 0.2, size=n)))
    around = _local_background(layout, background)
    visible = strength * (colour[:, 0] - around[:, 0]) * (0.45 + 0.55 * core)
    typical = reference.statistics.appearance.contrast[2]
    ghosts = np.zeros(n + 1, bool)
    ghosts[1:] = visible < max(LEAST_CONTRAST, GHOST * typical)
    colour = np.maximum(colour * np.exp(rng.normal(0, 0.06, size=(n, 1))), 0)
    table[1:] = np.column_stack((colour, strength, core, rim_px, clearing, index, texture_gain, grain_gain))
    return table, textures, ghosts


def _hematoxylin_direction(reference: Reference, chosen: np.ndarray) -> FloatArray:
    """Colour that nuclei add to their surroundings, for an absorbance of red of 1."""
    if len(chosen):
        added = np.median(reference.textures.colour[chosen] - reference.textures.surround[chosen], axis=0)
        if added[0] > 0.05:
            return np.asarray(np.clip(added / added[0], 0, 3), np.float32)
    stain = np.asarray(reference.statistics.appearance.stain_matrix[0], np.float32)
    return np.asarray(np.clip(stain / max(float(stain[0]), 0.2), 0, 3), np.float32)


def _local_background(layout: Layout, background: FloatArray) -> FloatArray:
    """Mean background under each nucleus, shape (n, 3)."""
    owner = np.maximum(layout.instance_labels, 0).ravel()
    n = len(layout.outlines)
    count = np.maximum(np.bincount(owner, minlength=n + 1), 1)
    flat = background.reshape(-1, 3)
    sums = [np.bincount(owner, flat[:, channel], minlength=n + 1) for channel in range(3)]
    return (np.stack(sums, axis=1) / count[:, None])[1:].astype(np.float32)


def _draw_nucleoli(layout: Layout, nuclei: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draw 0 to 3 round nucleoli into nuclei with a pale middle."""
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


def _draw_grain(patch_px: int, mpp: float, rng: np.random.Generator) -> FloatArray:
    """Draw chromatin noise: clumps of about half a micrometre."""
    noise = rng.standard_normal((patch_px, patch_px), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), float(rng.uniform(0.2, 0.5)) / mpp, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)
