"""``histosynth evaluate``: predicted and true labels -> scores."""

from typing import TYPE_CHECKING, Annotated

import typer

from histocli.base.errors import GateNotMet
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.evaluate import METRICS, EvaluateConfig

if TYPE_CHECKING:
    from histocli.stages.evaluate import EvaluateResult


def evaluate(
    context: typer.Context,
    prediction: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTION", help="Label store, label image, folder of them, or a CSV with columns prediction, truth."
        ),
    ],
    truth: Annotated[
        str | None,
        typer.Argument(metavar="TRUTH", help="Labels with the same names, or a patch store; not with a CSV.", show_default=False),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        o.option(
            "--min",
            metavar="METRIC=VALUE",
            help=f"Exit 7 when a mean is lower: {', '.join(METRICS)}. Repeatable.",
            show_default=False,
        ),
    ] = None,
    bootstrap: Annotated[
        int, o.option("--bootstrap", help="Resamplings of the images for the 95 % interval; 0: none.")
    ] = EvaluateConfig.bootstrap,
    seed: o.Seed = EvaluateConfig.seed,
    workers: o.Workers = "auto",
    on_error: o.OnError = o.DEFAULTS.on_error,
    dry_run: o.DryRun = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
    as_json: o.AsJson = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Score predicted nuclei against true ones: Dice, AJI, AJI+, PQ, F1, with intervals.

    The table goes to stderr, --json to stdout.
    """
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet)
    settings = EvaluateConfig(minimum=o.parse_gates(minimum or (), "--min"), bootstrap=bootstrap, seed=seed)
    running = o.execution(workers=workers, on_error=on_error, dry_run=dry_run)
    if print_config:
        print_settings(context)
        return
    o.refuse_by_suffix(
        [word for word in (prediction, truth) if word],
        "evaluate compares labels",
        {(".safetensors",): "make labels with 'histosynth segment SLIDES --model MODEL -o OUT' first"},
    )
    from histocli.stages.evaluate import evaluate as run  # late: keeps --help free of numpy and zarr

    result = run(prediction, truth, settings, running, track=screen.track)
    if result.summary is None:
        screen.say(f"would compare {len(result.names)} images")
    else:
        title = f"{len(result.images)} images, {result.pooled.n_truth} true and {result.pooled.n_prediction} predicted nuclei"
        screen.table(title, ("metric", "mean", "95 % interval", "pooled"), rows_of(result))
    if as_json:
        screen.print_json(result.to_json())
    for name, error in result.failures:
        screen.complain(f"{name}: {error}")
    if result.missed_gates:
        raise GateNotMet(
            "; ".join(f"mean {name} is {got:.4f}, below --min {name}={want:g}" for name, got, want in result.missed_gates)
        )
    result.raise_if_any_failed()


def rows_of(result: "EvaluateResult") -> list[tuple[str, str, str, str]]:
    """Return metric, mean, interval and pooled score as text, a row per metric; none for a dry run."""
    if result.summary is None:
        return []
    rows = []
    for name in METRICS:
        interval = result.summary.ci95[name]
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
        rows.append((name, f"{result.summary.mean[name]:.4f}", shown, f"{result.summary.pooled[name]:.4f}"))
    return rows
