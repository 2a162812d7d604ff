"""Inputs of a call: paths as the words that stages take, and arrays as files in a scratch folder.

A stage reads files, and records names and content hashes of them. Arrays are therefore written to
files without loss, in a folder that is removed after the call. Equal arrays make equal files, so a
finished output is recognised by the next call.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidInput, InvalidOption, UnknownPixelSize
from histocli.config.common import Execution

PathLike: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = npt.NDArray[Any]
Images: TypeAlias = PathLike | Array | Sequence["PathLike | Array"]
"""Images: a path or several, an array (H, W), (H, W, 3) or (H, W, 4), a stack (N, H, W, 3), or a
sequence of arrays. Paths are words as on the command line: files, folders, globs, manifests."""
Labels: TypeAlias = PathLike | Array | Sequence[Array] | Mapping[str, Array]
"""Label images: a path as on the command line, an array (H, W) of integers, a sequence of arrays,
or arrays by name. 0 is background, k is nucleus k, and -1 is ignored in a truth."""


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="histosynth-") as folder:
        yield Path(folder)


@contextmanager
def target_of(out: PathLike | None, name: str) -> Iterator[tuple[Path, Callable[[object], object]]]:
    """Yield the path to make, and a function that takes the object which stands for it.

    Without ``out``, the path lies in a new folder, which is removed after an error, or when the
    object is deleted or the program ends.
    """
    if out is not None:
        yield Path(out), lambda owner: None
        return
    folder = tempfile.mkdtemp(prefix="histosynth-")
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        yield Path(folder, name), lambda owner: weakref.finalize(owner, remove)
    except BaseException:
        remove()
        raise


def no_dry_run(execution: Execution, name: str) -> None:
    """Refuse ``dry_run`` in a function that returns what it has made."""
    if execution.dry_run:
        raise InvalidOption(
            f"{name}: dry_run makes nothing that could be returned; use "
            f"'histosynth {name} --dry-run'"
        )


def model_named(model: PathLike) -> Path | None:
    """Return what stages take for a model: a path, a name without ``box:``, or None for ``box``."""
    word = os.fspath(model)
    if word == "box":
        return None
    return Path(word.removeprefix("box:"))


def is_path(value: object) -> bool:
    """Tell whether a value is a path, and no array or sequence."""
    return isinstance(value, (str, os.PathLike))


def image_words(images: Images, folder: Path, *, name: str, mpp: float | None) -> list[str]:
    """Return the words for images; arrays are written to ``folder``.

    Parameters
    ----------
    name : str
        Noun of the files and of messages, such as ``reference``.
    mpp : float or None
        Micrometres per pixel that the caller gave. Arrays record none, so they need it.

    Raises
    ------
    UnknownPixelSize
        There are arrays and ``mpp`` is None.
    InvalidInput
        An array is no image, or there is none.
    """
    if isinstance(images, (str, os.PathLike)):
        return [os.fspath(images)]
    if isinstance(images, np.ndarray):
        images = list(images) if images.ndim == 4 else [images]
    words = []
    for number, image in enumerate(images):
        if isinstance(image, (str, os.PathLike)):
            words.append(os.fspath(image))
            continue
        if mpp is None:
            raise UnknownPixelSize(
                f"{name} {number}: an array records no pixel size; give it in the config, for "
                "example 0.25 micrometres per pixel for a 40x scan"
            )
        words.append(str(_write_image(folder / f"{name}_{number:04d}.tif", np.asarray(image))))
    if not words:
        raise InvalidInput(f"no {name} is given; at least one image is needed")
    return words


def reference_words(references: Images, folder: Path, mpp: float | None) -> list[str]:
    """Return the words for references, of which there may be none."""
    none = not isinstance(references, (str, os.PathLike)) and len(references) == 0
    return [] if none else image_words(references, folder, name="reference", mpp=mpp)


def _write_image(path: Path, image: Array) -> Path:
    """Write an array as TIFF, without loss and with the same bytes each time."""
    import tifffile

    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in image.shape:
        raise InvalidInput(
            f"{path.stem}: has shape {image.shape}; an image array is (height, width), or "
            "(height, width, 3) for RGB"
        )
    more: dict[str, Any] = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    kind = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(
        path,
        np.ascontiguousarray(image),
        photometric=kind,
        planarconfig="contig",
        metadata=None,
        **more,
    )
    return path


def check_as_many(first: Labels, second: Labels, names: str) -> None:
    """Raise ``InvalidInput`` if both are arrays in an order, and differ in number."""
    ordered = [
        each
        for each in (first, second)
        if not isinstance(each, (str, os.PathLike, Mapping))  # those are matched by name
    ]
    counts = {len(each) if np.ndim(each[0]) > 1 else 1 for each in ordered if len(each)}
    if len(ordered) == 2 and len(counts) == 2:
        raise InvalidInput(
            f"{names} have {' and '.join(map(str, sorted(counts)))} label images; give as many of "
            "both, in the same order, or name them in a mapping"
        )


def label_word(labels: Labels, folder: Path) -> str:
    """Return the word for label images; arrays are written to ``folder``, one file each.

    Arrays without names get their numbers as names, so that those of two calls fit together.

    Raises
    ------
    InvalidInput
        An array is no label image, or there is none.
    """
    if isinstance(labels, (str, os.PathLike)):
        return os.fspath(labels)
    if isinstance(labels, np.ndarray):
        labels = list(labels) if labels.ndim == 3 else [labels]
    named: Iterable[tuple[str, Any]] = (
        labels.items()
        if isinstance(labels, Mapping)
        else ((f"{number:04d}", each) for number, each in enumerate(labels))
    )
    folder.mkdir(parents=True, exist_ok=True)
    there_are_some = False
    for name, each in named:
        array = np.asarray(each)
        if array.ndim != 2 or array.dtype.kind not in "iub":
            raise InvalidInput(
                f"labels {name}: must be whole numbers of shape (height, width), got "
                f"{array.dtype} of shape {array.shape}"
            )
        if Path(name).name != name or not name:
            raise InvalidInput(f"labels {name!r}: a name must be usable as the name of a file")
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        there_are_some = True
    if not there_are_some:
        raise InvalidInput("no labels are given; at least one label image is needed")
    return str(folder)
