"""Images and label images of the same name, apart from the suffix."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histocli.base.errors import InvalidInput
from histocli.slides.slide import slide_stem


@dataclass(frozen=True)
class Namesakes:
    """An image and the label image of its name."""

    image: Path
    labels: Path


def pair_namesakes(images: Sequence[Path], labels: Sequence[Path]) -> list[Namesakes]:
    """Pair images and label images by name; where a name occurs twice, the folders above decide.

    Returns
    -------
    list of Namesakes
        In the order of the images.

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
    return [Namesakes(path, label_keys[key]) for key, path in image_keys.items()]


def _keys(paths: Sequence[Path], *, with_folders: bool) -> dict[tuple[str, ...], Path]:
    """Return paths by their stem, or by stem and the folders below what all paths have in common.

    Without folders, a path whose stem occurred before in another folder is left out.
    """
    root = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    keys: dict[tuple[str, ...], Path] = {}
    for path in paths:
        folders = (
            Path(os.path.relpath(os.path.abspath(path.parent), root)).parts if with_folders else ()
        )
        other = keys.setdefault((*folders, slide_stem(path)), path)
        if other != path and (with_folders or other.parent == path.parent):
            raise InvalidInput(
                f"{path}: has the same name as {other}, the suffix aside; names in one folder must "
                "differ"
            )
    return keys
