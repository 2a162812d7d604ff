"""What became of each nucleus: matched, missed, false, split or merged.

An unmatched true nucleus is *split* when two or more unmatched predictions each have more than half
of their area in it; these predictions are its pieces. An unmatched prediction is *merged* when two
or more unmatched true nuclei each have more than half of their area in it; these true nuclei are
its parts. A nucleus that is neither is *missed* (true) or *false* (predicted).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from histocli.base.types import IntArray
from histocli.instances.matching import matched_pairs
from histocli.instances.overlaps import BoolVector, Overlaps


class Fate(IntEnum):
    """What became of one nucleus, true or predicted."""

    MATCHED = 0
    """The IoU with a nucleus of the other side exceeds one half."""
    LOST = 1
    """Missed where it is true, false where it is predicted."""
    SPLIT = 2
    """A true nucleus in several pieces, or one of the pieces."""
    MERGED = 3
    """A prediction over several true nuclei, or one of the true nuclei."""


@dataclass(frozen=True, kw_only=True)
class Fates:
    """What became of all nuclei of an image; values of :class:`Fate` in the order of the table."""

    truth: npt.NDArray[np.uint8]
    prediction: npt.NDArray[np.uint8]
    splits: int
    """True nuclei that are split; they may be parts of a merger too."""
    merges: int
    """Predictions that are merged."""

    @property
    def missed(self) -> int:
        """True nuclei that nothing was found of; neither matched, split nor merged."""
        return int(np.count_nonzero(self.truth == Fate.LOST))

    @property
    def false(self) -> int:
        """Predicted nuclei where there is none."""
        return int(np.count_nonzero(self.prediction == Fate.LOST))


def tell_fates(table: Overlaps) -> Fates:
    """Tell what became of each nucleus.

    A prediction that is a piece of one nucleus and merges others is called merged.
    """
    rows, columns = table.rows, table.columns
    matched = matched_pairs(table)
    truth = np.full(len(table.truth.ids), Fate.LOST, np.uint8)
    prediction = np.full(len(table.prediction.ids), Fate.LOST, np.uint8)
    truth[rows[matched]] = prediction[columns[matched]] = Fate.MATCHED
    open_pairs = (truth[rows] == Fate.LOST) & (prediction[columns] == Fate.LOST)
    piece = open_pairs & (2 * table.intersection > table.prediction.areas[columns])
    part = open_pairs & (2 * table.intersection > table.truth.areas[rows])
    split, pieces = _shared(rows, columns, piece, len(truth), len(prediction))
    merged, parts = _shared(columns, rows, part, len(prediction), len(truth))
    truth[split] = prediction[pieces] = Fate.SPLIT
    truth[parts] = prediction[merged] = Fate.MERGED
    return Fates(
        truth=truth, prediction=prediction, splits=int(split.sum()), merges=int(merged.sum())
    )


def _shared(
    whole: IntArray, member: IntArray, belongs: BoolVector, n_whole: int, n_member: int
) -> tuple[BoolVector, BoolVector]:
    """Return which wholes have at least two members, and which members they have."""
    several = np.bincount(whole[belongs], minlength=n_whole) >= 2
    members = np.zeros(n_member, bool)
    members[member[belongs & several[whole]]] = True
    return several, members
