"""Label images of any kind, as a user names them: found, named, and opened one at a time.

=============================  =================================================================
source of labels               how it is recognised
=============================  =================================================================
label store, patch store       by the stage, which opens this program's own stores
OME-Zarr of other programs     a Zarr folder with ``labels/<name>`` or an image of integers
label image                    ``.tif``, ``.tiff``, ``.png``, ``.npy``, ``.mat``
stack of masks                 ``.npy`` with four axes, as of PanNuke; image *i* is ``00000i``
outlines                       ``.geojson``, ``.geojson.gz``, ImageScope ``.xml``
COCO                           ``.json`` with ``images`` and ``annotations``
masks of single nuclei         a folder ``<image>/masks/*.png``
=============================  =================================================================
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.annotations.coco import draw, images_of, is_coco
from histocli.annotations.geojson import parse_json
from histocli.annotations.images import LABEL_SUFFIXES, MASKS_FOLDER, open_label_image, open_masks
from histocli.annotations.labels import OpenLabels
from histocli.annotations.ngff import open_ngff_labels
from histocli.annotations.outlines import OUTLINE_SUFFIXES, Opened, read_outlines
from histocli.annotations.stacks import read_stack_masks, stack_length
from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.formats import FORMATS
from histocli.base.inputs import STORE_SUFFIX, expand_inputs, is_store
from histocli.base.types import RGBImage
from histocli.slides.slide import slide_stem

# Endings of pictures and second copies of labels, which this program writes beside labels.
OTHER_ENDINGS = (
    *(form.suffix for form in FORMATS.values() if form.needs_pixels),
    FORMATS["ome-zarr-0.4"].suffix,
    ".qc.png",
)

Probabilities: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Ids of nuclei, ascending, and the probability of each."""


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """One label image that is opened on demand."""

    name: str
    """Name of the labelled image; predictions and truths of the same name are paired."""
    source: str  # for messages
    open: Callable[[], Opened]
    image: Callable[[], RGBImage] | None = None
    """Reads the labelled picture, where the store has one of the same size."""
    probabilities: Callable[[], Probabilities | None] | None = None
    """Reads the probabilities of its nuclei, where the store has them."""


@dataclass(frozen=True)
class LabelFinder:
    """Finds label images; the files of this program are opened by functions that a stage gives."""

    own_store: Callable[[Path, str], list[LabelSource] | None]
    """Given a folder and a text, returns the label images of one of this program's stores, or None
    for any other folder. A patch is named by the text and its number."""
    recorded_mpp: Callable[[Path], float | None]
    """Reads the micrometres per pixel that a label image of this program records."""

    def find(self, word: str) -> dict[str, LabelSource]:
        """Return the label images that a word of the command line names, by name.

        Raises
        ------
        InputNotFound
            Nothing is found, or only overlays (pictures with outlines).
        InvalidInput
            Two label images have the same name, or a folder holds no labels.
        """
        path = Path(word)
        if path.is_dir() and (_is_store(path) or _has_masks(path)):
            paths = [path]
        else:
            paths = _folders_with_masks(path) or _label_files(word)
        named: dict[str, LabelSource] = {}
        for path in paths:
            prefix = f"{label_stem(path)}:" if len(paths) > 1 else ""
            for source in self.at(path, prefix):
                if source.name in named:
                    raise InvalidInput(
                        f"{named[source.name].source} and {source.source} have the same name, "
                        "so it is not clear which one counts; keep one of them, or name the pairs "
                        "in a CSV with columns prediction, truth"
                    )
                named[source.name] = source
        return named

    def at(self, path: Path, prefix: str = "") -> list[LabelSource]:
        """Return the label images of one file, folder of masks or store."""
        name, where = label_stem(path), str(path)
        opener: Callable[[], Opened]
        if (several := _of_many_images(path, prefix)) is not None:
            return several
        if _has_masks(path):
            name, opener = path.name, partial(open_masks, path)
        elif _is_outlines(path) and not path.is_dir():
            opener = partial(read_outlines, path)
        elif not path.is_dir():
            opener = partial(open_label_image, path, self.recorded_mpp)
        elif (known := self.own_store(path, prefix)) is not None:
            return known
        else:
            opener = partial(open_ngff_labels, path, where)
            opener()  # a folder without labels is refused here
        return [LabelSource(name=name, source=where, open=opener)]


def _of_many_images(path: Path, prefix: str) -> list[LabelSource] | None:
    """Return the label images of a stack of masks or of a COCO file; None for other files."""
    if (length := stack_length(path)) is not None:
        return [
            LabelSource(
                name=f"{prefix}{index:06d}",
                source=f"{path}, image {index}",
                open=partial(_open_in_stack, path, index),
            )
            for index in range(length)
        ]
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    try:
        document = parse_json(path.read_bytes())
    except ValueError:  # reading it as outlines reports its fault
        return None
    if not is_coco(document):
        return None
    return [
        LabelSource(
            name=slide_stem(Path(image.name)),
            source=f"{path}, {image.name}",
            open=partial(draw, path, image),
        )
        for image in images_of(path, document)
    ]


def _open_in_stack(path: Path, index: int) -> OpenLabels:
    return OpenLabels.in_memory(read_stack_masks(path, index), f"{path}, image {index}")


def _label_files(word: str) -> list[Path]:
    """Return the files and stores that a word names; of several formats of a slide only the best.

    ``_rank`` orders the formats. A single file is taken whatever its suffix.
    """
    suffixes = (*LABEL_SUFFIXES, *OUTLINE_SUFFIXES, STORE_SUFFIX)
    paths = expand_inputs([word], suffixes=suffixes, stdin=sys.stdin, what="label image")
    if len(paths) == 1:
        return paths
    paths = [path for path in paths if not path.name.lower().endswith(OTHER_ENDINGS)]
    if not paths:
        raise InputNotFound(
            f"{word}: holds overlays only, which are pictures; labels are *.zarr, "
            f"{', '.join(suffixes[:-1])}"
        )
    best: dict[str, int] = {}
    for path in sorted(paths, key=_rank):
        best.setdefault(label_stem(path), _rank(path))
    return [path for path in paths if _rank(path) == best[label_stem(path)]]


def _rank(path: Path) -> int:
    """Return 0 for a store, 1 for a label image, 2 for outlines; the lowest is preferred."""
    return 0 if _is_store(path) else 2 if _is_outlines(path) else 1


def _is_store(path: Path) -> bool:
    # Zarr format 2, which other programs write, has these files
    return is_store(path) or any((path / name).is_file() for name in (".zgroup", ".zarray"))


def _is_outlines(path: Path) -> bool:
    # ``.json`` is read if the user names it; folders are not searched, most hold something else
    return not _is_store(path) and path.name.lower().endswith((*OUTLINE_SUFFIXES, ".json"))


def _has_masks(path: Path) -> bool:
    return (path / MASKS_FOLDER).is_dir()


def _folders_with_masks(path: Path) -> list[Path]:
    """Return the folders directly below a folder that hold masks of single nuclei, sorted."""
    below = path.iterdir() if path.is_dir() else ()
    return sorted(folder for folder in below if folder.is_dir() and _has_masks(folder))


def label_stem(path: Path) -> str:
    """Return the name of the image to which the labels in a file or store belong."""
    for ending in OUTLINE_SUFFIXES:
        if path.name.lower().endswith(ending) and not path.is_dir():
            return path.name[: -len(ending)]
    # the labels of a patch store ``x.zarr`` are in ``x.labels.zarr``
    return slide_stem(path).removesuffix(".labels")
