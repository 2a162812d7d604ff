"""Patch stores as objects, and the functions that make them: generate, refine and pack."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from histocli.api.inputs import (
    Array,
    Images,
    PathLike,
    image_words,
    label_word,
    no_dry_run,
    reference_words,
    scratch,
    target_of,
)
from histocli.api.progress import Progress, track_of
from histocli.base.errors import InvalidInput
from histocli.base.types import FloatArray, InstanceLabels, RGBImage
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.config.pack import PackConfig
from histocli.config.refine import RefineConfig
from histocli.stages.shared.opened import open_patches
from histocli.stages.shared.results import StageResult


class Patches:
    """A patch store: images with a label for every nucleus, to train on.

    Parameters
    ----------
    path : str or path
        A patch store that ``generate``, ``refine`` or ``pack`` made.

    Raises
    ------
    StoreNotFound, InvalidStore
        There is no such store, or it breaks its contract.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._store = open_patches(self.path)
        self.result: StageResult | None = None
        """What the function that made the store reported."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel."""
        return self._store.mpp

    @property
    def origin(self) -> str:
        """``initial`` (drawn), ``refined`` or ``labelled`` (packed from labelled images)."""
        return self._store.origin

    @property
    def images(self) -> RGBImage:
        """All images, uint8 sRGB, shape (n, side, side, 3), read from disk at each access."""
        return self._store.read(slice(0, len(self)))[0]

    @property
    def labels(self) -> InstanceLabels:
        """All labels, int32, shape (n, side, side): 0 background, k nucleus k, -1 ignored."""
        return self._store.read(slice(0, len(self)))[1]

    @property
    def weights(self) -> FloatArray:
        """How much each patch counts in training, float32, shape (n,)."""
        return self._store.weight

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> tuple[RGBImage, InstanceLabels]:
        """Read image and labels of one patch."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        image, labels = self._store.read(range(index, index + 1))
        return image[0], labels[0]

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        side = self._store.patch_px
        return f"<Patches: {len(self)} {self.origin} of {side} px at {self.mpp:g} um, {self.path}>"


def generate(
    references: Images,
    out: PathLike | None = None,
    config: GenerateConfig | None = None,
    execution: Execution | None = None,
    *,
    progress: Progress | None = None,
) -> Patches:
    """Draw synthetic patches with nucleus labels, in the likeness of unlabelled images.

    Parameters
    ----------
    references : path, array, or sequence of them
        See :data:`histocli.api.inputs.Images`. Arrays need ``GenerateConfig(reference_mpp=...)``.
    out : str or path, optional
        Patch store to make. Without it, the store lives as long as the result.
    config, execution : optional
        As on the command line: a finished store with these settings is kept, an unfinished one
        needs ``resume``, and another one ``overwrite``.
    progress : callable, optional
        See :data:`histocli.api.progress.Progress`.

    Raises
    ------
    UnknownPixelSize
        Arrays without ``reference_mpp``.
    InputNotFound, InvalidInput
        References are missing or cannot be read.
    StoreExists
        An unfinished output, or one of other settings, exists at ``out``.
    """
    from histocli.stages.generate.run import generate as run

    config, execution = config or GenerateConfig(), execution or Execution()

    def make(target: Path) -> StageResult:
        with scratch() as folder:
            words = image_words(references, folder, name="reference", mpp=config.reference_mpp)
            return run(words, target, config, execution, track=track_of(progress))

    return _made("generate", out, execution, make)


def refine(
    patches: PathLike,
    out: PathLike | None = None,
    config: RefineConfig | None = None,
    execution: Execution | None = None,
    *,
    references: Images = (),
    progress: Progress | None = None,
) -> Patches:
    """Repaint the nuclei of synthetic patches by a GAN; labels stay as they are.

    Parameters
    ----------
    patches : Patches or path
        Initial patches, made by :func:`generate`.
    references : optional
        As in :func:`generate`. Without them, the files that the patches record.
    out, config, execution, progress
        As in :func:`generate`.

    Raises
    ------
    StoreNotFound, InvalidStore, InputNotFound, InvalidInput
        Patches or references cannot be used.
    StoreExists
        As in :func:`generate`.
    """
    from histocli.stages.refine.run import refine as run

    config, execution = config or RefineConfig(), execution or Execution()

    def make(target: Path) -> StageResult:
        with scratch() as folder:
            words = reference_words(references, folder, config.reference_mpp)
            store = str(Path(patches))
            return run(store, words, target, config, execution, track=track_of(progress))

    return _made("refine", out, execution, make)


def pack(
    images: Images,
    labels: PathLike | Array | Sequence[Array],
    out: PathLike | None = None,
    config: PackConfig | None = None,
    execution: Execution | None = None,
    *,
    progress: Progress | None = None,
) -> Patches:
    """Make patches of images that somebody has labelled, to train on them.

    Parameters
    ----------
    images : path, array, or sequence of them
        See :data:`histocli.api.inputs.Images`. Arrays need ``PackConfig(mpp=...)``.
    labels : path, array or sequence of arrays
        A path as on the command line, matched with the images by name; or one array of whole
        numbers, shape (H, W), for each image, in their order: 0 background, k nucleus k, -1
        ignored.
    out, config, execution, progress
        As in :func:`generate`.

    Raises
    ------
    InputNotFound, InvalidInput, StoreExists
        As in :func:`generate`, or images and labels differ in number or shape.
    """
    from histocli.stages.pack import pack as run

    config, execution = config or PackConfig(), execution or Execution()

    def make(target: Path) -> StageResult:
        with scratch() as folder:
            words = image_words(images, folder, name="image", mpp=config.mpp)
            if isinstance(labels, (str, os.PathLike)):
                truth = os.fspath(labels)
            else:
                arrays = [np.asarray(each) for each in labels]
                if arrays and arrays[0].ndim == 1:  # the rows of one label image
                    arrays = [np.stack(arrays)]
                if len(arrays) != len(words):
                    raise InvalidInput(
                        f"pack: {len(words)} images but {len(arrays)} label arrays; give one for "
                        "each image, in the same order"
                    )
                names = [Path(word).stem for word in words]
                truth = label_word(dict(zip(names, arrays, strict=True)), folder / "labels")
            track = track_of(progress)
            return run(words, truth, target, config, execution, track=track)

    return _made("pack", out, execution, make)


def _made(
    name: str, out: PathLike | None, execution: Execution, make: Callable[[Path], StageResult]
) -> Patches:
    """Make a store at ``out``, or in a folder that lives as long as the returned object."""
    no_dry_run(execution, name)
    with target_of(out, f"{name}.zarr") as (target, keep_for):
        result = make(target)
        patches = Patches(target)
        keep_for(patches)
    patches.result = result
    return patches
