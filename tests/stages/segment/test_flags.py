"""What may make a result wrong is flagged for each slide: defocus, ink of a pen."""

import logging

import cv2
import numpy as np
import pytest
from skimage import data

from histocli.exports.registry import read_record
from histocli.stores.labels import open_labels
from tests.stages.segment.given import run, write_tiff

TISSUE = np.tile(np.asarray(data.immunohistochemistry()), (1, 2, 1))


def with_pen(image):
    drawn = image.copy()
    return cv2.line(drawn, (100, 60), (900, 420), (30, 60, 150), 200, cv2.LINE_AA)


@pytest.mark.parametrize(
    ("image", "flags", "said"),
    [
        (TISSUE, (), ""),
        (cv2.GaussianBlur(TISSUE, (0, 0), 4), ("out of focus",), "100 % of its tissue is out of"),
        (with_pen(TISSUE), ("pen",), "of pen"),
    ],
    ids=["good", "blurred", "pen"],
)
def test_a_slide_is_flagged_and_warned_of(tmp_path, model, caplog, image, flags, said):
    slide = write_tiff(tmp_path / "s.tif", image)
    with caplog.at_level(logging.WARNING):
        (result,) = run(slide, model, tmp_path / "out", formats=("ome-zarr", "csv"))
    assert tuple(flag for flag in result.flags if flag != "empty") == flags
    assert said in caplog.text
    assert ("out of focus" in caplog.text) == ("out of focus" in flags)
    assert ("of pen" in caplog.text) == ("pen" in flags)
    facts = open_labels(tmp_path / "out" / "s.ome.zarr").facts
    for record in (facts, read_record(tmp_path / "out" / "s.csv")):
        assert record["blurred_share"] == result.blurred_share
        assert record["ink_mm2"] == result.ink_mm2
    (again,) = run(slide, model, tmp_path / "out", formats=("ome-zarr", "csv"))
    assert (again.status, again.flags) == ("skipped", result.flags)


def test_more_ink_is_a_larger_area(tmp_path, model):
    areas = []
    for number, thick in enumerate((0, 160, 240)):
        image = TISSUE.copy()
        if thick:
            cv2.line(image, (100, 60), (900, 420), (30, 60, 150), thick)
        slide = write_tiff(tmp_path / f"{number}.tif", image)
        areas.append(run(slide, model, tmp_path / "out")[0].ink_mm2)
    assert areas[0] == 0 < areas[1] < areas[2]
