"""``histosynth train``: patch stores -> model file."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.base.distributed import leads
from histocli.base.errors import InvalidOption
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.train import TrainConfig

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs")


def train(
    context: typer.Context,
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE",
            help="Patch stores, each with an optional weight (labelled.zarr:2), or - for paths on stdin.",
        ),
    ],
    out: Annotated[Path, o.option("-o", "--out", help="Model file to create (.safetensors).")],
    size: Annotated[
        str,
        o.option(
            "--size", metavar="S|M|L", help="Size of the network: S laptop, M workstation, L GPU."
        ),
    ] = TrainConfig.size,
    targets: Annotated[
        str,
        o.option(
            "--targets",
            metavar="distance|contact",
            help="What is predicted beside the nucleus mask: distance to the border, or also where nuclei meet.",
        ),
    ] = TrainConfig.targets,
    hard: Annotated[
        str,
        o.option(
            "--hard",
            metavar="none|appearance|refiner",
            help="Hard examples made while training: by moving appearance, or by the refiner of a refined store.",
        ),
    ] = TrainConfig.hard,
    fresh: Annotated[
        bool,
        o.option(
            "--fresh",
            help="Draw new patches while training goes on, in the place of those of the store.",
        ),
    ] = TrainConfig.fresh,
    fresh_per_step: Annotated[
        float, o.option("--fresh-per-step", help="New patches that each step brings, with --fresh.")
    ] = TrainConfig.fresh_per_step,
    compile: Annotated[
        bool,
        o.option(
            "--compile",
            help="Compile the network first: a minute or more, then faster steps; for long trainings.",
        ),
    ] = TrainConfig.compile,
    steps: Annotated[int, o.option("--steps", help="Optimisation steps.")] = TrainConfig.steps,
    batch: Annotated[int, o.option("--batch", help="Crops in a step.")] = TrainConfig.batch,
    crop_px: Annotated[
        int, o.option("--crop-px", help="Side of a training crop, in pixels.")
    ] = TrainConfig.crop_px,
    learning_rate: Annotated[
        float | None,
        o.option(
            "--learning-rate",
            help="Peak learning rate; 0.003, or 0.001 with --init, by default.",
            show_default=False,
        ),
    ] = TrainConfig.learning_rate,
    init: Annotated[
        str | None,
        o.option(
            "--init",
            metavar="MODEL",
            help="Start from the weights of this model (fine-tuning).",
            show_default=False,
        ),
    ] = TrainConfig.init,
    refs: Annotated[
        list[str] | None,
        o.option(
            "--refs",
            metavar="REFS",
            help="Unlabelled images, folders or slides for self-training; repeatable.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int, o.option("--rounds", help="Rounds of self-training, with --refs.")
    ] = TrainConfig.rounds,
    teacher: Annotated[
        str | None,
        o.option(
            "--teacher",
            metavar="LABELS",
            help="Labels of the references that teach the first round: label images, GeoJSON, stores; matched by name.",
            show_default=False,
        ),
    ] = TrainConfig.teacher,
    preview: Annotated[
        Path | None,
        o.option(
            "--preview",
            metavar="PNG",
            help="Picture of the references that teacher and student disagree on most, with --refs.",
            show_default=False,
        ),
    ] = None,
    reference_mpp: Annotated[
        float | None,
        o.option(
            "--reference-mpp",
            help="Micrometres per pixel of the references; overrides what they record.",
            show_default=False,
        ),
    ] = TrainConfig.reference_mpp,
    shippable: Annotated[
        bool,
        o.option(
            "--shippable/--not-shippable",
            help="Whether the licence of the references lets trained weights be given away.",
        ),
    ] = TrainConfig.shippable,
    validation: Annotated[
        float, o.option("--validation", help="Share of the patches held out to watch the training.")
    ] = TrainConfig.validation,
    contrast_quantile: Annotated[
        float,
        o.option(
            "--contrast-quantile",
            help="Share of the references that are flatter than what 'segment' raises flat images to; "
            "0.5 suits a model for other laboratories, 0 leaves images as they are.",
        ),
    ] = TrainConfig.contrast_quantile,
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
    seed: o.Seed = TrainConfig.seed,
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
    """Train a nucleus segmenter on synthetic, refined or labelled patches."""
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet or not leads())
    settings = TrainConfig(
        size=size,
        targets=targets,
        hard=hard,
        fresh=fresh,
        compile=compile,
        fresh_per_step=fresh_per_step,
        steps=steps,
        batch=batch,
        crop_px=crop_px,
        learning_rate=learning_rate,
        init=init,
        rounds=rounds,
        teacher=teacher,
        reference_mpp=reference_mpp,
        shippable=shippable,
        validation=validation,
        contrast_quantile=contrast_quantile,
        time_budget_s=o.parse_duration(time_budget, "--time-budget"),
        seed=seed,
    )
    if stop_after is not None and stop_after < 1:
        raise InvalidOption(f"--stop-after must be at least 1 step, got {stop_after}")
    if teacher is not None and not refs:
        raise InvalidOption("--teacher names labels of the references: name these with --refs")
    if preview is not None and (not refs or preview.suffix.lower() != ".png"):
        raise InvalidOption(
            "--preview names a .png file for the references on which teacher and student disagree; it needs --refs"
        )
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
        stores,
        "train takes patch stores",
        {
            (".safetensors",): "the model to write is named by -o/--out",
            IMAGES: "make a store with 'histosynth generate IMAGES -o STORE', or with 'pack' from images and labels",
        },
    )
    from histocli.stages.train.run import train as run  # late: keeps --help free of torch

    result = run(
        stores,
        out,
        settings,
        running,
        refs=refs or [],
        stop_after=stop_after,
        preview=preview,
        track=screen.track,
    )
    if leads():
        screen.result(result)
    screen.raise_if_any_failed()
