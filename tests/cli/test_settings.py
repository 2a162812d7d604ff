"""Flag, environment, file, default: in this order."""

import pytest
import yaml

from histocli.base.errors import InvalidOption
from histocli.cli.app import run
from histocli.config.evaluate import EvaluateConfig
from histocli.config.generate import GenerateConfig

GENERATE = ["generate", "refs", "-o", "a.zarr"]


@pytest.fixture
def settings(tmp_path):
    """Write a file of settings and return the words that name it."""

    def write(text: str) -> list[str]:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


def config_of(stages):
    return next(
        a for a in stages.calls[-1].arguments if isinstance(a, (GenerateConfig, EvaluateConfig))
    )


def test_each_layer_covers_the_one_below(stages, settings, monkeypatch):
    """n comes from the flag, patch_px from the environment, seed from the file, mpp from the
    default."""
    monkeypatch.setenv("HISTOSYNTH_N", "20")
    monkeypatch.setenv("HISTOSYNTH_PATCH_PX", "64")
    words = settings("n: 30\npatch_px: 128\nseed: 5\n")
    assert run([*GENERATE, *words, "--n", "10"]) == 0
    assert config_of(stages) == GenerateConfig(n=10, patch_px=64, seed=5)


def test_a_section_wins_over_the_top_and_other_sections_do_not_matter(stages, settings):
    words = settings(
        "seed: 1\nn: 7\ngenerate: {patch-px: 64, n: 8}\ntrain: {seed: 9, time-budget: 10m}\n"
    )
    assert run([*GENERATE, *words]) == 0
    assert config_of(stages) == GenerateConfig(n=8, patch_px=64, seed=1)


def test_required_options_and_flags_may_come_from_the_file(stages, settings):
    assert (
        run(["generate", "refs", *settings("out: b.zarr\nresume: true\nworkers: 2\ndevice: cpu")])
        == 0
    )
    assert str(stages.calls[0].arguments[1]) == "b.zarr"
    assert stages.calls[0].arguments[3].resume
    assert stages.calls[0].arguments[3].workers == 2


@pytest.mark.parametrize(
    "gates", ["{pq: 0.55, dice: 0.7}", "[pq=0.55, dice=0.7]", "pq=0.55,dice=0.7"]
)
def test_gates_in_a_file(stages, settings, gates):
    stages.answer = InvalidOption("enough")
    run(["evaluate", "a", "b", *settings(f"evaluate:\n  min: {gates}\n")])
    assert config_of(stages) == EvaluateConfig(minimum=(("pq", 0.55), ("dice", 0.7)))


def test_lists_in_a_file(stages, settings):
    stages.answer = []
    assert (
        run(
            [
                "segment",
                "s",
                "-o",
                "out",
                *settings("format: [tiff, overlay]\nmodel: m.safetensors\n"),
            ]
        )
        == 0
    )
    assert stages.calls[0].arguments[3].formats == ("tiff", "overlay")


def test_the_file_may_be_named_by_the_environment(stages, settings, monkeypatch):
    monkeypatch.setenv("HISTOSYNTH_CONFIG", settings("n: 3")[1])
    assert run(GENERATE) == 0
    assert config_of(stages).n == 3


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        ("patchpx: 3", "patchpx", 2),
        ("patchpx: 3", "did you mean patch_px?", 2),
        ("generat: {n: 3}", "did you mean generate?", 2),
        ("generate: {patch_pix: 3}", "did you mean patch_px?", 2),
        ("zebra: 3", "known are", 2),
        ("generate: {size: S}", "generate has no option 'size'", 2),
        ("train: {patch_px: 3}", "train has no option 'patch_px'", 2),
        ("generate: 3", "generate must hold", 2),
        ("n: many", "--n", 2),
        ("n: 0", "--n must be at least 1", 2),
        ("json: true", "json", 2),
        ("[1, 2]", "option: value", 3),
        ("n: [1", "not valid YAML", 3),
    ],
)
def test_bad_files_are_one_line(stages, capsys, settings, text, said, code):
    assert run([*GENERATE, *settings(text)]) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not stages.calls


def test_a_missing_file_is_exit_3(stages, capsys):
    assert run([*GENERATE, "--config", "nowhere.yaml"]) == 3
    assert "nowhere.yaml" in capsys.readouterr().err


def test_an_empty_file_changes_nothing(stages, settings):
    assert run([*GENERATE, *settings("# nothing yet\n")]) == 0
    assert config_of(stages) == GenerateConfig()


def test_print_config_needs_no_inputs_and_starts_nothing(stages, capsys):
    assert run(["generate", "--print-config", "--n", "12"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["generate"]
    assert printed["n"] == 12
    assert printed["patch_px"] == GenerateConfig.patch_px
    assert not stages.calls
    assert run(["generate"]) == 2  # afterwards inputs are required again


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--n", "12", "--workers", "3", "-o", "a.zarr", "--reference-mpp", "0.3"],
        ["evaluate", "--min", "pq=0.5", "--min", "dice=0.1"],
        ["segment", "--format", "tiff,overlay", "-o", "out"],
        ["train", "--time-budget", "5m", "-o", "m.safetensors"],
        ["pack", "--not-shippable", "-o", "a.zarr"],
        ["info", "--sheet", "s.png"],
    ],
    ids=lambda words: words[0],
)
def test_printed_settings_are_settings(stages, capsys, settings, words):
    """What --print-config prints gives the same settings through --config."""
    assert run([*words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert run([words[0], *settings(printed), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_bad_settings_are_refused_before_they_are_printed(stages):
    assert run(["generate", "--print-config", "--n", "0"]) == 2
