"""Predicted label images beside true ones: by name, or as a CSV says.

A CSV has a column ``truth``, or columns ``prediction`` and ``truth``, and may have ``group``,
``mpp``, ``image`` and ``ignore``. Its relative paths count from the working folder or, where
nothing is there, from the folder of the CSV.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histocli.annotations.labels import Shape
from histocli.annotations.outlines import Opened
from histocli.annotations.sources import LabelFinder, LabelSource
from histocli.base.errors import InputNotFound, InvalidInput, InvalidOption
from histocli.base.inputs import MANIFEST_SUFFIX
from histocli.base.units import sane_mpp

COLLISION = re.compile(r"^(?P<stem>.+)__[0-9a-f]{8}$")  # what segment appends where stems collide


@dataclass(frozen=True, kw_only=True)
class TrueImage:
    """The true labels of an image, and what a CSV says about the image."""

    labels: LabelSource
    group: str = ""
    mpp: float | None = None
    """Micrometres per pixel; None where the CSV does not give them."""
    image: Path | None = None
    """The picture."""
    ignore: LabelSource | None = None
    """Pixels that are not 0 here are ignored."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prediction and its truth."""

    name: str
    prediction: LabelSource
    truth: TrueImage


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which predictions belong to which truths, and what is left over."""

    pairs: tuple[Pair, ...]
    """In the order of the truth."""
    without_prediction: tuple[str, ...] = ()
    """Names of true images without a prediction."""
    without_truth: tuple[str, ...] = ()
    """Names of predictions without a truth."""


def find_pairs(prediction: str, truth: str | None, finder: LabelFinder) -> Pairs:
    """Return predictions and truths that belong together.

    Parameters
    ----------
    prediction : str
        What :meth:`LabelFinder.find` takes, or a CSV with columns ``prediction`` and ``truth``.
    truth : str or None
        What :meth:`LabelFinder.find` takes, or a CSV with a column ``truth``; None where
        ``prediction`` is a CSV.
    finder : LabelFinder

    Raises
    ------
    InvalidOption
        ``truth`` is missing, or given beside a CSV that names it.
    InputNotFound, InvalidInput
        As :meth:`LabelFinder.find`; also for what a CSV names or says.
    """
    if prediction.lower().endswith(MANIFEST_SUFFIX):
        if truth is not None:
            raise InvalidOption(
                f"{prediction}: a CSV names predictions and truths, so TRUTH ({truth}) must not be "
                "given"
            )
        return _pairs_of_csv(Path(prediction), finder)
    if truth is None:
        raise InvalidOption(
            "TRUTH is missing; only a CSV with columns prediction, truth stands alone"
        )
    if truth.lower().endswith(MANIFEST_SUFFIX):
        true = _truth_of_csv(Path(truth), finder)
    else:
        true = {name: TrueImage(labels=found) for name, found in finder.find(truth).items()}
    return pair_by_name(finder.find(prediction), true)


def pair_by_name(predicted: Mapping[str, LabelSource], true: Mapping[str, TrueImage]) -> Pairs:
    """Pair what has the same name; two single images pair whatever their names."""
    if len(predicted) == len(true) == 1:
        (only,), ((name, image),) = predicted.values(), true.items()
        return Pairs(pairs=(Pair(name=name, prediction=only, truth=image),))
    pairs, unpaired, taken = [], [], set()
    for name, image in true.items():
        partner = _partner(name, predicted)
        if partner is None:
            unpaired.append(name)
        else:
            taken.add(partner.name)
            pairs.append(Pair(name=name, prediction=partner, truth=image))
    extra = tuple(name for name in predicted if name not in taken)
    return Pairs(pairs=tuple(pairs), without_prediction=tuple(unpaired), without_truth=extra)


def _partner(name: str, predicted: Mapping[str, LabelSource]) -> LabelSource | None:
    """Return the prediction of a name, or the only one that segment renamed because stems collided.

    None where there is neither.
    """
    if name in predicted:
        return predicted[name]
    renamed = [
        item
        for other, item in predicted.items()
        if (match := COLLISION.match(other)) and match["stem"] == name
    ]
    return renamed[0] if len(renamed) == 1 else None


def common_shape(first: Opened, second: Opened) -> Shape:
    """Return the height and width on which two opened label images are compared.

    That is the size of the first one that has a size; where both are outlines, the smallest image
    that holds both.
    """
    known = first.shape or second.shape
    if known is not None:
        return known
    one, other = first.extent, second.extent
    return max(one[0], other[0]), max(one[1], other[1])


def _truth_of_csv(path: Path, finder: LabelFinder) -> dict[str, TrueImage]:
    found: dict[str, TrueImage] = {}
    for row in _rows_of(path, ("truth",)):
        image = row.true_image(finder)
        name = image.labels.name
        if name in found:
            raise InvalidInput(
                f"{path}: line {row.line} names {name} a second time; names of true images differ"
            )
        found[name] = image
    return found


def _pairs_of_csv(path: Path, finder: LabelFinder) -> Pairs:
    pairs = []
    for row in _rows_of(path, ("prediction", "truth")):
        predicted = row.labels("prediction", finder)
        pairs.append(Pair(name=predicted.name, prediction=predicted, truth=row.true_image(finder)))
    if len({pair.name for pair in pairs}) < len(pairs):
        pairs = [
            replace(pair, name=f"{pair.prediction.source} | {pair.truth.labels.source}")
            for pair in pairs
        ]
    return Pairs(pairs=tuple(pairs))


@dataclass(frozen=True)
class _Row:
    """A line of a CSV."""

    csv: Path
    line: int
    cells: Mapping[str, str]
    """By the name of the column, in lower case; without white space around."""

    def true_image(self, finder: LabelFinder) -> TrueImage:
        """Return what the line says about a true image."""
        labels = self.labels("truth", finder)
        return TrueImage(
            labels=labels,
            group=self.cells.get("group", ""),
            mpp=self._mpp(),
            image=self._path("image", "image") if self.cells.get("image") else None,
            ignore=self.labels("ignore", finder) if self.cells.get("ignore") else None,
        )

    def labels(self, column: str, finder: LabelFinder) -> LabelSource:
        """Return the only label image of the file or store that a column names."""
        if not self.cells.get(column):
            raise InvalidInput(
                f"{self.csv}: line {self.line} has no {column}; fill it or remove the line"
            )
        path = self._path(column, "label image")
        sources = finder.at(path)
        if len(sources) != 1:
            raise InvalidInput(
                f"{path}: holds {len(sources)} label images, but a line of {self.csv} names one; "
                "evaluate it by itself"
            )
        return sources[0]

    def _path(self, column: str, what: str) -> Path:
        path = Path(self.cells[column])
        beside = self.csv.parent / path
        if not path.exists() and beside.exists():
            path = beside
        if not path.exists():
            raise InputNotFound(
                f"{path}: no such {what} (line {self.line} of {self.csv}); check the path"
            )
        return path

    def _mpp(self) -> float | None:
        text = self.cells.get("mpp")
        if not text:
            return None
        try:
            mpp = sane_mpp(float(text))
        except ValueError:
            mpp = None
        if mpp is None:
            raise InvalidInput(
                f"{self.csv}: line {self.line}: mpp must lie between 0.05 and 5 micrometres per "
                f"pixel, got {text!r}"
            )
        return mpp


def _rows_of(path: Path, needed: Sequence[str]) -> list[_Row]:
    """Return the lines of a CSV that has the needed columns."""
    listed = ", ".join(needed)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, skipinitialspace=True)
            header = [name.strip().lower() for name in table.fieldnames or []]
            table.fieldnames = header
            rows = [
                _Row(path, table.line_num, {name: (row[name] or "").strip() for name in header})
                for row in table
            ]
    except FileNotFoundError:
        raise InputNotFound(
            f"{path}: no such file; a CSV with columns {listed} was expected"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(
            f"{path}: cannot be read as CSV ({' '.join(str(error).split())})"
        ) from error
    if not set(needed) <= set(header):
        raise InvalidInput(
            f"{path}: needs the columns {listed}; got {', '.join(header) or 'nothing'}"
        )
    if not rows:
        raise InputNotFound(
            f"{path}: no input, the CSV names no pair; one a line is expected below the header"
        )
    return rows
