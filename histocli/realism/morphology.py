"""Histograms of nuclei measured in references, and of nuclei drawn in synthetic patches."""

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
    """Counts of nuclei by a property, of each reference image and of each synthetic patch."""

    real: npt.NDArray[np.floating]
    """(images, bins); row k is of reference image k."""
    synthetic: npt.NDArray[np.floating]
    """(patches, bins)."""
    bin_width: float
    """In the unit of the property."""


def morphology_histograms(
    recorded: Sequence[Mapping[str, Any]],
    numbers: npt.NDArray[np.int64],
    labels: Sequence[InstanceLabels],
    mpp: float,
) -> dict[str, Histograms]:
    """Return histograms of area and elongation; none where references were not measured.

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
        ("area", AREA_EDGES_UM2, areas, 0.5),  # two bins an octave
        ("elongation", ELONGATION_EDGES, elongations, 1.0),
    ):
        drawn = [np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0] for each in values]
        real = np.zeros((int(numbers.max()) + 1, len(edges) - 1))
        for number, each in zip(numbers, recorded, strict=True):
            shares = np.asarray(each[f"{name}_shares"], np.float64)
            real[number] += each.get("n_nuclei", 0) * shares
        result[name] = Histograms(real, np.array(drawn), width)
    return result
