"""Refinement by two processes: one store, the same weights in both, results as with one."""

import json

import numpy as np
import pytest
from PIL import Image

from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.stages.generate.run import generate
from histocli.stores.logs import log_path
from histocli.stores.patches import PatchStore
from tests.tissue import make_tissue
from tests.together import together

MPP = 0.5
REFINE = [
    "--steps",
    "12",
    "--batch",
    "2",
    "--proof",
    "0",
    "--no-weights",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--workers",
    "1",
    "-q",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    (folder / "references").mkdir()
    for seed in range(4):
        Image.fromarray(make_tissue(seed=seed).image).save(folder / "references" / f"{seed}.png")
    config = GenerateConfig(n=8, patch_px=64, mpp=MPP, reference_mpp=MPP)
    generate(
        [str(folder / "references")],
        folder / "synth.zarr",
        config,
        Execution(device="cpu", workers=1),
    )
    return folder


def refine(folder, name, processes):
    words = ["refine", str(folder / "synth.zarr"), "-o", str(folder / name), *REFINE]
    codes, said = together(words, folder, processes)
    assert codes == [0] * processes
    return said, PatchStore.open(folder / name)


def judged(folder, name):
    lines = [
        json.loads(line)
        for line in (log_path(folder / name) / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["processes_agree"] for line in lines if "processes_agree" in line] == [True]
    return [line["held_out"] for line in lines if "held_out" in line][-1], [
        line for line in lines if "skill" in line
    ]


def test_two_processes_train_one_refiner(folder):
    said, two = refine(folder, "two.zarr", 2)
    assert said == [f"{folder / 'two.zarr'}\n", ""]  # one of them speaks
    _, one = refine(folder, "one.zarr", 1)
    assert np.array_equal(one.read(range(8))[1], two.read(range(8))[1])
    assert two.provenance.complete
    assert set(two.networks()) == set(one.networks())
    # twice the crops in a step: other weights, the same statistics within what twelve steps tell
    first, second = judged(folder, "one.zarr")[0], judged(folder, "two.zarr")[0]
    assert abs(first["auc_initial"] - second["auc_initial"]) < 0.35
    change = [
        np.abs(
            store.read(range(8))[0].astype(int)
            - PatchStore.open(folder / "synth.zarr").read(range(8))[0]
        ).mean()
        for store in (one, two)
    ]
    assert abs(change[0] - change[1]) < 3
