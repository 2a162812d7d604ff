"""Pair predictions with true labels (truths), and images with their labels.

Partners have the same name or are listed in a CSV. A CSV has a column ``truth``, or columns
``prediction`` and ``truth``, and may have ``group``, ``mpp``, ``image`` and ``ignore``. Its
relative paths count from the working folder or, if missing there, from the folder of the CSV.
"""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from histocli.annotations.labels import Shape
from histocli.annotations.outlines import Opened
from histocli.annotations.sources import LabelFinder, LabelSource
from histocli.base.errors import InputNotFound, InvalidInput, InvalidOption
from histocli.base.inputs import MANIFEST_SUFFIX
from histocli.base.units import MPP_RANGE, sane_mpp
from histocli.slides.slide import slide_stem


@dataclass(frozen=True, kw_only=True)
class TrueImage:
    """The true labels of an image, and the cells of a CSV about the image."""

    labels: LabelSource
    group: str = ""  # name of the group of images that it belongs to
    mpp: float | None = None  # micrometres per pixel
    image: Path | None = None  # the picture itself
    ignore: LabelSource | None = None
    """A label image; where it is not 0, pixels are ignored."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prediction and its truth."""

    name: str
    prediction: LabelSource
    truth: TrueImage


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of predictions and truths, and the names that have no partner."""

    pairs: tuple[Pair, ...]
    """In the order of the truth."""
    without_prediction: tuple[str, ...] = ()
    """Names of true images without a prediction."""
    without_truth: tuple[str, ...] = ()
    """Names of predictions without a truth."""


def find_pairs(prediction: str, truth: str | None, finder: LabelFinder) -> Pairs:
    """Return the pairs of predictions and truths that the user names.

    Parameters
    ----------
    prediction : str
        A word for :meth:`LabelFinder.find`, or a CSV with columns ``prediction`` and ``truth``.
    truth : str or None
        A word for :meth:`LabelFinder.find`, or a CSV with a column ``truth``. None if
        ``prediction`` is a CSV.
    finder : LabelFinder

    Raises
    ------
    InvalidOption
        ``truth`` is missing, or given beside a CSV that lists the truths.
    InputNotFound, InvalidInput
        As :meth:`LabelFinder.find`; also for a malformed CSV, or a missing file that it names.
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
    """Pair label images of the same name; one prediction and one truth need no common name."""
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
    """Return the prediction of a name, or the only one that ``segment`` named ``name__hash``."""
    if name in predicted:
        return predicted[name]
    collided = re.compile(re.escape(name) + r"__[0-9a-f]{8}$")
    renamed = [item for other, item in predicted.items() if collided.match(other)]
    return renamed[0] if len(renamed) == 1 else None


def common_shape(first: Opened, second: Opened) -> Shape:
    """Return the height and width on which two opened label images are compared.

    That is the size of ``first``, or of ``second`` if ``first`` has none. If both are outlines, it
    is the smallest image that holds both.
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
    """Cells without surrounding white space, by column name in lower case."""

    def true_image(self, finder: LabelFinder) -> TrueImage:
        """Return the true image that the line describes."""
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
        with suppress(ValueError):
            if mpp := sane_mpp(float(text)):
                return mpp
        low, high = MPP_RANGE
        raise InvalidInput(
            f"{self.csv}: line {self.line}: mpp must lie between {low:g} and {high:g} micrometres "
            f"per pixel, got {text!r}"
        )


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


def pair_namesakes(images: Sequence[Path], labels: Sequence[Path]) -> dict[Path, Path]:
    """Return the label image of each image, by name; if names repeat, their folders must agree.

    Raises
    ------
    InvalidInput
        A file has no partner, or two files of one folder have the same name.
    """
    image_keys, label_keys = (_keys(paths, with_folders=False) for paths in (images, labels))
    if len(image_keys) < len(images) or len(label_keys) < len(labels):
        image_keys, label_keys = (_keys(paths, with_folders=True) for paths in (images, labels))
    for ours, theirs, what, other in (
        (image_keys, label_keys, "an image", "a label image"),
        (label_keys, image_keys, "a label image", "an image"),
    ):
        alone = [str(path) for key, path in ours.items() if key not in theirs]
        if alone:
            more = f" ({len(alone)} of {len(ours)} are alone)" if len(alone) > 1 else ""
            raise InvalidInput(
                f"{alone[0]}: is {what} without {other} of the same name{more}; every image needs "
                "its labels under its own name, the suffix aside"
            )
    return {path: label_keys[key] for key, path in image_keys.items()}


def _keys(paths: Sequence[Path], *, with_folders: bool) -> dict[tuple[str, ...], Path]:
    """Return paths by their stem, or by stem and the folders below their common folder.

    Without folders, a path whose stem occurred before in another folder is left out.
    """
    root = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    keys: dict[tuple[str, ...], Path] = {}
    for path in paths:
        folder = os.path.relpath(os.path.abspath(path.parent), root)
        folders = Path(folder).parts if with_folders else ()
        other = keys.setdefault((*folders, slide_stem(path)), path)
        if other != path and (with_folders or other.parent == path.parent):
            raise InvalidInput(
                f"{path}: has the same name as {other}, the suffix aside; names in one folder must "
                "differ"
            )
    return keys
