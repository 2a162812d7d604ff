"""Evaluation: predicted labels beside true ones, pair by pair, and what that makes of the whole set."""

from __future__ import annotations

import csv
import dataclasses
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.errors import HistosynthError, InputNotFound, InvalidInput, InvalidOption, SomeFailed
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.config.common import Execution, as_dict
from histocli.config.evaluate import EvaluateConfig
from histocli.metrics.counts import Counts, count
from histocli.metrics.summary import Summary, summarise
from histocli.stores.inputs import expand_inputs
from histocli.stores.label_images import LABEL_SUFFIXES, read_label_image
from histocli.stores.labels import open_labels
from histocli.stores.patches import PatchStore
from histocli.stores.provenance import peek
from histocli.stores.slides import slide_stem

log = logging.getLogger(__name__)

SCHEMA = "histosynth.evaluate/1"
STORE_SUFFIX = ".zarr"
OVERLAY_ENDING = ".overlay.png"  # pictures that segment writes beside labels
MANIFEST_SUFFIX = ".csv"
PATCH_LABELS_ENDING = ".labels"  # of the stem of a store with one label image per patch
COLLISION = re.compile(r"^(?P<stem>.+)__[0-9a-f]{8}$")  # what segment appends where stems collide
RULES = "IoU > 0.5 is a match; AJI reuses predictions, AJI+ does not; both sides empty is 1, one side empty is 0"


@dataclass(frozen=True)
class LabelItem:
    """One label image, read when its turn comes."""

    name: str
    """What pairs it with its partner."""
    source: str
    """Where it is, for messages."""
    read: Callable[[], npt.NDArray[np.integer[Any]]]


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """Scores of a set of images."""

    prediction: str
    truth: str | None
    status: str
    """done, or planned for a dry run."""
    names: tuple[str, ...]
    """Every image that was, or would be, compared."""
    images: tuple[tuple[str, Counts], ...] = ()
    """Name and counts of each image that could be compared."""
    summary: Summary | None = None
    """None for a dry run."""
    failures: tuple[tuple[str, str], ...] = ()
    """Name and error of each image that could not, under ``--on-error continue``."""
    missed_gates: tuple[tuple[str, float, float], ...] = ()
    """Metric, mean, and the minimum that it does not reach."""
    settings: Json = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def pooled(self) -> Counts:
        """Counts of all images together."""
        return reduce(add, (counts for _, counts in self.images), Counts())

    def raise_if_any_failed(self) -> None:
        """Raise ``SomeFailed`` when an image could not be compared."""
        if self.failures:
            raise SomeFailed(
                f"{len(self.failures)} of {len(self.names)} images could not be compared, see above; scores are of the others"
            )

    def to_json(self) -> Json:
        """Return the object that ``histosynth evaluate --json`` prints."""
        scores: Json = {}
        if self.summary is not None:
            scores = {
                "mean": self.summary.mean,
                "ci95": {name: list(pair) if pair else None for name, pair in self.summary.ci95.items()},
                "pooled": self.summary.pooled,
            }
        return {
            "schema": SCHEMA,
            "input": self.prediction,
            "truth": self.truth,
            "output": None,
            "status": self.status,
            **scores,
            "images": [_image_json(name, counts) for name, counts in self.images],
            "failed": [{"name": name, "error": error} for name, error in self.failures],
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
            "error": None,
        }


def _image_json(name: str, counts: Counts) -> Json:
    return {
        "name": name,
        **counts.scores(),
        "n_truth": counts.n_truth,
        "n_prediction": counts.n_prediction,
        "true_positives": counts.true_positives,
        "false_positives": counts.false_positives,
        "false_negatives": counts.false_negatives,
    }


def evaluate(
    prediction: str,
    truth: str | None,
    config: EvaluateConfig,
    execution: Execution,
    *,
    track: Track = silent,
) -> EvaluateResult:
    """Compare predicted labels with true ones.

    Parameters
    ----------
    prediction, truth : str
        A label store, a patch store, a label image (TIFF, PNG, NPY), or a folder of these, such as an output folder of
        ``segment``: each slide once, its store rather than its TIFF, never its overlay; or ``-`` for their paths on stdin.
        Images pair by name; two single images pair whatever their names. A patch store has one image a patch, paired by
        number. Or ``prediction`` is a CSV with columns ``prediction`` and ``truth``, and ``truth`` is None.
    config : EvaluateConfig
        Gates and interval.
    execution : Execution
        Workers, and what to do with a pair that cannot be compared.
    track : Track
        Progress.

    Returns
    -------
    EvaluateResult
        With ``missed_gates``; the caller raises ``GateNotMet`` once the scores are shown.

    Raises
    ------
    InputNotFound
        An input is missing, or a true image has no prediction.
    InvalidInput
        Labels that cannot be read or do not have the shape of their partner; with ``on_error="continue"`` only if that is
        so for all pairs.
    """
    start = time.monotonic()
    pairs, unpaired = _pairs(prediction, truth)
    names = tuple(name for name, _, _ in pairs) + tuple(unpaired)
    if unpaired and (execution.on_error == "stop" or not pairs):
        shown = ", ".join(unpaired[:5]) + (", ..." if len(unpaired) > 5 else "")
        raise InputNotFound(
            f"{prediction}: no prediction for {len(unpaired)} of {len(names)} true images ({shown}); names must agree, "
            "or name the pairs in a CSV with columns prediction, truth"
        )
    settings = {**as_dict(config), "rules": RULES}
    result = EvaluateResult(prediction=prediction, truth=truth, status="planned", names=names, settings=settings)
    if execution.dry_run:
        return result

    images: list[tuple[str, Counts]] = []
    failures = [(name, "has no prediction of this name") for name in unpaired]
    compare = partial(_compare, tolerant=execution.on_error == "continue")
    workers = resolve_workers(execution.workers)
    with track("comparing", len(pairs)) as bar, ThreadPoolExecutor(workers) as pool:
        for begin in range(0, len(pairs), 8 * workers):  # in batches, so that a stop or an error does not wait for all
            raise_if_stopped("evaluation stopped; nothing was written, run it again")
            for name, outcome in pool.map(compare, pairs[begin : begin + 8 * workers]):
                if isinstance(outcome, Counts):
                    images.append((name, outcome))
                else:
                    failures.append((name, str(outcome)))
                bar.advance()
    if not images:
        raise InvalidInput(f"{prediction}: none of {len(names)} images could be compared; the first: {failures[0][1]}")
    summary = summarise([counts for _, counts in images], bootstrap=config.bootstrap, seed=config.seed)
    missed = tuple((name, summary.mean[name], least) for name, least in config.minimum if summary.mean[name] < least)
    return dataclasses.replace(
        result,
        status="done",
        images=tuple(images),
        summary=summary,
        failures=tuple(failures),
        missed_gates=missed,
        seconds=time.monotonic() - start,
    )


Pair = tuple[str, LabelItem, LabelItem]
"""Name, prediction, truth."""


def _compare(pair: Pair, *, tolerant: bool) -> tuple[str, Counts | HistosynthError]:
    """Read and compare one pair; when tolerant, an error is a result."""
    name, predicted, true = pair
    try:
        truth, prediction = true.read(), predicted.read()
        if truth.shape != prediction.shape:
            raise InvalidInput(
                f"{predicted.source} has {_size(prediction)} pixels but {true.source} has {_size(truth)}; labels are "
                "compared pixel by pixel, so both must cover the same image at the same resolution"
            )
        return name, count(truth, prediction)
    except HistosynthError as error:
        if not tolerant:
            raise
        return name, error


def _size(labels: npt.NDArray[Any]) -> str:
    return f"{labels.shape[0]} x {labels.shape[1]}"


def _pairs(prediction: str, truth: str | None) -> tuple[list[Pair], list[str]]:
    """Return the pairs in the order of the truth, and the names of true images without a prediction."""
    if prediction.lower().endswith(MANIFEST_SUFFIX):
        if truth is not None:
            raise InvalidOption(f"{prediction}: a CSV names predictions and truths, so TRUTH ({truth}) must not be given")
        return _pairs_of_manifest(Path(prediction)), []
    if truth is None:
        raise InvalidOption("TRUTH is missing; only a CSV with columns prediction, truth stands alone")
    predicted, true = _items(prediction), _items(truth)
    if len(predicted) == len(true) == 1:
        (only_predicted,), (only_true,) = predicted.values(), true.values()
        return [(only_true.name, only_predicted, only_true)], []
    pairs, unpaired, taken = [], [], set()
    for name, item in true.items():
        partner = _partner(name, predicted)
        if partner is None:
            unpaired.append(name)
        else:
            taken.add(partner.name)
            pairs.append((name, partner, item))
    extra = [name for name in predicted if name not in taken]
    if extra and pairs:
        log.warning("%d predictions have no truth and are left out, such as %s", len(extra), extra[0])
    return pairs, unpaired


def _partner(name: str, predicted: Mapping[str, LabelItem]) -> LabelItem | None:
    """Find the prediction of a name; also the one that segment renamed because stems collided, if it is the only one."""
    if name in predicted:
        return predicted[name]
    renamed = [item for other, item in predicted.items() if (match := COLLISION.match(other)) and match["stem"] == name]
    return renamed[0] if len(renamed) == 1 else None


def _items(word: str) -> dict[str, LabelItem]:
    """Return the label images that a word names, by name."""
    paths = expand_inputs([word], suffixes=(*LABEL_SUFFIXES, STORE_SUFFIX), stdin=sys.stdin, what="label image")
    if len(paths) == 1:
        return _by_name(_items_of(paths[0]))
    paths = [path for path in paths if not path.name.lower().endswith(OVERLAY_ENDING)]
    stores = {_stem(path) for path in paths if _is_store(path)}
    chosen = [path for path in paths if _is_store(path) or _stem(path) not in stores]
    if not chosen:
        raise InputNotFound(f"{word}: holds overlays only, which are pictures; labels are *.zarr, {', '.join(LABEL_SUFFIXES)}")
    if len(chosen) == 1:
        return _by_name(_items_of(chosen[0]))
    return _by_name(item for path in chosen for item in _items_of(path, prefix=True))


def _by_name(items: Iterable[LabelItem]) -> dict[str, LabelItem]:
    named: dict[str, LabelItem] = {}
    for item in items:
        if item.name in named:
            raise InvalidInput(
                f"{named[item.name].source} and {item.source} have the same name, so it is not clear which one counts; "
                "keep one of them, or name the pairs in a CSV with columns prediction, truth"
            )
        named[item.name] = item
    return named


def _is_store(path: Path) -> bool:
    return path.name.lower().endswith(STORE_SUFFIX) or path.is_dir()


def _stem(path: Path) -> str:
    return slide_stem(path).removesuffix(PATCH_LABELS_ENDING)


def _items_of(path: Path, *, prefix: bool = False) -> list[LabelItem]:
    """Return the label images of one file or store; ``prefix`` puts the store's name before the number of a patch."""
    if not _is_store(path):
        return [LabelItem(_stem(path), str(path), partial(read_label_image, path))]
    known = peek(path)
    if known is not None and known.contract_name == "histosynth-patches":
        patches = PatchStore.open(path)
        return _numbered(path, len(patches), prefix, partial(_read_patch, patches))
    labels = open_labels(path)
    if labels.layout == "slide":
        return [LabelItem(_stem(path), str(path), labels.label_image)]
    return _numbered(path, len(labels), prefix, labels.label_image)


def _numbered(path: Path, n: int, prefix: bool, read: Callable[[int], npt.NDArray[np.integer[Any]]]) -> list[LabelItem]:
    before = f"{_stem(path)}:" if prefix else ""
    return [LabelItem(f"{before}{i:06d}", f"{path}, patch {i}", partial(read, i)) for i in range(n)]


def _read_patch(store: PatchStore, index: int) -> npt.NDArray[np.integer[Any]]:
    return np.asarray(store.read(range(index, index + 1))[1][0])


def _pairs_of_manifest(path: Path) -> list[Pair]:
    """Read pairs from a CSV; relative paths count from the working folder or, where nothing is there, from the CSV's."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, skipinitialspace=True)
            table.fieldnames = [name.strip().lower() for name in table.fieldnames or []]
            header, rows = table.fieldnames, list(table)
    except FileNotFoundError:
        raise InputNotFound(f"{path}: no such file; a CSV with columns prediction, truth was expected") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: cannot be read as CSV ({' '.join(str(error).split())})") from error
    if not {"prediction", "truth"} <= set(header):
        raise InvalidInput(f"{path}: needs the columns prediction, truth; got {', '.join(header) or 'nothing'}")
    if not rows:
        raise InputNotFound(f"{path}: no input, the CSV names no pair; one a line is expected below the header")
    pairs = []
    for line, row in enumerate(rows, 2):
        predicted, true = (_one_item(row.get(column), path, line, column) for column in ("prediction", "truth"))
        pairs.append((predicted.name, predicted, true))
    return _with_distinct_names(pairs)


def _with_distinct_names(pairs: Sequence[Pair]) -> list[Pair]:
    """Name pairs by both paths where the short names of several are equal."""
    short = [name for name, _, _ in pairs]
    if len(set(short)) == len(short):
        return list(pairs)
    return [(f"{predicted.source} | {true.source}", predicted, true) for _, predicted, true in pairs]


def _one_item(word: str | None, manifest: Path, line: int, column: str) -> LabelItem:
    name = (word or "").strip()
    if not name:
        raise InvalidInput(f"{manifest}: line {line} has no {column}; fill it or remove the line")
    path = Path(name)
    beside = manifest.parent / path
    if not path.exists() and beside.exists():
        path = beside
    if not path.exists():
        raise InputNotFound(f"{path}: no such label image (line {line} of {manifest}); check the path")
    items = _items_of(path)
    if len(items) != 1:
        raise InvalidInput(f"{path}: holds {len(items)} label images, but a line of {manifest} names one; evaluate it by itself")
    return items[0]
