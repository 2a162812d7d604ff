"""Commands on files: whole slides, the chain from references to slides, and the examination."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.api.inputs import PathLike, model_named
from histocli.api.progress import Progress, track_of
from histocli.config.common import Execution
from histocli.config.run import RunConfig
from histocli.config.segment import SegmentConfig

if TYPE_CHECKING:
    from histocli.stages.doctor import DoctorResult
    from histocli.stages.run.report import RunResult
    from histocli.stages.segment.results import SegmentResult


def segment(
    slides: PathLike | Sequence[PathLike],
    out: PathLike,
    model: PathLike = "box",
    config: SegmentConfig | None = None,
    execution: Execution | None = None,
    *,
    progress: Progress | None = None,
    report: Callable[[SegmentResult], None] | None = None,
) -> list[SegmentResult]:
    """Label every nucleus of slides, and write the results into a folder, in bounded memory.

    Parameters
    ----------
    slides : path or sequence of paths
        Words as on the command line: files, folders, globs, ``@list.txt``, manifests; or a patch
        store.
    out : str or path
        Folder for the results, one set a slide, named after it.
    model : str or path, optional
        As in :class:`histocli.Segmenter`.
    config, execution : optional
        As on the command line. With ``Execution(on_error="continue")`` a slide that fails has
        the status ``failed`` and ends nothing.
    progress : callable, optional
        See :data:`histocli.api.progress.Progress`.
    report : callable, optional
        Called with each result as soon as it is known, in the order of the slides; in any thread.

    Returns
    -------
    list of SegmentResult
        One for each slide, in order: ``outputs`` by format, ``nuclei``, ``mm2``, ``status``.

    Raises
    ------
    InputNotFound, InvalidInput, StoreExists
        A slide is missing or cannot be read, or an output of other settings is in the way.
    OutOfResources
        No memory, disk or device.
    """
    from histocli.stages.segment.run import segment as run

    return run(
        _words(slides),
        model_named(model),
        Path(out),
        config or SegmentConfig(),
        execution or Execution(),
        track=track_of(progress),
        report=report or (lambda result: None),
    )


def run(
    references: PathLike | Sequence[PathLike],
    slides: PathLike | Sequence[PathLike],
    out: PathLike,
    config: RunConfig | None = None,
    execution: Execution | None = None,
    *,
    truth: PathLike | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Go from unlabelled references to labelled slides: generate, train, segment, evaluate.

    Parameters
    ----------
    references, slides : path or sequence of paths
        Words as on the command line.
    out : str or path
        Folder for all outputs. What is finished there is kept; ``Execution(resume=True)`` goes on
        with what is not.
    config, execution : optional
        As on the command line.
    truth : str or path, optional
        Labels of the slides, to score the nuclei against.
    progress : callable, optional
        See :data:`histocli.api.progress.Progress`.

    Returns
    -------
    RunResult
        Results of all stages and slides, and ``links`` to the outputs; ``output`` is the report.

    Raises
    ------
    HistosynthError
        As the single functions raise it.
    """
    from histocli.stages.run.run import run as chain

    return chain(
        _words(references),
        _words(slides),
        Path(out),
        config or RunConfig(),
        execution or Execution(),
        truth=None if truth is None else os.fspath(truth),
        track=track_of(progress),
    )


def doctor(out: PathLike = ".") -> DoctorResult:
    """Examine the installation, the machine, and the folder where outputs are to go.

    Parameters
    ----------
    out : str or path
        Folder whose free space and speed of writing are measured, with a file that is removed.

    Returns
    -------
    DoctorResult
        ``findings``, each with what was found and what to do about it; ``usable`` is False where
        something is broken.
    """
    from histocli.stages.doctor import doctor as examine

    return examine(Path(out))


def _words(paths: PathLike | Sequence[PathLike]) -> list[str]:
    if isinstance(paths, (str, os.PathLike)):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]
