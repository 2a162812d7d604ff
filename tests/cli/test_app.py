"""Words in, exit codes out."""

import errno
import logging
import os
import signal
import subprocess
import sys
import warnings

import orjson
import pytest

from histocli import __version__
from histocli.base import errors
from histocli.base.interrupts import raise_if_stopped
from histocli.cli.app import COMMANDS, EXIT_CODES, run
from histocli.cli.start import main
from tests.cli.conftest import FakeResult

GENERATE = ["generate", "refs", "-o", "a.zarr"]


def test_help_imports_nothing_heavy():
    """Neither ``--help`` nor a command's help pays for torch, NumPy or zarr."""
    code = (
        "import sys; from histocli.cli.app import run; assert run(sys.argv[1:]) == 0; "
        "heavy = {'torch', 'numpy', 'zarr', 'scipy', 'skimage', 'cv2'} & "
        "set(sys.modules); assert not heavy, heavy"
    )
    for arguments in (["--help"], ["train", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def test_without_arguments_shows_the_pipeline_in_six_lines(capsys):
    assert run([]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80
    verbs = ["segment", "generate", "refine", "train", "segment", "evaluate"]
    assert [line.split()[:2] for line in lines] == [["histosynth", verb] for verb in verbs]
    assert not shown.err


def test_help_names_all_commands_and_exit_codes(capsys):
    assert run(["-h"]) == 0
    shown = capsys.readouterr().out
    assert all(function.__name__ in shown for function in COMMANDS)
    assert "Exit codes" in shown


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"histosynth {__version__}\n"


def test_every_exit_code_is_documented():
    def all_of(kind):
        return {kind.exit_code}.union(*(all_of(child) for child in kind.__subclasses__()))

    for code in {0} | all_of(errors.HistosynthError):
        assert f" {code} " in f" {EXIT_CODES.replace('Exit codes:', '')} ".replace(
            ",", " "
        ).replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generat"], "generat"),
        (["generate", "refs"], "'--out'"),
        (["generate", "-o", "a.zarr"], "REFS"),
        (["generate", "refs", "-o", "a.zarr", "--colour", "red"], "--colour"),
        (["generate", "refs", "-o", "a.zarr", "--n", "many"], "'--n'"),
        (["generate", "refs", "-o", "a.zarr", "--n", "0"], "--n must be at least 1"),
        (["generate", "refs", "-o", "a.zarr", "--workers", "all"], "--workers must be auto"),
        (["generate", "refs", "-o", "a.zarr", "--resume", "--overwrite"], "give one of them"),
        (["generate", "refs", "-o", "a.zarr", "-q", "-v"], "give one of them"),
        (["generate", "m.safetensors", "-o", "a.zarr"], "--model"),
        (["train", "refs/a.png", "-o", "m.safetensors"], "generate"),
        (["train", "m.safetensors", "-o", "n.safetensors"], "-o/--out"),
        (["train", "a.zarr", "-o", "m.safetensors", "--time-budget", "soon"], "--time-budget"),
        (["train", "a.zarr", "-o", "m.safetensors", "--stop-after", "0"], "--stop-after"),
        (["segment", "m.safetensors", "slide.svs", "-o", "out"], "--model"),
        (["segment", "slide.svs", "-o", "out", "--format", "jpeg"], "--format"),
        (["segment", "slide.svs", "-o", "out", "--format", ","], "--format"),
        (["evaluate", "a", "b", "--min", "pq"], "--min"),
        (["evaluate", "a", "b", "--min", "pq=nan"], "--min"),
        (["evaluate", "a", "b", "--min", "beauty=1"], "--min"),
        (["evaluate", "m.safetensors", "b"], "segment"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(stages, capsys, arguments, said):
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out
    assert not stages.calls


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidOption,
        errors.InputNotFound,
        errors.InvalidStore,
        errors.UnsupportedSlide,
        errors.UnknownPixelSize,
        errors.StoreExists,
        errors.SomeFailed,
        errors.OutOfResources,
        errors.DeviceUnavailable,
        errors.GateNotMet,
        errors.Stopped,
    ],
)
def test_errors_of_ours_are_one_line_with_their_code(stages, capsys, kind):
    stages.answer = kind("refs: [bold]no[/bold]\nimages")
    assert run(GENERATE) == kind.exit_code
    shown = capsys.readouterr().err
    # no markup, and a newline in a file name is no new line
    assert "refs: [bold]no[/bold]\\nimages" in shown
    assert shown.count("\n") == 1


def test_a_bug_keeps_its_traceback(stages, capsys):
    stages.answer = ZeroDivisionError("oh")
    assert run(GENERATE) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "please report" in shown


class OutOfMemoryError(RuntimeError):
    """What torch calls its own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.ENOSPC, "No space left on device", "a.zarr"),
        PermissionError(errno.EACCES, "Permission denied", "a.zarr"),
        OSError("61440 requested and 1984 written"),
        RuntimeError(
            "CUDA error: unspecified launch failure\nCUDA kernel errors might be "
            "asynchronously reported"
        ),
    ],
)
def test_missing_memory_or_disk_is_exit_6(stages, capsys, error):
    stages.answer = error
    assert run(GENERATE) == 6
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert shown.count("\n") == 1


def test_a_full_disk_behind_another_error_is_exit_6(stages, capsys):
    stages.answer = RuntimeError("a codec failed")
    stages.answer.__cause__ = OSError(errno.ENOSPC, "No space left on device", "a.zarr")
    assert run(GENERATE) == 6
    assert "a.zarr: No space left" in capsys.readouterr().err


def test_done_prints_the_path_and_nothing_else(stages, capsys):
    assert run(GENERATE) == 0
    shown = capsys.readouterr()
    assert shown.out == "out.zarr\n"
    assert not shown.err


def test_skipped_prints_the_path_too_so_that_pipes_go_on(stages, capsys):
    stages.answer = FakeResult(status="skipped")
    assert run(GENERATE) == 0
    shown = capsys.readouterr()
    assert shown.out == "out.zarr\n"
    assert "nothing to do" in shown.err


def test_planned_made_nothing_so_stdout_is_empty(stages, capsys):
    stages.answer = FakeResult(status="planned")
    assert run([*GENERATE, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert not shown.out
    assert "would write out.zarr" in shown.err


def test_json_is_one_object_a_line(stages, capsys):
    stages.answer = FakeResult(more={"seconds": float("nan")})
    assert run([*GENERATE, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert orjson.loads(line) == {
        "schema": "histosynth.fake/1",
        "output": "out.zarr",
        "status": "done",
        "error": None,
        "seconds": None,
    }


def test_names_that_are_no_unicode_reach_stdout_as_they_are(stages, capfdbinary):
    name = os.fsdecode(b"caf\xe9.zarr")
    stages.answer = FakeResult(output=name)
    assert run(GENERATE) == 0
    assert capfdbinary.readouterr().out == b"caf\xe9.zarr\n"
    assert run([*GENERATE, "--json"]) == 0
    assert orjson.loads(capfdbinary.readouterr().out)["output"] == "caf\ufffd.zarr"


def test_some_failed_is_exit_5_and_the_rest_is_reported(stages, capsys):
    good, bad = (
        FakeResult(output="a.ome.zarr"),
        FakeResult(status="failed", output=None, error="b.tif: truncated"),
    )
    stages.answer = [good, bad, good]
    assert (
        run(
            ["segment", "slides", "-o", "out", "--model", "m.safetensors", "--on-error", "continue"]
        )
        == 5
    )
    shown = capsys.readouterr()
    assert shown.out == "a.ome.zarr\n" * 2
    assert "b.tif: truncated" in shown.err
    assert "1 of 3 failed" in shown.err


def test_results_made_before_an_error_are_reported(stages, capsys):
    def some_then_error(**_):
        yield FakeResult(output="a.ome.zarr")
        raise errors.UnsupportedSlide("b.tif: truncated")

    stages.answer = some_then_error
    assert run(["segment", "slides", "-o", "out", "--model", "m.safetensors"]) == 3
    assert capsys.readouterr().out == "a.ome.zarr\n"


def test_inputs_left_out_of_a_result_are_exit_5_too(stages, capsys):
    stages.answer = FakeResult(more={"failed": ["refs/b.tif"]})
    assert run([*GENERATE, "--on-error", "continue"]) == 5
    shown = capsys.readouterr()
    assert shown.out == "out.zarr\n"
    assert "refs/b.tif" in shown.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_safe_point_with_75(stages, capsys, number):
    def interrupted(**_):
        signal.raise_signal(number)
        raise_if_stopped("a.zarr: 3 of 9 batches are kept; go on with --resume")

    stages.answer = interrupted
    assert run(GENERATE) == 75
    assert "--resume" in capsys.readouterr().err


def test_a_second_signal_stops_at_once_with_75(stages, capsys):
    def interrupted_twice(**_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    stages.answer = interrupted_twice
    assert run(GENERATE) == 75
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert shown.count("\n") == 1


def test_signal_handlers_and_loggers_are_given_back(stages):
    before = (
        signal.getsignal(signal.SIGINT),
        list(logging.getLogger().handlers),
        warnings.showwarning,
    )
    run(GENERATE)
    assert before == (
        signal.getsignal(signal.SIGINT),
        list(logging.getLogger().handlers),
        warnings.showwarning,
    )


def test_a_reader_that_left_does_not_stop_the_work():
    """``histosynth segment ... | head -1``: the results are on disk, so the rest of them is still
    made, quietly."""
    code = (
        "import sys, types; from tests.cli.conftest import FakeResult; module = "
        "types.ModuleType('s');"
        "module.segment = lambda *a, report, **k: [report(FakeResult(output='x' * "
        "100)) for _ in range(5000)];"
        "sys.modules['histocli.stages.segment.run'] = module;"
        "from histocli.cli.app import run; sys.exit(run(['segment', 's', '-o', 'o', "
        "'--model', 'm']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_info_describes_on_stderr_and_prints_the_sheet(stages, capsys):
    stages.answer = FakeResult(output="a.zarr", sheet="sheet.png")
    assert run(["info", "a.zarr", "--sheet", "sheet.png"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "sheet.png\n"
    assert "12" in shown.err
    assert "34" not in shown.err
    assert run(["info", "a.zarr", "--all"]) == 0
    assert "34" in capsys.readouterr().err
    stages.answer = FakeResult(output="a.zarr")
    assert run(["info", "a.zarr", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_processor_unless_the_user_wants_otherwise(
    monkeypatch, capsys, before, after
):
    monkeypatch.setattr(sys, "argv", ["histosynth", "--version"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("OMP_WAIT_POLICY", None)
    if before is not None:
        os.environ["OMP_WAIT_POLICY"] = before
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert os.environ["OMP_WAIT_POLICY"] == after


@pytest.mark.parametrize("given", ["", "glibc.malloc.check=1"])
def test_segment_begins_again_with_another_setting_of_an_old_c_library(monkeypatch, given):
    begun = []
    monkeypatch.setattr("histocli.cli.start.c_library", lambda: "glibc 2.36")
    monkeypatch.setattr(os, "execve", lambda *call: begun.append(call))
    monkeypatch.setattr(sys, "argv", ["histosynth", "segment", "--help"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "/bin/histosynth", "segment", "--help"])
    monkeypatch.setenv("GLIBC_TUNABLES", given)
    with pytest.raises(SystemExit):
        main()
    if given:
        assert not begun
    else:
        ((program, words, environment),) = begun
        assert words == [program, "/bin/histosynth", "segment", "--help"]
        assert "tcache_count=0" in environment["GLIBC_TUNABLES"]


def test_beginning_again_keeps_input_output_and_exit_code():
    call = [sys.executable, "-m", "histocli", "segment", "-", "-o", "no-such-folder", "--dry-run"]
    done = subprocess.run(
        call, check=False, input="no such slide.svs\n", capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "no such slide.svs" in done.stderr
