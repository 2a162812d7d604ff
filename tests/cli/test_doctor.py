"""``histosynth doctor`` prints what it finds, and ends with 0 where everything is usable."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from histocli.cli.app import run
from histocli.stages import doctor as stage
from histocli.stages.doctor import DoctorResult, Finding


@pytest.fixture
def findings(monkeypatch):
    """What is found; the real examination is tested elsewhere."""
    found = [
        Finding("Installation", "numpy", "2.0"),
        Finding("Devices", "GPU", "none", "note", "nothing"),
    ]
    monkeypatch.setattr(
        stage,
        "doctor",
        lambda out, track: DoctorResult(output=str(out), status="done", findings=tuple(found)),
    )
    return found


def test_a_usable_machine_is_exit_code_0(findings, capsys):
    assert run(["doctor"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    for word in ("Installation", "numpy", "2.0", "note: GPU: nothing", "can be used"):
        assert word in shown.err


def test_what_is_broken_is_exit_code_6(findings, capsys):
    findings.append(Finding("Disk", "writing", "cannot be written to", "broken", "go elsewhere"))
    assert run(["doctor"]) == 6
    shown = capsys.readouterr().err
    assert "broken: writing: go elsewhere" in shown
    assert "error: broken: writing" in shown


def test_json_tells_all(findings, capsys):
    assert run(["doctor", "--json", "-q", "-o", "out"]) == 0
    result = orjson.loads(capsys.readouterr().out)
    assert result["schema"] == "histosynth.doctor/1"
    assert result["usable"] is True
    assert result["output"] == "out"
    assert result["findings"][1] == {
        "group": "Devices",
        "name": "GPU",
        "found": "none",
        "verdict": "note",
        "advice": "nothing",
    }


def test_many_packages_that_are_well_share_a_row(findings, capsys):
    findings[:0] = [Finding("Installation", f"package{i}", "1.0") for i in range(12)]
    findings.insert(3, Finding("Installation", "odd", "0.1", "warning", "update it"))
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("package" in line for line in lines) < 8
    assert any("odd" in line and "warning" in line for line in lines)


def test_a_torch_that_cannot_be_loaded_is_named(tmp_path):
    """The examination itself needs no library that it examines."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so: cannot open')")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(tmp_path), str(root)])
    done = subprocess.run(
        [sys.executable, "-m", "histocli", "doctor", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
    )
    assert done.returncode == 6, done.stderr
    assert "libcudart.so" in done.stderr
    assert "Traceback" not in done.stderr
    assert "broken: torch: pip install" in done.stderr
