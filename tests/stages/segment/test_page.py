"""The page of a batch: every slide, what is wrong with it, links that lead to the files."""

import re
from html import unescape
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from skimage import data

from histocli.cli.app import run as cli
from histocli.figures.report import MARK
from tests.stages.segment.given import MPP, tissue, write_patches, write_png, write_tiff

REAL = np.asarray(data.immunohistochemistry())


@pytest.fixture(scope="module")
def batch(tmp_path_factory, model):
    """Two good slides, a blurred one and a broken one, segmented with a page."""
    folder = tmp_path_factory.mktemp("batch")
    write_tiff(folder / "slides" / "a <b> ü.tif", tissue((300, 420)))
    write_tiff(folder / "slides" / "c.tif", REAL)
    write_tiff(folder / "slides" / "blurred.tif", cv2.GaussianBlur(REAL, (0, 0), 4))
    (folder / "slides" / "broken.tif").write_bytes(b"no slide")
    return folder


def segment(folder, model, *more, page="out/page/index.html", code=5):
    words = ["segment", str(folder / "slides"), "--model", str(model), "-o", str(folder / "out")]
    words += ["--format", "ome-zarr,csv,overlay", "--on-error", "continue"]
    assert cli([*words, "--html", str(folder / page), "-q", *more]) == code
    return (folder / page).read_text(encoding="utf-8")


def test_the_page_shows_slides_flags_failures_and_files(batch, model, capsys):
    page = segment(batch, model)
    assert capsys.readouterr().out.splitlines()[-1] == str(batch / "out" / "page" / "index.html")
    assert MARK in page[:200]
    text = unescape(re.sub(r"<[^>]*>", " ", page))
    assert "3 slides segmented, 1 flagged, 1 failed" in text
    assert "broken.tif: " in text
    assert page.count("<img ") == 3
    titles = re.findall(r"<figcaption><b>([^<]*)</b>", page)
    assert titles[0] == "blurred.tif"  # flagged ones first
    assert set(titles) == {"a &lt;b&gt; ü.tif", "c.tif", "blurred.tif"}
    assert page.count('class="flag">out of focus') == 1
    links = re.findall(r'<span class="links">(.*?)</span>', page)
    files = [unquote(each) for each in re.findall(r'href="([^"]*)"', " ".join(links))]
    assert len(files) == 9
    for file in files:
        assert (batch / "out" / "page" / file).exists()
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_a_page_of_ours_is_replaced_and_another_file_is_not(batch, model, capsys):
    first = segment(batch, model, page="p.html")
    assert segment(batch, model, page="p.html") == first  # all slides are skipped, equal bytes
    (batch / "mine.html").write_text("<p>mine</p>")
    segment(batch, model, page="mine.html", code=4)
    assert (batch / "mine.html").read_text() == "<p>mine</p>"
    assert "choose another --html" in capsys.readouterr().err
    words = ["segment", str(batch / "slides"), "-o", str(batch / "new"), "--html", "x.txt"]
    assert cli(words) == 2
    assert not (batch / "new").exists()


def test_slides_without_a_store_are_shown_without_nuclei(batch, model, tmp_path):
    words = ["segment", str(batch / "slides" / "c.tif"), "--model", str(model)]
    words += ["-o", str(tmp_path / "o"), "--format", "csv", "--html", str(tmp_path / "p.html")]
    assert cli([*words, "-q"]) == 0
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 1
    assert "/c.csv" in page


def test_patches_and_slides_that_are_gone_are_in_the_table_only(tmp_path, model):
    write_patches(tmp_path / "p.zarr", 3)
    write_png(tmp_path / "gone.png", tissue())
    words = ["segment", str(tmp_path / "p.zarr"), str(tmp_path / "gone.png"), "--mpp", str(MPP)]
    words += ["--model", str(model), "-o", str(tmp_path / "o"), "-q"]
    page = tmp_path / "index.html"
    assert cli([*words, "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == 1
    assert "p.zarr</th>" in text
    assert cli([*words, "--html", str(page), "--dry-run"]) == 0
    assert page.read_text(encoding="utf-8") == text
