"""A Dask scheduler and two workers, each a process of its own; one is killed in the middle: the
bytes are those of one process."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from histocli.base.errors import OutOfResources
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.stages.segment.run import segment
from histocli.stores.labels import open_labels
from histocli.stores.models import read_model, write_model
from tests.stages.segment.given import MPP, write_tiff
from tests.stages.segment.in_blocks import blobs, files_of

pytest.importorskip("distributed", reason="the extra 'dist' is not installed")
ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path):
    """The scheduler's address and the processes of two workers."""
    file = tmp_path / "scheduler.json"
    scheduler = start(
        "scheduler",
        "--scheduler-file",
        str(file),
        "--port",
        "0",
        "--no-dashboard",
        "--host",
        "127.0.0.1",
    )
    processes = [scheduler]
    try:
        wait_for(file.exists)
        workers = [
            start(
                "worker",
                "--scheduler-file",
                str(file),
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
            )
            for _ in range(2)
        ]
        processes += workers
        import json

        yield json.loads(file.read_text())["address"], workers
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.filterwarnings("ignore")
def test_two_workers_one_of_which_is_killed_give_the_bytes_of_one_process(
    tmp_path, model, cluster, monkeypatch
):
    address, workers = cluster
    # a slide of many blocks, all the same: fine pixels make a small file large
    image = np.tile(blobs((450, 460), 1), (4, 4, 1))
    image[image < 128] += np.random.default_rng(0).integers(
        0, 40, (image < 128).sum(), dtype=np.uint8
    )
    slide = write_tiff(tmp_path / "s.tif", image, MPP)
    # fainter than what the model learnt from, so that workers must agree on how far it is raised
    header, tensors = read_model(model)
    model = tmp_path / "model.safetensors"
    write_model(model, tensors, dataclasses.replace(header, normalisation={"contrast_floor": 1.2}))
    config = SegmentConfig(tile_px=512, max_memory=1.2)
    running = Execution(device="cpu", precision="fp32", workers=1)
    (alone,) = segment([str(slide)], model, tmp_path / "alone", config, running)
    killed = []

    def kill_one_in_the_middle() -> None:
        work = tmp_path / "out" / ".s.ome.zarr.partial" / "work"
        wait_for(lambda: any(work.rglob("*.npz")), 60)
        workers[0].send_signal(signal.SIGKILL)
        killed.append(sum(1 for _ in work.rglob("*.npz")))

    killer = threading.Thread(target=kill_one_in_the_middle, daemon=True)
    killer.start()
    shared = SegmentConfig(tile_px=512, max_memory=1.2, scheduler=address)
    (result,) = segment([str(slide)], model, tmp_path / "out", shared, running)
    killer.join(60)
    assert result.status == "done"
    assert killed
    assert killed[0] >= 1
    assert result.nuclei == alone.nuclei == open_labels(result.output).n_nuclei > 1000
    once, twice = (files_of(tmp_path / name / "s.ome.zarr") for name in ("alone", "out"))
    once.pop("zarr.json"), twice.pop("zarr.json")  # they tell when each was made
    assert once == twice
    assert 0.1 < open_labels(result.output).facts["contrast"]["spread"] < 1.2


def test_a_scheduler_that_does_not_answer(tmp_path, model, monkeypatch):
    from histocli.stages.segment import cluster as module

    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    slide = write_tiff(tmp_path / "s.tif", blobs((100, 100)))
    config = SegmentConfig(scheduler="tcp://127.0.0.1:1")
    with pytest.raises(OutOfResources, match="does not answer"):
        segment([str(slide)], model, tmp_path / "out", config, Execution(device="cpu"))


def test_a_worker_loads_a_model_anew_for_other_settings(model, monkeypatch):
    from histocli.stages.segment import cluster as module

    loaded = []
    monkeypatch.setattr(module, "load_model", lambda *given: loaded.append(given[2].views))
    at_hand, task = module._AtHand(), SimpleNamespace(model=str(model), execution=Execution())
    for views in (1, 2, 1):
        task.config = SegmentConfig(views=views)
        at_hand.model(task)
    assert loaded == [1, 2]
