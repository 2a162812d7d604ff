"""What programs do to label images on the way: guessed from the pixels, mended, and said.

An unsigned type turns the label -1 (ignored) into its largest value; colour pictures carry ids as
colours; eight bits hold no more than 255 ids, and further ones begin again at 0.
"""

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from histocli.annotations.labels import Labels

logger = logging.getLogger(__name__)

LEAST_FLAT = 0.9
"""Least share of neighbouring pixels with equal colours in a picture whose colours are ids; in
photographs and overlays nearly all neighbours differ."""
FULL = 250  # ids of 8 bits from which one that names several objects is suspected to be several


def ids_of_colours(values: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.int32] | None:
    """Return the labels of a picture, shape (H, W, 3), whose colours are ids; None for others.

    Black is background; other colours are numbered in the order of red + 256 green + 65536 blue.
    """
    code = values.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    equal = [(code[1:] == code[:-1]).mean(), (code[:, 1:] == code[:, :-1]).mean()]
    if min(code.shape) < 2 or min(equal) < LEAST_FLAT or not (code == 0).any():
        return None
    colours, numbers = np.unique(code, return_inverse=True)
    logger.warning("%s: is a colour picture; its %d colours are taken for ids, black for "
                   "background", path, len(colours) - 1)  # fmt: skip
    return numbers.reshape(code.shape).astype(np.int32)


def mended(labels: Labels, path: Path) -> Labels:
    """Return labels in which a largest value that was -1 is -1 again; say what is suspected."""
    if labels.dtype.kind != "u" or not labels.size:
        return labels
    largest = int(np.iinfo(labels.dtype).max)
    if int(labels.max()) == largest:
        others = labels[labels != largest]
        second = int(others.max(initial=0))
        # a mask of 0 and 255 has no other ids; ids that go on up to the largest are real
        if 0 < second <= largest // 2:
            logger.warning("%s: %d is taken for ignored pixels, -1 in an unsigned type",
                           path, largest)  # fmt: skip
            wide: npt.NDArray[Any] = labels.astype(np.int64)
            wide[labels == largest] = -1
            return wide
    if largest == 255 and (several := _ids_of_several_objects(labels)):
        logger.warning(
            "%s: %d ids name several separate objects each; more than 255 nuclei were saved in 8 "
            "bits, so save them in 16 bits",
            path,
            several,
        )
    return labels


def _ids_of_several_objects(labels: Labels) -> int:
    """Return how many ids of a full 8-bit image name several separate objects; 0 if it is not."""
    ids = np.unique(labels[labels > 0])
    if len(ids) < FULL:
        return 0
    # pixels of one object are joined to their neighbours of the same id only
    pieces = [
        cv2.connectedComponents((labels == number).astype(np.uint8))[0] - 1 for number in ids[:64]
    ]
    several = np.array(pieces) > 1
    # a few are single nuclei that were cut or drawn in parts
    return round(float(several.mean()) * len(ids)) if several.mean() > 0.25 else 0
