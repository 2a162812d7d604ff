"""The examples run as they stand, on two small pieces of the tissue image that scikit-image
bundles."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

TINY = {
    "HISTOSYNTH_N": "8",
    "HISTOSYNTH_PATCH_PX": "64",
    "HISTOSYNTH_STEPS": "2",
    "HISTOSYNTH_BATCH": "2",
    "HISTOSYNTH_CROP_PX": "32",
    "HISTOSYNTH_DEVICE": "cpu",
    "HISTOSYNTH_WORKERS": "1",
    "HISTOSYNTH_MPP": "0.25",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_pipeline_makes_labels_of_a_folder_of_images(tmp_path):
    from skimage.data import immunohistochemistry

    tissue = immunohistochemistry()
    (tmp_path / "images").mkdir()
    for index in range(2):
        piece = np.ascontiguousarray(tissue[200 * index : 200 * index + 160, :160])
        imagecodecs.imwrite(str(tmp_path / "images" / f"piece {index}.png"), piece)
    environment = {
        **os.environ,
        **TINY,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["bash", str(EXAMPLES / "pipeline.sh"), "images", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["status"] for result in results] == ["done", "done"]
    assert all((tmp_path / result["output"]).is_dir() for result in results)
    assert (tmp_path / "out" / "nuclei" / "piece 1.overlay.png").is_file()
    assert (tmp_path / "out" / "nuclei.jsonl").read_text() == done.stdout
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "piece 0.png",
        "piece 1.png",
    ]


def test_pipeline_without_its_arguments_says_how():
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    done = subprocess.run(
        ["bash", str(EXAMPLES / "pipeline.sh")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "IMAGES OUT" in done.stderr
