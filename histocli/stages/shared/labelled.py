"""Images with labels of their nuclei, of any kind that ``evaluate`` reads, paired by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histocli.annotations.images import LABEL_SUFFIXES
from histocli.annotations.outlines import OUTLINE_SUFFIXES
from histocli.annotations.pairs import pair_namesakes
from histocli.annotations.sources import LabelSource, label_stem
from histocli.annotations.stacks import read_stack_image, stack_length
from histocli.base.errors import InvalidInput
from histocli.base.files import content_hash
from histocli.base.inputs import STORE_SUFFIX, expand_inputs, expand_with_mpp
from histocli.base.units import ASSUMED_MPP
from histocli.slides.open import SLIDE_SUFFIXES, SlideImage, read_image
from histocli.slides.slide import slide_stem
from histocli.stages.shared.labels import LABEL_FINDER

STACK_SUFFIX = ".npy"


@dataclass(frozen=True)
class LabelledImage:
    """An image and its labels, with the content hashes of both files."""

    image: Path
    labels: LabelSource
    mpp: float | None
    """Micrometres per pixel that a manifest gives; None where it gives none."""
    image_sha256: str
    labels_sha256: str
    index: int | None = None
    """Number of the image in a stack of images; None for a file of one image."""

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.image.name if self.index is None else f"{self.image.name}, {self.index:06d}"

    def read(self, mpp: float | None) -> SlideImage:
        """Read the picture; ``mpp`` overrides its pixel size."""
        if self.index is None:
            return read_image(self.image, mpp=mpp)
        pixels = read_stack_image(self.image, self.index)
        return SlideImage(pixels, mpp or ASSUMED_MPP, "given" if mpp else "assumed")

    def read_labels(self, shape: tuple[int, int]) -> npt.NDArray[np.integer]:
        """Read the labels; outlines are drawn in the size of the picture."""
        return self.labels.open().on(shape).whole()


def find_labelled_images(
    images: str | Sequence[str], labels: str | Sequence[str]
) -> list[LabelledImage]:
    """Return the images and labels that words name, paired by name.

    Raises
    ------
    InputNotFound, InvalidInput
        Nothing is found, or an image or a label image has no partner.
    """
    image_words, label_words = (
        [words] if isinstance(words, str) else list(words) for words in (images, labels)
    )
    named = expand_with_mpp(image_words, suffixes=(*SLIDE_SUFFIXES, STACK_SUFFIX), stdin=sys.stdin)
    label_paths = expand_inputs(
        label_words,
        suffixes=(*LABEL_SUFFIXES, *OUTLINE_SUFFIXES, STORE_SUFFIX),
        stdin=sys.stdin,
        what="label image",
    )
    mpp_of = {image.path: image.mpp for image in named}
    sources = {path: LABEL_FINDER.at(path) for path in label_paths}
    # the labels of a file with those of one image have the name of the file
    if any([one.name for one in found] != [label_stem(path)] for path, found in sources.items()):
        return _of_many(mpp_of, sources)
    return [
        LabelledImage(
            image, sources[path][0], mpp_of[image], content_hash(image), content_hash(path)
        )
        for image, path in pair_namesakes(list(mpp_of), label_paths).items()
    ]


def _of_many(
    mpp_of: Mapping[Path, float | None], sources: Mapping[Path, list[LabelSource]]
) -> list[LabelledImage]:
    """Pair images with the labels of files that hold those of several images."""
    hashes = {path: content_hash(path) for path in (*mpp_of, *sources)}
    label_of: dict[str, tuple[LabelSource, str]] = {}
    for path, several in sources.items():
        for source in several:
            if source.name in label_of:
                raise InvalidInput(
                    f"{source.source} and {label_of[source.name][0].source} are labels of one "
                    "name; every image has one"
                )
            label_of[source.name] = (source, hashes[path])
    pairs: list[LabelledImage] = []
    for path, mpp in mpp_of.items():
        length = stack_length(path)
        indices = [None] if length is None else range(length)
        for index in indices:
            name = slide_stem(path) if index is None else f"{index:06d}"
            if name not in label_of:
                raise InvalidInput(
                    f"{path}: image {name} has no labels of its name; every image needs its labels "
                    "under its own name, the suffix aside"
                )
            source, sha256 = label_of.pop(name)
            pairs.append(LabelledImage(path, source, mpp, hashes[path], sha256, index))
    if label_of:
        source, _ = next(iter(label_of.values()))
        raise InvalidInput(
            f"{source.source}: is labelled, but no image has its name; every image needs its "
            "labels under its own name, the suffix aside"
        )
    return pairs
