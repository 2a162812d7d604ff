"""Where a refiner may change a patch, and where critics judge whether the patch looks real."""

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional


def edit_gate(
    labels: npt.NDArray[np.int32], mpp: float, edits: str = "nuclei"
) -> npt.NDArray[np.float32]:
    """Return how far each pixel may change: nuclei and a narrow ring around them with a soft edge.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
        Pixels below 0 are ignored, and never change.
    mpp : float
        Micrometres per pixel.
    edits : str
        ``nuclei``, or the whole ``patch``: then the refiner leaves its trace everywhere, and no
        nucleus is given away by it.

    Returns
    -------
    ndarray of float32, shape (H, W)
        0..1; exactly 0 away from nuclei, or where pixels are ignored.
    """
    if edits == "patch":
        return (labels >= 0).astype(np.float32)
    edge_um = 0.3  # standard deviation of the soft edge
    gate = cv2.GaussianBlur(
        with_ring(labels > 0, mpp).astype(np.float32), (0, 0), max(edge_um / mpp, 0.3)
    )
    gate[labels < 0] = 0
    return np.asarray(np.where(gate > 0.02, gate, 0), np.float32)


def with_ring(nuclei: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.uint8]:
    """Widen a mask of nuclei by 1 um: the blurred edge of a nucleus betrays painting first."""
    radius = max(1, round(1.0 / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(nuclei.astype(np.uint8), disk), np.uint8)


def judged_region(mask: Tensor) -> Tensor:
    """Bring a mask (N, 1, H, W) to the half resolution of the critic, as truth values."""
    return functional.avg_pool2d(mask, 2) >= 0.5
