"""``histosynth evaluate``: labels -> scores; a patch store and its references -> realism.

A gate is a bound of a mean score, given by ``--min`` or ``--max``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from histocli.base.errors import GateNotMet, InvalidOption
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.endings import counted
from histocli.cli.scores import show_comparison, show_realism, show_scores
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateConfig, EvaluateFiles
from histocli.metrics.table import QUALITIES

if TYPE_CHECKING:
    from histocli.stages.evaluate.scores import ComparisonResult, EvaluateResult, ModelDifference

MOST_POSITIONALS = 2  # PREDICTION TRUTH; with --truth there may be more


@o.command(
    example="histosynth evaluate out/ truth/",
    without=["precision", "resume"],
    overwrite_help="Replace an existing report.",
)
def evaluate(
    files: EvaluateFiles,
    settings: EvaluateConfig,
    running: Execution,
    screen: Screen,
    labels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PREDICTION [TRUTH]",
            help="Labels: stores, OME-Zarr, label images, GeoJSON, ImageScope XML, mask folders, "
            "or folders of them; or a CSV with columns prediction, truth (and group, mpp, image, "
            "ignore). With --truth, one or more predictions.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Score predicted nuclei against true ones, compare models, judge how real patches look.

    The table goes to stderr, --json and the path of a report to stdout. A report is written whole,
    so there is no --resume.
    """
    words = labels or []
    o.refuse_by_suffix(
        [word for word in (*words, files.truth) if word],
        "evaluate compares labels",
        {o.MODELS: "make labels with 'histosynth segment SLIDES --model MODEL -o OUT' first"},
    )
    if files.realism is not None:
        _judge(words, files.realism, files, settings, running, screen)
        return
    if files.refs:
        raise InvalidOption(
            "--refs belongs to --realism STORE; to score labels name PREDICTION and TRUTH"
        )
    if files.show and files.html is None:
        raise InvalidOption("--show is for a report; name its file with --html")
    if files.images is not None and files.html is None and files.overlays is None:
        raise InvalidOption(
            "--images is for a report or overlays; name its file with --html, or --overlays FOLDER"
        )
    _score(words, files, settings, running, screen)


def _score(
    words: list[str],
    files: EvaluateFiles,
    settings: EvaluateConfig,
    running: Execution,
    screen: Screen,
) -> None:
    """Score predictions and report them; then raise ``GateNotMet`` for missed gates."""
    predictions, truth = _split(words, files.truth)
    if files.html is not None:
        from histocli.stages.evaluate.report import check_report  # late: keeps --help free of numpy

        check_report(files.html, running, images=files.images, show=files.show or ())
    models: ComparisonResult | None = None
    if len(predictions) == 1:
        from histocli.stages.evaluate.run import evaluate as run

        more = {"ignore": files.ignore} if files.ignore is not None else {}
        result = run(predictions[0], truth, settings, running, track=screen.track, **more)
        results: tuple[EvaluateResult, ...] = (result,)
        show_scores(screen, result, every=files.all_metrics)
    else:
        from histocli.stages.evaluate.run import compare_models

        assert truth is not None
        ignore, track = files.ignore, screen.track
        models = compare_models(predictions, truth, settings, running, ignore=ignore, track=track)
        results = models.results
        show_comparison(screen, models, every=files.all_metrics)
    if not running.dry_run:
        _write_pictures(results, models.differences if models else (), files, running, screen)
        compared = f"{counted(len(results[0].images), 'image')} compared"
        several = f" with {len(results)} predictions" if len(results) > 1 else ""
        screen.sum_up(compared + several, str(files.html or files.overlays or ""))
    missed = [
        f"mean {gate.metric} is {gate.mean:.4f}, "
        f"{'below --min' if gate.metric in QUALITIES else 'above --max'} "
        f"{gate.metric}={gate.bound:g}" + (f" ({result.input})" if len(results) > 1 else "")
        for result in results
        if result.scores is not None
        for gate in result.scores.missed_gates
    ]
    if missed:
        raise GateNotMet("; ".join(missed))
    for result in results:
        result.raise_if_any_failed()


def _write_pictures(
    results: Sequence["EvaluateResult"],
    differences: Sequence["ModelDifference"],
    files: EvaluateFiles,
    running: Execution,
    screen: Screen,
) -> None:
    """Write the report and the overlays that are asked for, and print their paths."""
    if files.html is not None:
        from histocli.stages.evaluate.report import write_report

        write_report(
            files.html,
            results,
            differences,
            running,
            images=files.images,
            show=files.show or (),
            track=screen.track,
        )
        screen.print_path(str(files.html))
    if files.overlays is not None:
        from histocli.stages.evaluate.overlays import write_overlays

        for path in write_overlays(results, files, running, track=screen.track):
            screen.print_path(str(path))


def _split(words: list[str], truth: str | None) -> tuple[list[str], str | None]:
    """Return the predictions, and the truth or None, with or without ``--truth``."""
    if truth is not None:
        if not words:
            raise InvalidOption("--truth needs at least one PREDICTION before it")
        return words, truth
    if not words:
        raise InvalidOption(
            "PREDICTION is missing; name PREDICTION TRUTH, PREDICTIONS --truth TRUTH, "
            "or --realism STORE --refs REFS"
        )
    if len(words) > MOST_POSITIONALS:
        raise InvalidOption(
            f"{len(words)} positionals, but PREDICTION TRUTH are two; to compare "
            "several models use --truth TRUTH"
        )
    return words[:1], words[1] if len(words) == MOST_POSITIONALS else None


def _judge(
    words: list[str],
    store: str,
    files: EvaluateFiles,
    settings: EvaluateConfig,
    running: Execution,
    screen: Screen,
) -> None:
    """Compare a patch store with its references, and print how real its patches look."""
    if files.html or files.overlays or files.images or files.show:
        raise InvalidOption(
            "--html, --overlays, --images and --show are for scores of labels; "
            "--realism prints a table, or --json"
        )
    if words:
        raise InvalidOption(
            "--realism judges a patch store against --refs and compares no labels; "
            f"leave out {words[0]}"
        )
    if settings.minimum or settings.maximum:
        raise InvalidOption("--min and --max are gates of label metrics; --realism has none")
    from histocli.stages.evaluate.realism import judge_realism

    result = judge_realism(store, files.refs or [], settings, running, track=screen.track)
    show_realism(screen, result)
    if not running.dry_run:
        screen.sum_up(f"{store} judged against {counted(result.references, 'reference')}")
