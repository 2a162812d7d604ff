"""Every block of README and of the documents runs, in order, in one folder with small real tissue.

Blocks of shell are run by bash, blocks of Python by Python. A block that cannot run here, such as
one that needs a cluster, begins with ``sh no-run`` after its backticks; the text before it says
why.

The folder holds what the words of the documents name: ``references/`` (unlabelled images),
``slides/`` with their labels in ``truth/``, ``images/`` with ``labels/``, ``manifest.csv`` and
``regions.geojson`` for the slides, and ``pairs.csv``. The tissue is that of the image that
scikit-image bundles. ``docs/python.md`` has a test of its own. Commands are kept short by
``HISTOSYNTH_*`` variables.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/guide.md", "docs/metrics.md")
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORT = {
    "HISTOSYNTH_N": "8",
    "HISTOSYNTH_PATCH_PX": "64",
    "HISTOSYNTH_STEPS": "2",
    "HISTOSYNTH_BATCH": "2",
    "HISTOSYNTH_CROP_PX": "32",
    "HISTOSYNTH_REALISM_PATCHES": "16",
    "HISTOSYNTH_DEVICE": "cpu",
    "HISTOSYNTH_WORKERS": "1",
    "OMP_NUM_THREADS": "1",
}


def blocks(document):
    """Return language, words after it, and text of each block of a document."""
    return BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))


def programs_of(document):
    """Yield language and text of each program; neighbouring blocks of Python are one program."""
    wanted = [
        (language, text)
        for language, words, text in blocks(document)
        if language in ("sh", "python") and "no-run" not in words.split()
    ]
    for language, group in groupby(wanted, key=lambda block: block[0]):
        texts = [text for _, text in group]
        yield from (
            [("python", "".join(texts))]
            if language == "python"
            else ((language, text) for text in texts)
        )


@pytest.fixture
def folder(tmp_path):
    """The folder that the documents speak of."""
    from skimage.data import immunohistochemistry

    tissue = np.ascontiguousarray(immunohistochemistry())
    density = tissue.min(axis=2) < 110  # good enough as labels of a test
    for name in ("references", "slides", "truth", "images", "labels"):
        (tmp_path / name).mkdir()
    for index in range(2):
        place = (slice(200 * index, 200 * index + 160), slice(160))
        Image.fromarray(tissue[place]).save(tmp_path / "references" / f"{index}.png")
        Image.fromarray(tissue[place]).save(tmp_path / "images" / f"{index}.png")
        labels = labelled(density[place])
        tifffile.imwrite(tmp_path / "labels" / f"{index}.tif", labels)
    for index, name in enumerate(("slide", "other")):
        place = (slice(160 * index, 160 * index + 160), slice(200, 360))
        where = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(
            tmp_path / "slides" / f"{name}.tif", tissue[place], photometric="rgb", **where
        )
        tifffile.imwrite(tmp_path / "truth" / f"{name}.tif", labelled(density[place]))
    (tmp_path / "manifest.csv").write_text("path,mpp\nslides/slide.tif,0.25\n")
    (tmp_path / "pairs.csv").write_text(
        "prediction,truth,group\nout/slide.tif,truth/slide.tif,a\nout/other.tif,truth/other.tif,b\n"
    )
    ring = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    regions = {"type": "Polygon", "coordinates": [ring]}
    (tmp_path / "regions.geojson").write_text(json.dumps(regions))
    return tmp_path


def labelled(mask):
    """Return numbered pieces of a mask."""
    from scipy import ndimage

    return ndimage.label(mask)[0].astype(np.uint16)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_run_in_order(document, folder):
    runs = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    environment = {
        **os.environ,
        **SHORT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    programs = list(programs_of(document))
    assert programs
    for language, text in programs:
        ran = subprocess.run(
            [*runs[language], text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{document}:\n{text}\n{ran.stderr}"


def test_what_is_not_run_is_little_and_has_a_language():
    for document in DOCUMENTS:
        for language, words, _ in blocks(document):
            assert language in ("sh", "python", "text", "json", "yaml"), document
            assert words.strip() in ("", "no-run"), document
