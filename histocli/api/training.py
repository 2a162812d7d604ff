"""Train a segmenter on patches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from histocli.api.inputs import Images, PathLike, no_dry_run, reference_words, scratch, target_of
from histocli.api.progress import Progress, track_of
from histocli.api.segmenter import Segmenter
from histocli.config.common import Execution
from histocli.config.train import TrainConfig


def train(
    patches: PathLike | Sequence[PathLike | tuple[PathLike, float]],
    out: PathLike | None = None,
    config: TrainConfig | None = None,
    execution: Execution | None = None,
    *,
    references: Images = (),
    preview: PathLike | None = None,
    progress: Progress | None = None,
) -> Segmenter:
    """Train a nucleus segmenter on synthetic, refined or labelled patches.

    Parameters
    ----------
    patches : Patches or path, or a sequence of them
        Patch stores; ``(patches, 2.0)`` is drawn from twice as often as others. Labelled arrays
        become patches by :func:`histocli.pack`.
    out : str or path, optional
        Model file to make (``.safetensors``). Without it, the file lives as long as the result.
    config, execution : optional
        As on the command line: a finished model with these settings is kept, an unfinished one
        needs ``resume``, and another one ``overwrite``.
    references : path, array, or sequence of them, optional
        Unlabelled images for self-training. Arrays need ``TrainConfig(reference_mpp=...)``.
    preview : str or path, optional
        PNG to make, of the references that teacher and student disagree on most.
    progress : callable, optional
        See :data:`histocli.api.progress.Progress`.

    Returns
    -------
    Segmenter
        On the device of ``execution``; its ``result`` tells steps, loss and held-out scores.

    Raises
    ------
    InvalidStore, InvalidInput, InputNotFound
        Patches or references cannot be read, or do not fit together.
    StoreExists
        An unfinished output, or one of other settings, exists at ``out``.
    """
    from histocli.stages.train.run import train as run

    config, execution = config or TrainConfig(), execution or Execution()
    no_dry_run(execution, "train")
    given = [patches] if isinstance(patches, (str, os.PathLike)) else patches
    with target_of(out, "model.safetensors") as (target, keep_for), scratch() as folder:
        result = run(
            [_word(each) for each in given],
            target,
            config,
            execution,
            refs=reference_words(references, folder, config.reference_mpp),
            preview=None if preview is None else Path(preview),
            track=track_of(progress),
        )
        segmenter = Segmenter(target, execution=execution)
        keep_for(segmenter)
    segmenter.result = result
    return segmenter


def _word(store: PathLike | tuple[PathLike, float]) -> str:
    """Return the word of the command line for a patch store and its share, if one is given."""
    if isinstance(store, tuple):
        return f"{os.fspath(store[0])}:{store[1]:g}"
    return os.fspath(store)
