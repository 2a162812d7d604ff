"""``histosynth generate``: reference images -> patch store."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.generate import GenerateConfig


def generate(
    context: typer.Context,
    references: Annotated[
        list[str], typer.Argument(metavar="REFS", help=f"Unlabelled H&E images. {o.INPUTS}")
    ],
    out: Annotated[Path, o.option("-o", "--out", help="Patch store to create (.zarr).")],
    n: Annotated[int, o.option("--n", help="Number of patches.")] = GenerateConfig.n,
    patch_px: Annotated[
        int, o.option("--patch-px", help="Side of a patch, in pixels.")
    ] = GenerateConfig.patch_px,
    mpp: Annotated[
        float, o.option("--mpp", help="Micrometres per pixel of the patches.")
    ] = GenerateConfig.mpp,
    reference_mpp: Annotated[
        float | None,
        o.option(
            "--reference-mpp",
            help="Micrometres per pixel of the references; overrides what they record.",
            show_default=False,
        ),
    ] = GenerateConfig.reference_mpp,
    priors: Annotated[
        str | None,
        o.option(
            "--priors",
            metavar="MODEL",
            help="Measure the nuclei that this model finds in the references, instead of the roughly found ones.",
            show_default=False,
        ),
    ] = GenerateConfig.priors,
    rounds: Annotated[
        int,
        o.option(
            "--rounds",
            help="Rounds of re-sampling parameters of the synthesis by a classifier of real patches.",
        ),
    ] = GenerateConfig.rounds,
    shippable: Annotated[
        bool,
        o.option(
            "--shippable/--not-shippable",
            help="Whether the licence of the references lets trained weights be given away.",
        ),
    ] = GenerateConfig.shippable,
    seed: o.Seed = GenerateConfig.seed,
    device: o.Device = o.DEFAULTS.device,
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
    """Draw synthetic H&E patches with nucleus labels, in the likeness of reference images."""
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet)
    settings = GenerateConfig(
        n=n,
        patch_px=patch_px,
        mpp=mpp,
        reference_mpp=reference_mpp,
        priors=priors,
        rounds=rounds,
        shippable=shippable,
        seed=seed,
    )
    running = o.execution(
        device=device,
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
        references,
        "generate takes images",
        {(".safetensors",): "a model is used by 'histosynth segment SLIDES --model MODEL'"},
    )
    from histocli.stages.generate.run import generate as run  # late: keeps --help free of torch

    screen.result(run(references, out, settings, running, track=screen.track))
    screen.raise_if_any_failed()
