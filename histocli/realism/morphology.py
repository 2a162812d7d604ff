"""Histograms of nuclei measured in reference images and drawn in synthetic patches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.types import InstanceLabels
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES
from histocli.instances.measurements import measure


@dataclass(frozen=True)
class Histograms:
    """Numbers of nuclei by a property, for each reference image and each synthetic patch."""

    real: npt.NDArray[np.floating]
    """(images, bins); row k is for reference image k."""
    synthetic: npt.NDArray[np.floating]
    """(patches, bins); row k is for synthetic patch k."""
    bin_width: float
    """Width that distances use: 0.5 doublings of the area, or 1 bin of elongation."""


def morphology_histograms(
    recorded: Sequence[Mapping[str, Any]],
    numbers: npt.NDArray[np.int64],
    labels: Sequence[InstanceLabels],
    mpp: float,
) -> dict[str, Histograms]:
    """Return histograms of area and elongation; {} if a reference was not measured.

    Parameters
    ----------
    recorded : sequence of mapping
        What a patch store records about the nuclei of each reference: ``n_nuclei``,
        ``area_shares`` and ``elongation_shares``.
    numbers : ndarray of int, shape (len(recorded),)
        The number of the reference image of each record.
    labels : sequence of ndarray of int32, shape (H, W)
        Nuclei of synthetic patches; nuclei at a border, which may be cut, are left out.
    mpp : float
        Micrometres per pixel.
    """
    if not all(each.get("area_shares") and each.get("elongation_shares") for each in recorded):
        return {}
    nuclei = [measure(patch, mpp) for patch in labels]
    areas = [each.area_um2[~each.touches_border] for each in nuclei]
    elongations = [each.elongation[~each.touches_border] for each in nuclei]
    result = {}
    for name, edges, values, width in (
        ("area", AREA_EDGES_UM2, areas, 0.5),  # doublings: each edge is 1.41 times the one before
        ("elongation", ELONGATION_EDGES, elongations, 1.0),
    ):
        drawn = [np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0] for each in values]
        real = np.zeros((int(numbers.max()) + 1, len(edges) - 1))
        for number, each in zip(numbers, recorded, strict=True):
            shares = np.asarray(each[f"{name}_shares"], np.float64)
            real[number] += each.get("n_nuclei", 0) * shares
        result[name] = Histograms(real, np.array(drawn), width)
    return result
