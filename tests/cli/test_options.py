"""Options reach the stages, agree with the configs, and mean the same everywhere."""

import dataclasses
import inspect
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from histocli.base.errors import InvalidOption
from histocli.cli import options as o
from histocli.cli.app import COMMANDS, app, run
from histocli.cli.settings import NOT_SETTINGS, options_of
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateConfig
from histocli.config.export import ExportConfig
from histocli.config.generate import GenerateConfig
from histocli.config.info import InfoConfig
from histocli.config.pack import PackConfig
from histocli.config.segment import SegmentConfig
from histocli.config.train import TrainConfig


def words(line: str) -> list[str]:
    """Split a command line that holds no quotes."""
    return line.split()


CONFIGS = {
    "generate": GenerateConfig,
    "train": TrainConfig,
    "segment": SegmentConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "pack": PackConfig,
    "info": InfoConfig,
}
# field: option
SPELLED_OTHERWISE = {
    "time_budget_s": "time_budget",
    "minimum": "min",
    "maximum": "max",
    "formats": "format",
}
NO_FIELD = {
    "out",
    "model",
    "refs",
    "stop_after",
    "truth",
    "ignore",
    "html",
    "images",
    "realism",
    "show",
    "preview",
}  # decide where, with what and how far, not what is made
EXECUTION = {field.name for field in dataclasses.fields(Execution)}


@pytest.mark.parametrize("verb", CONFIGS)
def test_options_are_the_fields_of_the_config(verb):
    options = set(options_of(get_command(app).commands[verb])) - NO_FIELD
    fields = {
        SPELLED_OTHERWISE.get(field.name, field.name) for field in dataclasses.fields(CONFIGS[verb])
    }
    assert options - EXECUTION == fields
    assert options & EXECUTION


@pytest.mark.parametrize("verb", CONFIGS)
def test_defaults_are_the_defaults_of_the_config(stages, verb):
    positionals = {"evaluate": ["a", "b"], "pack": ["a", "b"], "info": ["a"]}.get(verb, ["a"])
    if "out" in options_of(get_command(app).commands[verb]):
        positionals += ["-o", "out"]
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
    for command in get_command(app).commands.values():
        for parameter in command.params:
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
    line = "generate r1 r2 -o a.zarr --n 9 --patch-px 64 --mpp 0.5 --reference-mpp 0.25 --seed 4 --device cpu --workers 3 --resume"
    assert run(words(line)) == 0
    (call,) = stages.calls
    references, out, config, execution = call.arguments
    assert list(references) == ["r1", "r2"]
    assert out == Path("a.zarr")
    assert config == GenerateConfig(n=9, patch_px=64, mpp=0.5, reference_mpp=0.25, seed=4)
    assert execution == Execution(device="cpu", workers=3, resume=True)
    assert set(call.keywords) == {"track"}


def test_train_passes_everything_on(stages):
    line = "train a.zarr b.zarr:2 - -o m.safetensors --size M --steps 7 --batch 2 --crop-px 64 --learning-rate 0.01 --validation 0 "
    line += "--time-budget 10m --stop-after 5 --seed 1 --precision fp32 --overwrite --dry-run --contrast-quantile 0.5"
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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1h0m30s", 3630),
        ("600", 600),
        ("0.5m", 30),
    ],
)
def test_durations(text, seconds):
    assert o.parse_duration(text, "--time-budget") == seconds


@given(st.text(max_size=8))
def test_any_other_text_is_refused_politely(text):
    with suppress(InvalidOption):
        assert o.parse_duration(text, "--time-budget") > 0


def test_workers():
    assert o.parse_workers("auto") == 0
    assert o.parse_workers("12") == 12
    for text in ("", "-1", "two", "1.5", "9" * 50):
        with pytest.raises(InvalidOption, match="--workers"):
            o.parse_workers(text)


def test_gates():
    assert o.parse_gates(["pq=0.55", "dice=0.7,f1=.5"], "--min") == (
        ("pq", 0.55),
        ("dice", 0.7),
        ("f1", 0.5),
    )
    assert o.parse_gates([], "--min") == ()


def test_talking_options_are_no_settings():
    assert {"json", "verbose", "quiet", "config", "print_config", "help"} == NOT_SETTINGS
