"""The gate: where a refiner may change a patch, and where critics judge if the patch looks real."""

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from histocli.base.types import BoolMask, FloatArray, InstanceLabels


def edit_gate(labels: InstanceLabels, mpp: float, edits: str = "nuclei") -> FloatArray:
    """Return the factor on each pixel's change, float32 (H, W) in 0..1; 0 where labels are below 0.

    With ``edits`` ``nuclei`` it is open in nuclei and a narrow ring with a soft edge; with
    ``patch`` it is 1 everywhere, so that the refiner's trace does not tell nuclei from background.
    ``mpp`` is the pixel size in micrometres.
    """
    if edits == "patch":
        return (labels >= 0).astype(np.float32)
    edge_um = 0.3  # standard deviation of the soft edge, but at least 0.3 px
    nearby = with_ring(labels > 0, mpp).astype(np.float32)
    gate = cv2.GaussianBlur(nearby, (0, 0), max(edge_um / mpp, 0.3))
    gate[labels < 0] = 0
    return np.asarray(np.where(gate > 0.02, gate, 0), np.float32)


def with_ring(nuclei: BoolMask, mpp: float) -> npt.NDArray[np.uint8]:
    """Widen a mask of nuclei by 1 um: painting shows most at the blurred edge of a nucleus."""
    radius = max(1, round(1.0 / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(nuclei.astype(np.uint8), disk), np.uint8)


def judged_region(mask: Tensor) -> Tensor:
    """Halve the resolution of a mask (N, 1, H, W), as the critic does; returns booleans."""
    return functional.avg_pool2d(mask, 2) >= 0.5
