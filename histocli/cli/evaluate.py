"""``histosynth evaluate``: predicted and true labels -> scores; synthetic and real patches ->
realism.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histocli.base.errors import GateNotMet, InvalidOption
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.common import Execution
from histocli.config.evaluate import BORDERS, RESAMPLED, EvaluateConfig
from histocli.metrics.table import ERRORS, NAMES, QUALITIES, shown_in

if TYPE_CHECKING:
    from histocli.stages.scores import ComparisonResult, EvaluateResult

MOST_POSITIONALS = 2  # of the form without --truth


def evaluate(
    context: typer.Context,
    labels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PREDICTION [TRUTH]",
            help="Labels: stores, OME-Zarr, label images, GeoJSON, ImageScope XML, mask folders, or folders of them; or a CSV "
            "with columns prediction, truth (and group, mpp, image, ignore). With --truth, one or more predictions.",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        str | None,
        o.option(
            "--truth",
            metavar="TRUTH",
            help="Truth of several predictions that are compared.",
            show_default=False,
        ),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        o.option(
            "--min",
            metavar="METRIC=VALUE",
            help=f"Exit 7 when a mean is lower: {', '.join(QUALITIES)}. Repeatable.",
            show_default=False,
        ),
    ] = None,
    maximum: Annotated[
        list[str] | None,
        o.option(
            "--max",
            metavar="METRIC=VALUE",
            help=f"Exit 7 when a mean is higher: {', '.join(ERRORS)}. Repeatable.",
            show_default=False,
        ),
    ] = None,
    mpp: o.Mpp = EvaluateConfig.mpp,
    radius_um: Annotated[
        float, o.option("--radius-um", help="A centroid this near to a true one detects it, in um.")
    ] = EvaluateConfig.radius_um,
    tolerance_um: Annotated[
        float,
        o.option(
            "--tolerance-um", help="A boundary pixel this near to a true one is right, in um."
        ),
    ] = EvaluateConfig.tolerance_um,
    boundaries: Annotated[
        bool,
        o.option(
            "--boundaries/--no-boundaries",
            help="Compare boundaries: boundary F1 and Hausdorff distance.",
        ),
    ] = EvaluateConfig.boundaries,
    border: Annotated[
        str,
        o.option(
            "--border", metavar="|".join(BORDERS), help="What true nuclei at an image's border do."
        ),
    ] = EvaluateConfig.border,
    ignore: Annotated[
        str | None,
        o.option(
            "--ignore",
            metavar="MASKS",
            help="Masks by name; what is not 0 does not count.",
            show_default=False,
        ),
    ] = None,
    bootstrap: Annotated[
        int,
        o.option("--bootstrap", help="Resamplings of the images for the 95 % interval; 0: none."),
    ] = EvaluateConfig.bootstrap,
    resample: Annotated[
        str, o.option("--resample", metavar="|".join(RESAMPLED), help="What is drawn anew for it.")
    ] = EvaluateConfig.resample,
    html: Annotated[
        Path | None,
        o.option(
            "--html", metavar="FILE.html", help="Report to write, one file.", show_default=False
        ),
    ] = None,
    images: Annotated[
        str | None,
        o.option(
            "--images",
            metavar="IMAGES",
            help="Pictures by name, for the report.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        list[str] | None,
        o.option(
            "--show",
            metavar="PATH",
            help="Patch store or model for the report. Repeatable.",
            show_default=False,
        ),
    ] = None,
    realism: Annotated[
        str | None,
        o.option(
            "--realism",
            metavar="STORE",
            help="Judge this patch store against --refs.",
            show_default=False,
        ),
    ] = None,
    refs: Annotated[
        list[str] | None,
        o.option(
            "--refs", help="Reference images, with --realism. Repeatable.", show_default=False
        ),
    ] = None,
    realism_patches: Annotated[
        int, o.option("--realism-patches", help="Patches of each kind that are judged.")
    ] = EvaluateConfig.realism_patches,
    seed: o.Seed = EvaluateConfig.seed,
    device: o.Device = o.DEFAULTS.device,
    workers: o.Workers = "auto",
    overwrite: Annotated[
        bool, o.option("--overwrite", help="Replace an existing report.", panel=o.RUNNING)
    ] = False,
    on_error: o.OnError = o.DEFAULTS.on_error,
    dry_run: o.DryRun = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
    as_json: o.AsJson = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Score predicted nuclei against true ones, compare models, judge how real patches look.

    The table goes to stderr, --json and the path of a report to stdout.
    """
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet)
    settings = EvaluateConfig(
        minimum=o.parse_gates(minimum or (), "--min"),
        maximum=o.parse_gates(maximum or (), "--max"),
        mpp=mpp,
        radius_um=radius_um,
        tolerance_um=tolerance_um,
        boundaries=boundaries,
        border=border,
        bootstrap=bootstrap,
        resample=resample,
        realism_patches=realism_patches,
        seed=seed,
    )
    running = o.execution(
        workers=workers, on_error=on_error, dry_run=dry_run, device=device, overwrite=overwrite
    )
    if print_config:
        print_settings(context)
        return
    words = list(labels or ())
    o.refuse_by_suffix(
        [word for word in (*words, truth) if word],
        "evaluate compares labels",
        {
            (
                ".safetensors",
            ): "make labels with 'histosynth segment SLIDES --model MODEL -o OUT' first"
        },
    )
    if realism is not None:
        if html is not None or images is not None or show:
            raise InvalidOption(
                "--html, --images and --show are for scores of labels; --realism prints a table, or --json"
            )
        _judge(screen, words, realism, refs or [], settings, running)
        return
    if refs:
        raise InvalidOption(
            "--refs belongs to --realism STORE; to score labels name PREDICTION and TRUTH"
        )
    if (images is not None or show) and html is None:
        raise InvalidOption(
            f"{'--images' if images else '--show'} is for a report; name its file with --html"
        )
    _score(screen, *_split(words, truth), ignore, html, images, show or (), settings, running)


def _score(
    screen: Screen,
    predictions: list[str],
    truth: str | None,
    ignore: str | None,
    html: Path | None,
    images: str | None,
    show: Sequence[str],
    settings: EvaluateConfig,
    running: Execution,
) -> None:
    """Score one prediction, or several and their differences; report them; then fail gates."""
    if html is not None:
        from histocli.stages.report import check_report

        check_report(html, running, images=images, show=show)
    if len(predictions) == 1:
        # late: keeps --help free of numpy and zarr
        from histocli.stages.evaluate import evaluate as run

        more = {"ignore": ignore} if ignore is not None else {}
        result = run(predictions[0], truth, settings, running, track=screen.track, **more)
        results: tuple[EvaluateResult, ...] = (result,)
        _show(screen, result, title="")
    else:
        from histocli.stages.evaluate import compare_models

        assert truth is not None
        models = compare_models(
            predictions, truth, settings, running, ignore=ignore, track=screen.track
        )
        results = models.results
        for result in results:
            _show(screen, result, title=f"{result.prediction}: ")
        _show_differences(screen, models)
        if screen.as_json:
            screen.print_json(models.to_json())
    if html is not None and not running.dry_run:
        from histocli.stages.report import write_report

        differences = models.differences if len(predictions) > 1 else ()
        write_report(
            html,
            results,
            differences,
            settings,
            running,
            images=images,
            show=show,
            track=screen.track,
        )
        screen.print_path(str(html))
    missed = [
        f"mean {name} is {got:.4f}, {'below --min' if name in QUALITIES else 'above --max'} {name}={want:g}"
        + (f" ({result.prediction})" if len(results) > 1 else "")
        for result in results
        for name, got, want in result.missed_gates
    ]
    if missed:
        raise GateNotMet("; ".join(missed))
    for result in results:
        result.raise_if_any_failed()


def _split(words: list[str], truth: str | None) -> tuple[list[str], str | None]:
    """Return the predictions and the truth of either form."""
    if truth is not None:
        if not words:
            raise InvalidOption("--truth needs at least one PREDICTION before it")
        return words, truth
    if not words:
        raise InvalidOption(
            "PREDICTION is missing; name PREDICTION TRUTH, PREDICTIONS --truth TRUTH, or --realism STORE --refs REFS"
        )
    if len(words) > MOST_POSITIONALS:
        raise InvalidOption(
            f"{len(words)} positionals, but PREDICTION TRUTH are two; to compare several models use --truth TRUTH"
        )
    return words[:1], words[1] if len(words) == MOST_POSITIONALS else None


def _show(screen: Screen, result: "EvaluateResult", *, title: str) -> None:
    """Print the table of one prediction, what failed and what had no partner."""
    if result.summary is None:
        screen.say(f"{title}would compare {len(result.names)} images")
    else:
        counts = result.pooled
        title += f"{len(result.images)} images, {counts.n_truth} true and {counts.n_prediction} predicted nuclei"
        screen.table(title, ("metric", "mean", "95 % interval", "pooled"), rows_of(result))
        if result.groups:
            rows = [
                (name or "-", n, *(_number(summary.mean[metric]) for metric in GROUP_METRICS))
                for name, n, summary in result.groups
            ]
            screen.table(
                "by group: mean over its images", ("group", "images", *GROUP_METRICS), rows
            )
    if screen.as_json:
        screen.print_json(result.to_json())
    for name, error in result.failures:
        screen.complain(f"{name}: {error}")


GROUP_METRICS = shown_in("console")
"""That the tables of groups and of differences show; the JSON has all."""


def _show_differences(screen: Screen, models: "ComparisonResult") -> None:
    for first, second, metrics in models.differences:
        rows = []
        for name in shown_in("console", "console differences"):
            each = metrics[name]
            interval = f"{each.ci95[0]:+.4f} to {each.ci95[1]:+.4f}" if each.ci95 else "-"
            rows.append(
                (
                    name,
                    _number(each.mean, "+"),
                    interval,
                    f"{each.p_value:.4f}",
                    each.better,
                    each.worse,
                )
            )
        n = metrics["pq"].images
        header = ("metric", "difference", "95 % interval", "p", "better", "worse")
        screen.table(f"{second} minus {first}, paired over {n} images", header, rows)


def _judge(
    screen: Screen,
    words: list[str],
    store: str,
    refs: list[str],
    settings: EvaluateConfig,
    running: Execution,
) -> None:
    """Judge a patch store against its references."""
    if words:
        raise InvalidOption(
            f"--realism judges a patch store against --refs and compares no labels; leave out {words[0]}"
        )
    if settings.minimum or settings.maximum:
        raise InvalidOption("--min and --max are gates of label metrics; --realism has none")
    from histocli.stages.realism import judge_realism

    result = judge_realism(store, refs, settings, running, track=screen.track)
    if result.judgement is not None:
        rows = [
            (
                each.name,
                f"{each.value:.4g}",
                f"{each.ci95[0]:.4g} to {each.ci95[1]:.4g}" if each.ci95 else "-",
                each.meaning,
            )
            for each in result.judgement.measures
        ]
        screen.table(
            result.title, ("measure", "value", "95 % interval", "meaning"), rows, numbers_from=4
        )
    else:
        screen.say(result.title)
    if screen.as_json:
        screen.print_json(result.to_json())


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4f}"


def rows_of(result: "EvaluateResult") -> list[tuple[str, str, str, str]]:
    """Return metric, mean, interval and pooled score as text, a row per metric; none for a dry
    run.
    """
    if result.summary is None:
        return []
    rows = []
    for name in NAMES:
        interval = result.summary.ci95[name]
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
        rows.append(
            (name, _number(result.summary.mean[name]), shown, _number(result.summary.pooled[name]))
        )
    return rows
