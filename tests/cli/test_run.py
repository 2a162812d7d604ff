"""``histosynth run``: what is typed reaches the chain, and what it made is told."""

import orjson
import pytest

from histocli.cli.app import run
from histocli.config.common import Execution
from histocli.config.run import RunConfig
from tests.cli.conftest import FakeResult


def test_what_is_typed_reaches_the_chain(stages):
    assert run(["run", "a", "b", "--segment", "s", "--segment", "t", "-o", "out"]) == 0
    (call,) = stages.calls
    assert call.arguments[:2] == (["a", "b"], ["s", "t"])
    assert str(call.arguments[2]) == "out"
    assert call.arguments[3:] == (RunConfig(), Execution())
    assert call.keywords["truth"] is None

    line = (
        "run a --segment s -o out --n 9 --patch-px 64 --mpp 0.5 --reference-mpp 0.4 "
        "--slide-mpp 0.3 --refine --size M --steps 7 --no-self-training --format tiff,csv "
        "--truth t --not-shippable --time-budget 1h --seed 3 --device cpu --resume"
    )
    assert run(line.split()) == 0
    assert stages.calls[1].arguments[3] == RunConfig(
        n=9,
        patch_px=64,
        mpp=0.5,
        reference_mpp=0.4,
        slide_mpp=0.3,
        refine=True,
        size="M",
        steps=7,
        self_training=False,
        formats=("tiff", "csv"),
        shippable=False,
        time_budget_s=3600.0,
        seed=3,
    )
    assert stages.calls[1].arguments[4] == Execution(device="cpu", resume=True)
    assert stages.calls[1].keywords["truth"] == "t"


def test_the_report_is_the_result(stages, capsys):
    stages.answer = FakeResult(output="out/report.json")
    assert run(["run", "a", "--segment", "s", "-o", "out"]) == 0
    assert capsys.readouterr().out == "out/report.json\n"
    assert run(["run", "a", "--segment", "s", "-o", "out", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["output"] == "out/report.json"


def test_each_stage_is_told_in_one_line(stages, capsys):
    done = {"status": "done", "seconds": 61.0}

    def answer(tell, **_):
        tell("generate", done | {"patches": 2000, "output": "out/patches.zarr"})
        tell("train", done | {"steps": 1234, "status": "skipped", "output": "out/m.safetensors"})
        tell("segment", done | {"slides": 1, "nuclei": 23170, "output": "out/nuclei"})
        tell("evaluate", done | {"mean": {"aji": 0.5, "pq": 0.25, "dice": 1}, "output": "s.json"})
        return FakeResult()

    stages.answer = answer
    assert run(["run", "a", "--segment", "s", "-o", "out"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "generate: 2,000 patches in 61 s -> out/patches.zarr",
        "train: 1,234 steps complete before -> out/m.safetensors",
        "segment: 1 slide, 23,170 nuclei in 61 s -> out/nuclei",
        "evaluate: aji 0.500, pq 0.250, dice 1.000 in 61 s -> s.json",
    ]


def test_failed_inputs_end_in_exit_code_5(stages):
    stages.answer = FakeResult(more={"failed": ["bad.svs"]})
    assert run(["run", "a", "--segment", "s", "-o", "out", "--on-error", "continue"]) == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run a -o out", "--segment SLIDES is missing"),
        ("run m.safetensors --segment s -o out", "run takes images"),
        ("run a --segment s -o out --n 0", "--n must be at least 1"),
        ("run --segment s -o out", "REFS"),
        ("run a --segment s", "--out"),
    ],
)
def test_what_makes_no_sense_is_refused(stages, capsys, line, said):
    assert run(line.split()) == 2
    assert said in capsys.readouterr().err
    assert stages.calls == []


def test_settings_of_a_run_can_be_printed_and_read_again(stages, tmp_path, capsys):
    assert run(["run", "--print-config", "--n", "77", "--segment", "s"]) == 0
    file = tmp_path / "run.yaml"
    file.write_text(capsys.readouterr().out)
    assert run(["run", "a", "-o", "out", "--config", str(file)]) == 0
    assert stages.calls[0].arguments[3] == RunConfig(n=77)
    assert stages.calls[0].arguments[1] == ["s"]
