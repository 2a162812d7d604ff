"""Training by two processes, as ``torchrun`` starts them: one model, the same weights in both."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from histocli.cli.app import run
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.stages.generate.run import generate
from histocli.stores.checkpoints import checkpoint_path
from histocli.stores.logs import log_path
from histocli.stores.models import read_model
from tests.tissue import make_tissue
from tests.together import together

MPP = 0.5
TRAIN = "--batch 2 --crop-px 32 --device cpu --precision fp32 --workers 1 -q".split()
EVERYTHING = "--steps 12 --hard appearance --fresh --fresh-per-step 2 --reference-mpp 0.5".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    (folder / "references").mkdir()
    for seed in range(3):
        Image.fromarray(make_tissue(seed=seed).image).save(folder / "references" / f"{seed}.png")
    config = GenerateConfig(n=8, patch_px=64, mpp=MPP, reference_mpp=MPP)
    generate(
        [str(folder / "references")],
        folder / "synth.zarr",
        config,
        Execution(device="cpu", workers=1),
    )
    return folder


def words_of(folder, name, *more):
    return ["train", str(folder / "synth.zarr"), "-o", str(folder / name), *TRAIN, *more]


def train_by_torchrun(words):
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]),
    }
    done = subprocess.run(
        [*program, "--nproc-per-node", "2", "-m", "histocli", *words],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_train_one_segmenter(folder):
    """With self-training, hard examples and fresh patches at once."""
    more = [*EVERYTHING, "--refs", str(folder / "references"), "--rounds", "1"]
    done = train_by_torchrun(words_of(folder, "two.safetensors", *more))
    assert done.stdout.splitlines() == [str(folder / "two.safetensors")]  # one of them speaks
    header, two = read_model(folder / "two.safetensors")
    assert header.training["processes"] == 2
    assert header.training["steps"] == 12
    assert len(header.training["self_training"]) == 1
    assert header.training["fresh"]["patches"] > 0
    lines = [
        json.loads(line)
        for line in (log_path(folder / "two.safetensors") / "metrics.jsonl")
        .read_text()
        .splitlines()
    ]
    assert [line["processes_agree"] for line in lines if "processes_agree" in line] == [True]
    assert run(words_of(folder, "one.safetensors", "--steps", "12")) == 0
    one = read_model(folder / "one.safetensors")[1]
    assert one.keys() == two.keys()


def test_two_processes_that_are_stopped_go_on(folder):
    """The same weights as without the stop."""
    for name, code, *more in (
        ("whole.safetensors", 0),
        ("cut.safetensors", 75, "--stop-after", "3"),
        ("cut.safetensors", 0, "--resume"),
    ):
        codes, _ = together(words_of(folder, name, "--steps", "6", *more), folder)
        assert codes == [code, code]
        assert checkpoint_path(folder / name).exists() == (code == 75)
    whole, cut = (read_model(folder / name)[1] for name in ("whole.safetensors", "cut.safetensors"))
    learnt = [name for name in whole if "running" not in name and "num_batches" not in name]
    assert all((whole[name] == cut[name]).all() for name in learnt)
