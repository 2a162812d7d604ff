"""Every block of shell and Python in README and docs runs, in order, in one folder.

Pages of finished studies are left out, because their scripts are no longer in the repository.
The folder has small pieces of a real tissue image under the names that the pages use. Trainings are
short: ``SMALL`` sets options by their environment variables, and ``shell.SHORT`` replaces values
that a page shows. Output that a page shows has to appear, with other numbers.
"""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import tifffile
from skimage.color import hed2rgb, rgb2hed
from skimage.data import immunohistochemistry

from tests.docs.pages import ROOT, blocks_of, pages_in_order
from tests.docs.shell import shell

SMALL = {
    "HISTOSYNTH_N": "8",
    "HISTOSYNTH_PATCH_PX": "64",
    "HISTOSYNTH_STEPS": "2",
    "HISTOSYNTH_BATCH": "2",
    "HISTOSYNTH_CROP_PX": "32",
    "HISTOSYNTH_BOOTSTRAP": "10",
    "HISTOSYNTH_WEIGHTS": "0",
    "OMP_NUM_THREADS": "1",
    "HISTOSYNTH_REALISM_PATCHES": "8",
    "HISTOSYNTH_DEVICE": "cpu",
    "HISTOSYNTH_WORKERS": "1",
    "COLUMNS": "100",
}
REASON = re.compile(r"\bneeds?\b|\btakes?\b|\bbegins? with\b", re.IGNORECASE)
NO_RUN_AT_MOST = 12
PAGES = pages_in_order()


def save(path, pixels):
    """Write a TIFF of 0.25 micrometres per pixel."""
    path.parent.mkdir(exist_ok=True)
    where = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, **where)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with tissue as a reader has it: references, slides, and some with labels."""
    folder = tmp_path_factory.mktemp("reader")
    blue, _, brown = np.moveaxis(rgb2hed(immunohistochemistry()), 2, 0)
    tissue = hed2rgb(np.stack([blue, 0.3 * brown, 0 * blue], axis=2))
    tissue = np.rint(255 * tissue.clip(0, 1)).astype(np.uint8)
    names = {"references": "ab", "images": "ab", "slides": ("slide", "other")}
    for kind, stems in names.items():
        for index, stem in enumerate(stems):
            piece = tissue[192 * index : 192 * index + 128, 64:192]
            save(folder / kind / f"{stem}.tif", piece)
            if kind != "references":
                labels = np.zeros((128, 128), np.int32)
                labels[20:40, 20:40], labels[60:70, 50:80] = 1, 2
                save(folder / {"images": "labels", "slides": "truth"}[kind] / f"{stem}.tif", labels)
    (folder / "manifest.csv").write_text("path,mpp\nslides/slide.tif,0.25\n")
    rows = (f"box/{name}.tif,truth/{name}.tif,{name}" for name in names["slides"])
    (folder / "pairs.csv").write_text("\n".join(["prediction,truth,group", *rows]))
    ring = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    (folder / "regions.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return folder


@pytest.fixture(scope="module")
def bash(folder):
    with shell(folder, SMALL) as bash:
        yield bash


def appears(line, shown):
    """Return whether a line that a page shows is in the output, whatever its numbers."""
    number = r"[\d.,]*\d"
    words = re.split(number, " ".join(line.split()))
    pattern = number.join(re.escape(word) for word in words)
    return re.search(pattern, " ".join(shown.split())) is not None


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, and sockets of Unix")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page, folder, bash, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging.getLogger("histocli"), "propagate", False)
    namespace, shown = {"__name__": "page"}, ""
    for block in blocks_of(page):
        where = f"{block.page}:{block.line}"
        if block.language == "sh" and not block.mark:
            done = bash(block.text)
            assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stdout}"
            shown = done.stdout
        elif block.language == "python" and not block.mark:
            exec(compile(block.text, where, "exec"), namespace)
        elif block.mark == "output":
            for line in filter(None, map(str.strip, block.text.splitlines())):
                assert appears(line, shown), f"{where}: {line!r} is not in\n{shown}"


def test_few_blocks_cannot_run_and_each_says_why():
    """The reason stands in the paragraph before or after the block."""
    unable = [
        (page, block) for page in PAGES for block in blocks_of(page) if block.mark == "no-run"
    ]
    assert len(unable) <= NO_RUN_AT_MOST, [f"{block.page}:{block.line}" for _, block in unable]
    for page, block in unable:
        lines = page.read_text(encoding="utf-8").splitlines()
        end = block.line + block.text.count("\n") + 1
        around = lines[max(0, block.line - 6) : block.line - 1] + lines[end : end + 5]
        assert REASON.search(" ".join(around)), f"{block.page}:{block.line}"


def test_blocks_name_a_language():
    """So that the test above sees them: a block is run, or shown as text."""
    known = {"sh", "python", "text", "yaml", "csv"}
    for page in PAGES:
        for block in blocks_of(page):
            where = f"{block.page}:{block.line}"
            assert block.language in known, where
            assert block.mark in ("", "no-run", "output"), where
