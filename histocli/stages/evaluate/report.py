"""The page that ``evaluate --html`` writes: scores, charts, images and provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from histocli import __version__
from histocli.base.progress import Track, silent
from histocli.config.common import Execution
from histocli.figures.report import render_report
from histocli.figures.sections import Details, Gallery, Section
from histocli.stages.evaluate.attachments import check_shown, shown
from histocli.stages.evaluate.drawn import find_pictures
from histocli.stages.evaluate.pictures import galleries
from histocli.stages.evaluate.scores import ComparisonResult, EvaluateResult, ModelDifference
from histocli.stages.evaluate.tables import (
    distributions,
    fates,
    headline,
    image_table,
    score_tables,
    scores_in,
    short_names_of,
)
from histocli.stages.shared.pages import check_page, write_page
from histocli.stores.provenance import peek


def check_report(
    target: Path, execution: Execution, *, images: str | None = None, show: Sequence[str] = ()
) -> None:
    """Check, before the evaluation, that the report can be written after it.

    Raises what :func:`histocli.stages.shared.pages.check_page` does; ``InputNotFound`` or
    ``InvalidInput`` where pictures, stores or models to show are missing or of another kind.
    """
    check_page(target, replace=execution.overwrite)
    if images is not None:
        find_pictures(images, ())
    check_shown(show)


def write_report(
    target: Path,
    results: Sequence[EvaluateResult],
    differences: Sequence[ModelDifference],
    execution: Execution,
    *,
    images: str | None = None,
    show: Sequence[str] = (),
    track: Track = silent,
) -> None:
    """Write the report of one prediction, or of several predictions of the same images.

    Parameters
    ----------
    target : Path
        HTML file to write; :func:`check_report` is called on it first.
    results : sequence of EvaluateResult
        One for each prediction, with scores.
    differences : sequence of ModelDifference
        One for every two predictions.
    images : str, optional
        Folder, glob or list of pictures with the names of the images.
    show : sequence of str
        Patch stores, whose patches are shown, and models, whose training curves are shown.

    Raises
    ------
    InputNotFound, InvalidInput
        A picture, store or model cannot be read.
    OutOfResources
        The disk is full, or the folder cannot be written to.
    """
    check_report(target, execution)
    first, names = results[0], short_names_of(results)
    shown_names = (image.name for image in first.images)
    pictures = {} if images is None else find_pictures(images, shown_names)
    sections = [
        *_sections(results, differences, list(galleries(results, pictures, track))),
        *shown(show),
        _provenance(results),
    ]
    found = (
        f"Prediction: {first.input}." if len(names) == 1 else f"Predictions: {', '.join(names)}."
    )
    lead = (
        f"{len(first.images):,} images, {scores_in(first).pooled.n_truth:,} true nuclei. "
        f"Truth: {first.truth or first.input}. {found}"
    )
    models = ComparisonResult(status="done", results=tuple(results), differences=tuple(differences))
    verdict = models.verdict
    page = render_report(
        "Nucleus segmentation, scored", lead, sections, verdict=verdict.text if verdict else ""
    )
    write_page(target, page)


def _sections(
    results: Sequence[EvaluateResult],
    differences: Sequence[ModelDifference],
    drawn: Sequence[Gallery],
) -> Iterator[Section]:
    """Yield all about the scores, what a person looks for first at the top."""
    yield headline(results, differences)
    yield fates(results)
    yield drawn[0]
    yield from score_tables(results, differences)
    yield from drawn[1:]
    for name, result in zip(short_names_of(results), results, strict=True):
        suffix = f" · {name}" if len(results) > 1 else ""
        yield distributions(result, suffix)
        yield image_table(scores_in(result), suffix)


def _provenance(results: Sequence[EvaluateResult]) -> Details:
    """Return the version, settings, pixel sizes and files behind the scores."""
    first = results[0]
    facts = {
        "package": f"histosynth {__version__}",
        "truth": first.truth,
        "predictions": [result.input for result in results],
        "settings": first.settings,
    }
    sizes = sorted({(image.pixel_size.mpp, image.pixel_size.source) for image in first.images})
    texts = {
        "Settings and rules": json.dumps(facts, indent=2, ensure_ascii=False),
        "Pixel sizes": "\n".join(f"{mpp:g} um/px ({source})" for mpp, source in sizes),
    }
    for result in results:
        one = result.images[0].pair.prediction.source
        for word, of_which in (
            (result.input, ""),
            (result.truth, ""),
            (one, ", the first of them"),
        ):
            known = peek(Path(word)) if word and Path(word).is_dir() else None
            if known is not None:
                texts[f"Provenance of {word}{of_which}"] = json.dumps(
                    known.to_json(), indent=2, ensure_ascii=False
                )
        texts[f"Pairs of {result.input}"] = "\n".join(
            f"{image.pair.prediction.source}  |  {image.pair.truth.labels.source}"
            for image in result.images
        )
    return Details(title="Where this comes from", texts=list(texts.items()))
