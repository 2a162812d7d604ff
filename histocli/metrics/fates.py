"""What became of each nucleus: matched, missed, false, split or merged.

A true and a predicted nucleus are *matched* when their IoU exceeds one half. An unmatched true
nucleus is *split* when two or more unmatched predictions each have more than half of their area in
the nucleus; these predictions are its pieces. An unmatched prediction is *merged* when two or more
unmatched true nuclei each have more than half of their area in the prediction; these nuclei are its
parts. A nucleus that is not matched, split, merged, a piece or a part is *missed* (true) or *false*
(predicted).

A split true nucleus may also be a part, and a piece may also be a merged prediction. Their fate is
then ``MERGED``, so that ``splits`` may exceed the number of true nuclei whose fate is ``SPLIT``.
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
    """The IoU with a nucleus of the other label image exceeds one half."""
    LOST = 1
    """A missed true nucleus, or a false prediction."""
    SPLIT = 2
    """A split true nucleus, or one of its pieces."""
    MERGED = 3
    """A merged prediction, or one of its parts."""


@dataclass(frozen=True, kw_only=True)
class Fates:
    """What became of all nuclei of an image.

    ``truth`` and ``prediction`` hold a :class:`Fate` for each nucleus, in the order of
    ``Overlaps.truth.ids`` and ``Overlaps.prediction.ids``.
    """

    truth: npt.NDArray[np.uint8]
    prediction: npt.NDArray[np.uint8]
    splits: int
    """Number of split true nuclei, including those whose fate is MERGED."""
    merges: int
    """Number of merged predictions."""

    @property
    def missed(self) -> int:
        """Number of true nuclei that are neither matched, split nor parts."""
        return int(np.count_nonzero(self.truth == Fate.LOST))

    @property
    def false(self) -> int:
        """Number of predictions that are neither matched, merged nor pieces."""
        return int(np.count_nonzero(self.prediction == Fate.LOST))


def tell_fates(table: Overlaps) -> Fates:
    """Tell what became of each nucleus.

    Parameters
    ----------
    table : Overlaps
        Each row is an overlapping pair of a true and a predicted nucleus.

    Returns
    -------
    Fates
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
    """Return masks of the wholes with two or more members, and of all members of such wholes.

    Pair i is ``whole[i]`` and ``member[i]``, and counts only where ``belongs[i]`` is true.
    """
    several = np.bincount(whole[belongs], minlength=n_whole) >= 2
    members = np.zeros(n_member, bool)
    members[member[belongs & several[whole]]] = True
    return several, members
