"""What became of each nucleus: matched, missed, false, split or merged.

An unmatched true nucleus is *split* when two or more unmatched predictions each have more than half
of their area in it; these predictions are its pieces. An unmatched prediction is *merged* when two
or more unmatched true nuclei each have more than half of their area in it; these true nuclei are
its parts. What is neither is *missed* (true) or *false* (predicted).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from histocli.base.types import IntArray
from histocli.instances.matching import Overlaps, matched_pairs


class Verdict(IntEnum):
    """Of one nucleus, true or predicted."""

    MATCHED = 0
    """Its IoU with a nucleus of the other side exceeds one half."""
    LOST = 1
    """Missed where it is true, false where it is predicted."""
    SPLIT = 2
    """A true nucleus in several pieces, or one of the pieces."""
    MERGED = 3
    """A prediction over several true nuclei, or one of the true nuclei."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Of all nuclei of an image; values of :class:`Verdict`."""

    truth: npt.NDArray[np.uint8]
    """(n_truth,) in the order of the table."""
    prediction: npt.NDArray[np.uint8]
    """(n_prediction,)."""
    splits: int
    """True nuclei that are split."""
    merges: int
    """Predictions that are merged."""


def judge_nuclei(table: Overlaps) -> Verdicts:
    """Say of each nucleus what became of it; a piece of one and whole of another is called
    merged.
    """
    rows, columns = table.rows, table.columns
    matched = matched_pairs(table)
    truth = np.full(len(table.areas_truth), Verdict.LOST, np.uint8)
    prediction = np.full(len(table.areas_prediction), Verdict.LOST, np.uint8)
    truth[rows[matched]] = prediction[columns[matched]] = Verdict.MATCHED
    open_pairs = (truth[rows] == Verdict.LOST) & (prediction[columns] == Verdict.LOST)
    piece = open_pairs & (2 * table.intersection > table.areas_prediction[columns])
    part = open_pairs & (2 * table.intersection > table.areas_truth[rows])
    split, pieces = _shared(rows, columns, piece, len(truth), len(prediction))
    merged, parts = _shared(columns, rows, part, len(prediction), len(truth))
    truth[split], prediction[pieces] = Verdict.SPLIT, Verdict.SPLIT
    truth[parts], prediction[merged] = Verdict.MERGED, Verdict.MERGED
    return Verdicts(
        truth=truth, prediction=prediction, splits=int(split.sum()), merges=int(merged.sum())
    )


def _shared(
    whole: IntArray, member: IntArray, belongs: npt.NDArray[np.bool_], n_whole: int, n_member: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return who has at least two members, and which members those are."""
    several = np.bincount(whole[belongs], minlength=n_whole) >= 2
    members = np.zeros(n_member, bool)
    members[member[belongs & several[whole]]] = True
    return several, members
