"""Options reach the stages, agree with the configs, and mean the same everywhere."""

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.main import get_command

from histocli.base.errors import InvalidOption
from histocli.cli.app import COMMANDS, app, run
from histocli.cli.console import Screen
from histocli.cli.options import command
from histocli.cli.settings import NOT_SETTINGS, options_of
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateConfig
from histocli.config.export import ExportConfig
from histocli.config.generate import GenerateConfig
from histocli.config.info import InfoConfig
from histocli.config.options import Option, option, parse_duration, parse_names
from histocli.config.pack import PackConfig
from histocli.config.refine import RefineConfig
from histocli.config.segment import SegmentConfig
from histocli.config.train import TrainConfig


def words(line: str) -> list[str]:
    """Split a command line that holds no quotes."""
    return line.split()


CONFIGS = {
    "generate": GenerateConfig,
    "refine": RefineConfig,
    "train": TrainConfig,
    "segment": SegmentConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "pack": PackConfig,
    "info": InfoConfig,
}


SUFFIXED = dict.fromkeys(("generate", "refine", "pack"), "out.zarr") | {"train": "m.safetensors"}


@dataclass(frozen=True)
class Tea:
    """A config as any other, to show that its fields become options."""

    cups: int = option(2, "Number of cups.")
    milk: bool = option(True, "Whether milk comes in.", flag="--milk/--black")
    brew_s: float = option(180.0, "How long it draws.", metavar="3m", parse=parse_duration)
    kinds: tuple[str, ...] = option(("assam",), "What is in it.", parse=parse_names)


@command(without=["precision"])
def drink(
    cup: Annotated[str, typer.Argument(help="Which one.")],
    settings: Tea,
    running: Execution,
    screen: Screen,
    saucer: Annotated[str | None, Option("Below it.", before="milk")] = None,
) -> None:
    """Drink tea."""
    screen.answer = (cup, saucer, settings, running)


def drunk(line: str) -> tuple[object, ...]:
    """Return what the command above got from a line of words."""
    screen = Screen()
    tea = typer.Typer()
    tea.command()(drink)
    get_command(tea).main(words(line), standalone_mode=False, obj=screen)
    return screen.answer


def test_a_field_is_an_option_and_written_once(monkeypatch):
    assert drunk("mine") == ("mine", None, Tea(), Execution())
    line = "mine --black --cups 5 --brew-s 2m --kinds a,b --saucer blue --device cpu"
    tea = Tea(cups=5, milk=False, brew_s=120, kinds=("a", "b"))
    assert drunk(line) == ("mine", "blue", tea, Execution(device="cpu"))
    monkeypatch.setenv("HISTOSYNTH_CUPS", "7")
    assert drunk("mine")[2] == Tea(cups=7)
    with pytest.raises(InvalidOption, match="--brew-s must be a duration"):
        drunk("mine --brew-s long")


def test_options_stand_in_the_order_of_the_fields():
    names = list(inspect.signature(drink).parameters)
    assert names[:4] == ["context", "cup", "config", "as_json"]  # in the panel of files
    assert names[4:8] == ["cups", "saucer", "milk", "brew_s"]
    assert "workers" in names
    assert "precision" not in names
    assert names[-3:] == ["print_config", "verbose", "quiet"]


@pytest.mark.parametrize("config", [*CONFIGS.values(), Execution])
def test_a_default_as_it_is_typed_is_the_default(config):
    for field in dataclasses.fields(config):
        about = field.metadata["option"]
        if about.parse is not None and field.default not in (None, ()):
            typed = about.written or ",".join(field.default)
            assert about.parse(typed, "--flag") == field.default


@pytest.mark.parametrize("verb", CONFIGS)
def test_defaults_are_the_defaults_of_the_config(stages, verb):
    positionals = {"evaluate": ["a", "b"], "pack": ["a", "b"], "info": ["a"]}.get(verb, ["a"])
    if "out" in options_of(get_command(app).commands[verb]):
        positionals += ["-o", SUFFIXED.get(verb, "out")]
    stages.answer = InvalidOption("enough")  # the result is not of interest
    run([verb, *positionals])
    (call,) = stages.calls
    config, execution = (
        next(a for a in call.arguments if isinstance(a, kind))
        for kind in (CONFIGS[verb], Execution)
    )
    assert config == CONFIGS[verb]()
    assert execution == Execution()


def test_one_spelling_has_one_meaning():
    """A flag that several commands have is declared alike, but for the texts that name its
    object."""
    seen = {}
    for parser in get_command(app).commands.values():
        for parameter in parser.params:
            if parameter.param_type_name == "option":
                flag = max(parameter.opts, key=len)
                declared = (
                    tuple(parameter.opts),
                    parameter.multiple,
                    getattr(parameter, "is_flag", None),
                )
                assert seen.setdefault(flag, declared) == declared


def test_every_command_is_documented():
    for function in COMMANDS:
        assert function.__doc__
        command = get_command(app).commands[function.__name__]
        for parameter in command.params:
            assert getattr(parameter, "help", None), (function.__name__, parameter.name)
        assert (
            "from __future__ import annotations" not in Path(inspect.getfile(function)).read_text()
        )


def test_generate_passes_everything_on(stages):
    line = (
        "generate r1 r2 -o a.zarr --n 9 --patch-px 64 --mpp 0.5 --reference-mpp 0.25 "
        "--seed 4 --device cpu --workers 3 --resume"
    )
    assert run(words(line)) == 0
    (call,) = stages.calls
    references, out, config, execution = call.arguments
    assert list(references) == ["r1", "r2"]
    assert out == Path("a.zarr")
    assert config == GenerateConfig(n=9, patch_px=64, mpp=0.5, reference_mpp=0.25, seed=4)
    assert execution == Execution(device="cpu", workers=3, resume=True)
    assert set(call.keywords) == {"track"}


def test_train_passes_everything_on(stages):
    line = (
        "train a.zarr b.zarr:2 - -o m.safetensors --size M --steps 7 --batch 2 --crop-px "
        "64 --learning-rate 0.01 --validation 0 "
    )
    line += (
        "--time-budget 10m --stop-after 5 --seed 1 --precision fp32 --overwrite --dry-run "
        "--contrast-quantile 0.5"
    )
    assert run(words(line)) == 0
    (call,) = stages.calls
    assert list(call.arguments[0]) == ["a.zarr", "b.zarr:2", "-"]
    assert call.arguments[1] == Path("m.safetensors")
    assert call.arguments[2] == TrainConfig(
        size="M",
        steps=7,
        batch=2,
        crop_px=64,
        learning_rate=0.01,
        validation=0,
        time_budget_s=600,
        seed=1,
        contrast_quantile=0.5,
    )
    assert call.arguments[3] == Execution(precision="fp32", overwrite=True, dry_run=True)
    assert call.keywords["stop_after"] == 5


def test_segment_passes_everything_on(stages):
    stages.answer = []
    assert (
        run(
            words(
                "segment s.svs -o out --model m --format tiff,overlay,tiff --mpp 0.3 --tile-px 256"
            )
        )
        == 0
    )
    slides, model, out, config, execution = stages.calls[0].arguments
    assert (list(slides), model, out) == (["s.svs"], Path("m"), Path("out"))
    assert config == SegmentConfig(formats=("tiff", "overlay"), mpp=0.3, tile_px=256)
    assert execution == Execution()


def test_pack_passes_everything_on(stages):
    assert (
        run(words("pack images labels -o a.zarr --patch-px 128 --mpp 0.5 --not-shippable --resume"))
        == 0
    )
    assert stages.calls[0].arguments == (
        "images",
        "labels",
        Path("a.zarr"),
        PackConfig(patch_px=128, mpp=0.5, shippable=False),
        Execution(resume=True),
    )


def test_info_passes_everything_on(stages):
    assert run(words("info a.zarr --sheet s.png --sheet-patches 4 --seed 2 --overwrite")) == 0
    assert stages.calls[0].arguments == (
        "a.zarr",
        InfoConfig(sheet="s.png", sheet_patches=4, seed=2),
        Execution(overwrite=True),
    )


def test_talking_options_are_no_settings():
    assert {"json", "verbose", "quiet", "config", "print_config", "help"} == NOT_SETTINGS
