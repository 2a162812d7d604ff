"""Nuclei drawn one after the other into the labels of a patch, later nuclei over earlier ones.

A nucleus is labelled up to its outline; its paint ends ``margin_px`` inside the outline.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from histocli.base.types import BoolMask, FloatArray, InstanceLabels
from histocli.instances.kinds import Kind
from histocli.synthesis.shapes import DIRECTIONS, RadialOutline

SKIRT_PX = 2  # pixels added to the largest radius of a nucleus for its window
MOST_OVERLAP = 0.12  # share of a new nucleus that may lie over earlier nuclei
MOST_HIDDEN = 0.3  # share of an earlier nucleus that may lie under later nuclei
LEAST_TISSUE = 0.75  # share of a nucleus that must lie on tissue


@dataclass(frozen=True)
class Layout:
    """The n nuclei of one patch, in drawing order, with coordinates inside each."""

    instance_labels: InstanceLabels  # (H, W), 1..n, later nuclei on top; 0 background, -1 ignored
    # (H, W), pixels along the radius to the painted edge; negative in the margin, 0 on background
    depth_px: FloatArray
    frame_u: FloatArray  # (H, W), coordinate along the major axis; 1 is the major half axis
    frame_v: FloatArray  # (H, W), coordinate along the minor axis; 1 is the minor half axis
    outlines: list[RadialOutline]
    # for each nucleus, index of the texture of the reference nucleus that it re-creates; -1: none
    own_textures: list[int]
    kinds: list[Kind]


class Placement:
    """A patch to which nuclei are added one by one.

    ``tissue`` (H, W) is True where nuclei may lie.
    """

    def __init__(self, tissue: BoolMask, margin_px: float) -> None:
        self.shape = tissue.shape
        self.margin_px = margin_px
        self.tissue = tissue
        self.labels = np.zeros(tissue.shape, np.int32)
        self.depth, self.u, self.v = (np.zeros(tissue.shape, np.float32) for _ in range(3))
        self.outlines: list[RadialOutline] = []
        self.centres: list[tuple[float, float]] = []
        self.own_textures: list[int] = []
        self.kinds: list[Kind] = []
        self.areas: list[int] = []  # pixels of each nucleus that are visible
        self.full_areas: list[int] = []  # inside the patch, before later nuclei were drawn
        self.covered_px = 0.0

    def add(
        self,
        outline: RadialOutline,
        y: float,
        x: float,
        own_texture: int = -1,
        kind: Kind = Kind.DENSE,
    ) -> bool:
        """Draw a nucleus with its centre at (y, x); return whether it was drawn.

        A nucleus is left out if it would overlap or hide too much of others, lie too far on glass,
        or show under 4 pixels in the patch.
        """
        reach = outline.reach_px + SKIRT_PX
        top, bottom = max(0, int(y - reach)), min(self.shape[0], int(y + reach) + 2)
        left, right = max(0, int(x - reach)), min(self.shape[1], int(x + reach) + 2)
        if top >= bottom or left >= right:
            return False
        box = (slice(top, bottom), slice(left, right))
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
        dx = np.arange(left, right, dtype=np.float32)[None] - np.float32(x)
        depth = _depth(outline, dy, dx)
        inside = depth > 0
        depth -= self.margin_px
        area = int(inside.sum())
        if area < 4:
            return False
        others = self.labels[box]
        hidden = others[inside]
        hidden = hidden[hidden > 0]
        overlap = len(hidden)
        on_tissue = int(self.tissue[box][inside].sum())
        if overlap > MOST_OVERLAP * area or on_tissue < LEAST_TISSUE * area:
            return False
        losses = np.unique(hidden, return_counts=True)
        if any(
            self.areas[k - 1] - loss < (1 - MOST_HIDDEN) * self.full_areas[k - 1]
            for k, loss in zip(*losses, strict=True)
        ):
            return False
        for k, loss in zip(*losses, strict=True):
            self.areas[k - 1] -= int(loss)
        self.areas.append(area)
        self.full_areas.append(area)
        number = len(self.outlines) + 1
        cos, sin = np.cos(outline.orientation_rad), np.sin(outline.orientation_rad)
        others[inside] = number
        self.depth[box][inside] = depth[inside]
        self.u[box][inside] = ((dx * cos + dy * sin) / outline.major_px)[inside]
        self.v[box][inside] = ((dy * cos - dx * sin) / outline.minor_px)[inside]
        self.outlines.append(outline)
        self.own_textures.append(own_texture)
        self.kinds.append(kind)
        self.centres.append((y, x))
        self.covered_px += area - overlap
        return True

    def finish(self) -> Layout:
        """Return the layout.

        Where later nuclei cut an earlier one into parts, the largest part keeps its label. The
        others get -1 (ignored): nobody could tell to which nucleus they belong.
        """
        for k, (now, full) in enumerate(zip(self.areas, self.full_areas, strict=True), start=1):
            if now < full:
                self._drop_splinters(k)
        return Layout(
            self.labels, self.depth, self.u, self.v, self.outlines, self.own_textures, self.kinds
        )

    def _drop_splinters(self, number: int) -> None:
        """Ignore all parts of a nucleus but the largest."""
        y, x = self.centres[number - 1]
        reach = self.outlines[number - 1].reach_px + SKIRT_PX
        box = (
            slice(max(0, int(y - reach)), int(y + reach) + 2),
            slice(max(0, int(x - reach)), int(x + reach) + 2),
        )
        mine = self.labels[box] == number
        count, pieces, statistics, _ = cv2.connectedComponentsWithStats(
            mine.astype(np.uint8), connectivity=4
        )
        if count > 2:
            largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
            self.labels[box][mine & (pieces != largest)] = -1


def _depth(outline: RadialOutline, dy: FloatArray, dx: FloatArray) -> FloatArray:
    """Return the distance to an outline along the radius, in pixels, positive inside it.

    ``dy`` (H, 1) and ``dx`` (1, W) are offsets from the centre.
    """
    span = (dy.shape[0], dx.shape[1])
    radius, angle = cv2.cartToPolar(
        np.ascontiguousarray(np.broadcast_to(dx, span)),
        np.ascontiguousarray(np.broadcast_to(dy, span)),
    )
    direction = angle * np.float32(DIRECTIONS / (2 * np.pi))
    below = direction.astype(np.int32)
    share = direction - below
    # the first radii again after a full turn; two, as rounding can give an angle of a whole turn
    around = np.concatenate([outline.radii_px, outline.radii_px[:2]])
    border = around[below]
    border += (around[below + 1] - border) * share
    return np.asarray(border - radius)
