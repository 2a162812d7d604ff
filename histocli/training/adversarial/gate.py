"""The gate: where a refiner may change a patch, and where critics judge if the patch looks real."""

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional


def edit_gate(
    labels: npt.NDArray[np.int32], mpp: float, edits: str = "nuclei"
) -> npt.NDArray[np.float32]:
    """Return the factor on each pixel's change: nuclei and a narrow ring around them, soft-edged.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
        Pixels below 0 are ignored, and get a gate of 0.
    mpp : float
        Micrometres per pixel.
    edits : str
        ``nuclei``, or the whole ``patch``. Under ``patch`` the refiner leaves its trace everywhere,
        so that the trace does not tell nuclei from background.

    Returns
    -------
    ndarray of float32, shape (H, W)
        0..1; 0 where pixels are ignored and, under ``nuclei``, away from nuclei.
    """
    if edits == "patch":
        return (labels >= 0).astype(np.float32)
    edge_um = 0.3  # standard deviation of the soft edge, but at least 0.3 px
    gate = cv2.GaussianBlur(
        with_ring(labels > 0, mpp).astype(np.float32), (0, 0), max(edge_um / mpp, 0.3)
    )
    gate[labels < 0] = 0
    return np.asarray(np.where(gate > 0.02, gate, 0), np.float32)


def with_ring(nuclei: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.uint8]:
    """Widen a mask of nuclei by 1 um: painting shows most at the blurred edge of a nucleus."""
    radius = max(1, round(1.0 / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(nuclei.astype(np.uint8), disk), np.uint8)


def judged_region(mask: Tensor) -> Tensor:
    """Halve the resolution of a mask (N, 1, H, W), as the critic does; returns booleans."""
    return functional.avg_pool2d(mask, 2) >= 0.5
