"""Size, shape, place and neighbourhood of nuclei, measured on label images."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histocli.base.types import InstanceLabels, IntArray

FloatColumn = npt.NDArray[np.float64]

PIXEL_MOMENT = 1 / 12  # variance of a coordinate within one pixel, a square and not a point


@dataclass(frozen=True)
class Measurements:
    """One row per nucleus, in the order of ids."""

    id: IntArray
    y_px: FloatColumn
    """Row of the centroid, in pixels from the first pixel's centre; ``x_px`` is the column."""
    x_px: FloatColumn
    area_um2: FloatColumn
    elongation: FloatColumn
    """Major over minor axis of the ellipse with the same second moments, >= 1."""
    orientation_rad: FloatColumn
    """Direction of the major axis against the x axis, in (-pi/2, pi/2]."""
    major_um: FloatColumn
    minor_um: FloatColumn
    """Axes (diameters) of the ellipse with the same second moments."""
    touches_border: npt.NDArray[np.bool_]
    """Whether the nucleus reaches the border of the image and may be cut."""
    touches_other: npt.NDArray[np.bool_]
    """Whether a pixel of the nucleus shares a side with a pixel of another nucleus."""

    def __len__(self) -> int:
        return len(self.id)


def measure(labels: InstanceLabels, mpp: float) -> Measurements:
    """Measure every nucleus of a label image."""
    flat = np.maximum(labels, 0).ravel()
    inside = np.flatnonzero(flat)
    ids, index = np.unique(flat[inside], return_inverse=True)
    n = len(ids)
    y, x = np.divmod(inside, labels.shape[1])
    count = np.bincount(index, minlength=n).astype(float)
    mean_y, mean_x = np.bincount(index, y, n) / count, np.bincount(index, x, n) / count
    dy, dx = y - mean_y[index], x - mean_x[index]
    yy = np.bincount(index, dy * dy, n) / count + PIXEL_MOMENT
    xx = np.bincount(index, dx * dx, n) / count + PIXEL_MOMENT
    xy = np.bincount(index, dx * dy, n) / count
    shape = ellipses(yy, xx, xy, mpp)._asdict()
    del shape["eccentricity"]
    border = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    return Measurements(
        id=ids.astype(np.int64),
        y_px=mean_y,
        x_px=mean_x,
        area_um2=count * mpp * mpp,
        touches_border=np.isin(ids, border),
        touches_other=np.isin(ids, touching_ids(labels)),
        **shape,
    )


class Ellipses(NamedTuple):
    """Ellipses whose second moments (variances) equal those of nuclei, one per nucleus."""

    elongation: FloatColumn
    """Major over minor axis, >= 1."""
    eccentricity: FloatColumn  # 0 for a circle, near 1 for a long ellipse
    orientation_rad: FloatColumn
    """Direction of the major axis against the x axis, in (-pi/2, pi/2]."""
    major_um: FloatColumn
    minor_um: FloatColumn
    """Axes (diameters)."""


def ellipses(yy: FloatColumn, xx: FloatColumn, xy: FloatColumn, mpp: float) -> Ellipses:
    """Return ellipses in micrometres, given central second moments in square pixels."""
    root = np.sqrt((xx - yy) ** 2 / 4 + xy**2)
    large, small = (xx + yy) / 2 + root, np.maximum((xx + yy) / 2 - root, 1e-9)
    return Ellipses(
        elongation=np.sqrt(large / small),
        eccentricity=np.sqrt(np.maximum(1 - small / large, 0)),
        orientation_rad=0.5 * np.arctan2(2 * xy, xx - yy),
        major_um=4 * np.sqrt(large) * mpp,  # a diameter is four standard deviations
        minor_um=4 * np.sqrt(small) * mpp,
    )


def touching_ids(labels: InstanceLabels) -> IntArray:
    """Return the ids of the nuclei that share a pixel edge with another nucleus."""
    found = []
    for first, second in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        meet = (first != second) & (first > 0) & (second > 0)
        found += [first[meet], second[meet]]
    return np.unique(np.concatenate(found)).astype(np.int64)


def local_direction(measurements: Measurements, neighbours: int = 6) -> float:
    """Return how parallel neighbouring nuclei are: from 0 (not at all) to 1 (all parallel).

    This is the root mean square resultant length of the doubled angles of each elongated nucleus
    and its nearest elongated neighbours, corrected for the length of random directions. It is 0
    where too few nuclei are elongated.
    """
    from scipy.spatial import cKDTree  # late: most callers measure no directions

    elongated = measurements.elongation > 1.3  # rounder nuclei have no clear direction
    if elongated.sum() < neighbours + 2:
        return 0.0
    points = np.stack([measurements.y_px, measurements.x_px], axis=1)[elongated]
    doubled = np.exp(2j * measurements.orientation_rad[elongated])
    _, nearest = cKDTree(points).query(points, k=neighbours + 1)
    squared = float(np.mean(np.abs(doubled[nearest].mean(axis=1)) ** 2))
    chance = 1 / (neighbours + 1)
    return float(np.sqrt(np.clip((squared - chance) / (1 - chance), 0, 1)))
