"""Segmenting from Python: the labels of the command line, with table, outlines and errors."""

import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from scipy import ndimage

import histocli
from histocli import Execution, HistosynthError, SegmentConfig, Segmenter
from histocli.base import errors
from histocli.cli.app import run
from tests.api.conftest import CPU, MPP

FLAGS = ["--device", "cpu", "--precision", "fp32", "--workers", "1", "-q"]


@pytest.fixture(scope="module")
def image():
    from skimage.data import immunohistochemistry

    return np.ascontiguousarray(immunohistochemistry()[:300, :260])


@pytest.fixture(scope="module")
def found(image):
    return Segmenter("box", execution=CPU).segment(image, mpp=MPP)


def test_a_blurred_image_is_flagged(found, image):
    blurred = ndimage.gaussian_filter(image, (4, 4, 0))
    assert "out of focus" in Segmenter("box", execution=CPU).segment(blurred, mpp=MPP).flags
    assert "out of focus" not in found.flags


def test_an_array_has_the_labels_of_the_command_line(image, found, tmp_path):
    imagecodecs.imwrite(str(tmp_path / "a.png"), image)
    words = ["segment", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--mpp", str(MPP)]
    assert run([*words, "--format", "tiff,csv", *FLAGS]) == 0
    labels = tifffile.imread(tmp_path / "out" / "a.tif")
    assert found.nuclei == labels.max() > 3
    assert np.array_equal(found.labels, labels)
    header = (tmp_path / "out" / "a.csv").read_text().splitlines()[0].split(",")
    assert list(found.table) == header


def test_a_path_has_the_labels_of_its_pixels(image, found, tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, image, photometric="rgb", resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit=3
    )
    segmenter = Segmenter(find(), execution=CPU)
    for word in (path, str(path)):
        again = segmenter.segment(word)
        assert np.array_equal(again.labels, found.labels)
        assert (again.mpp, again.mpp_source) == (pytest.approx(MPP), "tiff")
    assert segmenter.segment(path, mpp=0.3).mpp == 0.3


def find() -> str:
    """The default model, by its full name."""
    return f"box:{Segmenter().path.stem}"


def test_labels_table_and_polygons_tell_the_same(found):
    assert found.labels.dtype == np.int32
    assert len(found) == found.nuclei == len(found.polygons) == len(found.table["id"])
    assert list(found.table["id"]) == list(range(1, found.nuclei + 1))
    for number, outline in enumerate(found.polygons, 1):
        rows, columns = np.nonzero(found.labels == number)
        assert outline.dtype == np.float64
        assert outline.shape == (len(outline), 2)
        assert np.array_equal(outline[0], outline[-1])
        # edges of pixels, y before x
        assert outline.min(axis=0) == pytest.approx([rows.min(), columns.min()], abs=1)
        assert outline.max(axis=0) == pytest.approx([rows.max() + 1, columns.max() + 1], abs=1)
        area = np.asarray(found.table["area_um2"])[number - 1]
        assert area == pytest.approx(len(rows) * MPP * MPP)
    assert f"{found.nuclei} nuclei" in repr(found)


def test_the_table_is_a_data_frame_where_pandas_is(found):
    pandas = pytest.importorskip("pandas")
    assert isinstance(found.table, pandas.DataFrame)
    assert len(found.table) == found.nuclei


def test_the_table_is_a_dict_of_arrays_without_pandas(image, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    table = Segmenter(execution=CPU).segment(image[:128, :128], mpp=MPP).table
    assert type(table) is dict
    assert {type(column) for column in table.values()} == {np.ndarray}


def test_progress_is_reported_and_can_stop_the_work(image):
    calls = []
    segmenter = Segmenter(execution=CPU)
    segmenter.segment(image, mpp=MPP, progress=lambda *call: calls.append(call))
    assert calls[0][1] == 0
    name, done, total = calls[-1]
    assert (name, done) == ("segment", total)

    def stop(name, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmenter.segment(image, mpp=MPP, progress=stop)
    assert segmenter.segment(image, mpp=MPP).nuclei > 3  # and the next image is none the worse


def test_settings_are_those_of_the_command_line(image):
    config = SegmentConfig(mpp=MPP, tissue="none", views=2)
    found = Segmenter("box", config=config, execution=CPU).segment(image)
    assert found.mpp == MPP
    assert found.mm2 == pytest.approx(image.shape[0] * image.shape[1] * MPP**2 / 1e6)


def test_models_of_the_package_have_names():
    default = Segmenter().path
    for word in ("box", f"box:{default.stem}", default.stem, default, str(default)):
        assert Segmenter(word).path == default
    assert Segmenter(f"box:{default.stem}").mpp == Segmenter().mpp > 0


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("box:nobody", errors.InvalidOption, "nobody"),
        ("absent.safetensors", errors.StoreNotFound, "absent"),
        (Path("no/such/model"), errors.StoreNotFound, "model"),
    ],
)
def test_a_model_that_is_not_there(model, kind, said):
    with pytest.raises(kind, match=said) as caught:
        Segmenter(model)
    assert isinstance(caught.value, HistosynthError)


def test_errors_are_those_of_the_tree(image, tmp_path):
    segmenter = Segmenter(execution=CPU)
    with pytest.raises(errors.UnknownPixelSize, match="mpp="):
        segmenter.segment(image)
    with pytest.raises(errors.UnsupportedSlide):
        segmenter.segment(np.zeros((4, 4, 9), np.uint8), mpp=MPP)
    with pytest.raises(errors.InputNotFound):
        segmenter.segment(tmp_path / "absent.png")
    with pytest.raises(errors.DeviceUnavailable):
        Segmenter(execution=Execution(device="cuda:99")).segment(image, mpp=MPP)


def test_files_are_segmented_as_on_the_command_line(image, tmp_path):
    imagecodecs.imwrite(str(tmp_path / "a.png"), image)
    config = SegmentConfig(mpp=MPP, formats=("tiff",))
    told, seen = [], []
    (result,) = histocli.segment(
        tmp_path / "a.png",
        tmp_path / "out",
        config=config,
        execution=CPU,
        report=told.append,
        progress=lambda *call: seen.append(call),
    )
    assert told == [result]
    assert seen
    labels = tifffile.imread(result.outputs["tiff"])
    assert labels.max() == result.nuclei > 3
    (again,) = histocli.segment([tmp_path / "a.png"], tmp_path / "out", "box", config, CPU)
    assert again.status == "skipped"
