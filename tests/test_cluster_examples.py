"""The examples for clusters are checked as far as that goes without a cluster: Slurm's script runs,
the others name real options."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "cluster"


def options_of_segment() -> set[str]:
    from typer.main import get_command

    from histocli.cli.app import app

    return {
        flag for parameter in get_command(app).commands["segment"].params for flag in parameter.opts
    }


@pytest.mark.parametrize("name", ["slurm.sh", "Snakefile", "main.nf"])
def test_every_option_exists(name):
    text = (EXAMPLES / name).read_text()
    call = text[text.index("histosynth segment") :].split("\n\n")[0]
    used = set(re.findall(r"(?<![\w-])(--[a-z-]+|-o)\b", call))
    assert used >= {"--model", "-o"}
    assert used <= options_of_segment()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(("code", "stopped"), [(0, False), (5, False), (75, True)])
def test_the_slurm_script_passes_signals_on_and_queues_what_was_stopped_again(
    tmp_path, code, stopped
):
    assert subprocess.run(["bash", "-n", EXAMPLES / "slurm.sh"], check=False).returncode == 0
    fake = tmp_path / "histosynth"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\n"
        "open('arguments', 'w').write(' '.join(sys.argv[1:]))\n"
        f"{'time.sleep(30)' if stopped else ''}\n"
        f"sys.exit({code})\n"
    )
    requeue = tmp_path / "scontrol"
    requeue.write_text("#!/bin/sh\necho $@ > requeued\n")
    fake.chmod(0o755)
    requeue.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
    }
    script = subprocess.Popen(
        ["bash", EXAMPLES / "slurm.sh", "slides", "m", "out"], cwd=tmp_path, env=environment
    )
    if stopped:
        end = time.monotonic() + 20
        while not (tmp_path / "arguments").exists() and time.monotonic() < end:
            time.sleep(0.05)
        script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=30) == code
    assert (tmp_path / "requeued").exists() == stopped
    assert (tmp_path / "arguments").read_text().startswith("segment slides --model m -o out")


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
def test_snakemake_understands_the_rule(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").touch()
    (tmp_path / "nuclei.safetensors").touch()
    run = subprocess.run(
        ["snakemake", "-n", "-s", EXAMPLES / "Snakefile", "--cores", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
