"""``histosynth refine``: initial patch store -> refined patch store."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.base.distributed import leads
from histocli.base.errors import InvalidOption
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.refine import RefineConfig

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs")


def refine(
    context: typer.Context,
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="Initial patch store, or - for its path on stdin."),
    ],
    out: Annotated[Path, o.option("-o", "--out", help="Patch store to create (.zarr).")],
    refs: Annotated[
        list[str] | None,
        o.option(
            "--refs",
            metavar="REFS",
            help="Reference images, folders or slides; repeatable. Without it, those that the store records.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, o.option("--steps", help="Optimisation steps.")] = RefineConfig.steps,
    batch: Annotated[
        int, o.option("--batch", help="Crops of each kind in a step.")
    ] = RefineConfig.batch,
    identity: Annotated[
        float, o.option("--identity", help="Price of changing the tone of nuclei; texture is free.")
    ] = RefineConfig.identity,
    style: Annotated[
        float, o.option("--style", help="Weight of looking like the reference.")
    ] = RefineConfig.style,
    edits: Annotated[
        str,
        o.option(
            "--edits",
            metavar="nuclei|patch",
            help="Change nuclei and a narrow ring, or the whole patch.",
        ),
    ] = RefineConfig.edits,
    objective: Annotated[
        str,
        o.option(
            "--objective",
            metavar="fooling|matching",
            help="Fool the critic, or match what it sees in the reference.",
        ),
    ] = RefineConfig.objective,
    proof: Annotated[
        float,
        o.option(
            "--proof",
            help="Held-out AUC that the critic must reach before the refiner moves; 0 asks for none.",
        ),
    ] = RefineConfig.proof,
    restyle: Annotated[
        bool,
        o.option(
            "--restyle",
            help="Give each patch the stains and style of another reference than its own.",
        ),
    ] = RefineConfig.restyle,
    weights: Annotated[
        bool,
        o.option(
            "--weights/--no-weights", help="Weigh patches by how likely they are among real ones."
        ),
    ] = RefineConfig.weights,
    model: Annotated[
        str | None,
        o.option(
            "--model",
            metavar="STORE",
            help="Apply the refiner of this refined store; train nothing.",
            show_default=False,
        ),
    ] = RefineConfig.model,
    reference_mpp: Annotated[
        float | None,
        o.option(
            "--reference-mpp",
            help="Micrometres per pixel of the references; overrides what they record.",
            show_default=False,
        ),
    ] = RefineConfig.reference_mpp,
    time_budget: Annotated[
        str | None,
        o.option(
            "--time-budget",
            metavar="10m",
            help="Plan the steps so that the command ends within this time.",
            show_default=False,
        ),
    ] = None,
    stop_after: Annotated[
        int | None,
        o.option(
            "--stop-after",
            metavar="STEPS",
            help="Save a checkpoint after this many steps and exit 75.",
            show_default=False,
        ),
    ] = None,
    seed: o.Seed = RefineConfig.seed,
    device: o.Device = o.DEFAULTS.device,
    precision: o.Precision = o.DEFAULTS.precision,
    workers: o.Workers = "auto",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    on_error: o.OnError = o.DEFAULTS.on_error,
    dry_run: o.DryRun = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
    as_json: o.AsJson = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Make synthetic patches look like their references, by a GAN; labels stay as they are."""
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet or not leads())
    settings = RefineConfig(
        steps=steps,
        batch=batch,
        identity=identity,
        style=style,
        edits=edits,
        objective=objective,
        proof=proof,
        restyle=restyle,
        weights=weights,
        model=model,
        reference_mpp=reference_mpp,
        time_budget_s=o.parse_duration(time_budget, "--time-budget"),
        seed=seed,
    )
    if stop_after is not None and stop_after < 1:
        raise InvalidOption(f"--stop-after must be at least 1 step, got {stop_after}")
    running = o.execution(
        device=device,
        precision=precision,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        on_error=on_error,
        dry_run=dry_run,
    )
    if print_config:
        print_settings(context)
        return
    o.refuse_by_suffix(
        [store],
        "refine takes a patch store",
        {
            (".safetensors",): "a trained refiner lies in a refined store and is given by --model",
            IMAGES: "references are given by --refs; make a store with 'histosynth generate IMAGES -o STORE' first",
        },
    )
    from histocli.stages.refine import refine as run  # late: keeps --help free of torch

    result = run(
        store, refs or [], out, settings, running, stop_after=stop_after, track=screen.track
    )
    if leads():
        screen.result(result)
    screen.raise_if_any_failed()
