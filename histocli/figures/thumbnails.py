"""Small pictures of segmented slides, which a page shows beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, RGBImage
from histocli.figures.overlays import add_scale_bar, enlarged, outline_overlay
from histocli.figures.qc import heat_map, nuclei_per_mm2

SIDE_PX = 200  # side of each of the pictures beside each other
GAP_PX = 4
PAPER = 255


class Detail(NamedTuple):
    """A square of a slide at full resolution, with the labels of its nuclei."""

    image: RGBImage
    labels: npt.NDArray[np.integer]
    mpp: float


@dataclass(frozen=True)
class Thumbnail:
    """A slide in pictures that fit into a square, before the scale of the densities is known."""

    overview: RGBImage
    density: FloatArray
    """Nuclei per mm2 at each pixel of the overview."""
    tissue: BoolMask
    mpp: float
    detail: Detail

    def picture(self, top: float) -> RGBImage:
        """Return slide, density from 0 to ``top``, and detail with outlines, beside each other."""
        parts = [
            add_scale_bar(self.overview, self.mpp),
            heat_map(self.overview, self.density, self.tissue, top),
            _outlined(self.detail),
        ]
        return np.concatenate([_squared(part) for part in parts], axis=1)[:, :-GAP_PX]

    @property
    def highest(self) -> float:
        """The density that one in a hundred pixels of tissue exceeds; 0 without tissue."""
        return float(np.percentile(self.density[self.tissue], 99)) if self.tissue.any() else 0.0


def thumbnail(
    overview: RGBImage,
    tissue: BoolMask,
    centroids_px: npt.NDArray[np.floating],
    mpp: float,
    detail: Detail,
) -> Thumbnail:
    """Shrink a slide to a thumbnail; the parameters are those of ``figures.qc.qc_picture``."""
    density = nuclei_per_mm2(centroids_px, tissue.shape, mpp)
    scale = SIDE_PX / max(overview.shape[:2])
    size = (max(1, round(overview.shape[1] * scale)), max(1, round(overview.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    inside = cv2.resize(tissue.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return Thumbnail(
        overview=np.asarray(cv2.resize(overview, size, interpolation=method), np.uint8),
        density=np.asarray(cv2.resize(density, size, interpolation=method), np.float32),
        tissue=np.asarray(inside, bool),
        mpp=mpp / scale,
        detail=detail,
    )


def _outlined(detail: Detail) -> RGBImage:
    zoom = -(-SIDE_PX // max(detail.image.shape[:2]))
    image, labels = enlarged(detail.image, detail.labels, zoom)
    drawn = outline_overlay(image, labels, thickness_px=max(1, round(image.shape[0] / SIDE_PX)))
    return add_scale_bar(_fitted(drawn), detail.mpp * max(detail.image.shape[:2]) / SIDE_PX)


def _fitted(image: RGBImage) -> RGBImage:
    scale = SIDE_PX / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _squared(image: RGBImage) -> RGBImage:
    """Return a picture in the middle of a white square, with a gap to the right."""
    down, right = SIDE_PX - image.shape[0], SIDE_PX - image.shape[1]
    margins = ((down // 2, down - down // 2), (right // 2, right - right // 2 + GAP_PX), (0, 0))
    return np.pad(image, margins, constant_values=PAPER)
