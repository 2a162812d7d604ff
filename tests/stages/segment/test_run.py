"""``segment`` from files to files, with a real model file whose weights are set by hand: dark is
nucleus."""

import dataclasses
import errno
import io
import json
import signal
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
import zarr
from scipy import ndimage

from histocli.base import interrupts
from histocli.base.errors import (
    InputNotFound,
    InvalidInput,
    InvalidOption,
    InvalidStore,
    OutOfResources,
    Stopped,
    StoreExists,
    UnknownPixelSize,
    UnsupportedSlide,
)
from histocli.base.files import partial_path
from histocli.base.formats import FORMATS
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import build_segmenter
from histocli.optics.density import rgb_to_optical_density
from histocli.optics.stains import typical_hematoxylin
from histocli.stages.segment.results import SegmentResult
from histocli.stages.segment.run import segment
from histocli.stages.segment.slide_job import SlideJob
from histocli.stores.labels import PatchLabelsWriter, open_labels
from histocli.stores.models import ModelHeader, read_model, write_model
from histocli.stores.patches import PatchStore
from tests.stages.segment.given import (
    ALL,
    MPP,
    dark,
    names,
    run,
    tissue,
    write_patches,
    write_png,
    write_tiff,
)


class TestOneSlide:
    def test_all_formats_say_the_same(self, tmp_path, model):
        image = tissue()
        slide = write_tiff(tmp_path / "slide.tif", image)
        (result,) = run(slide, model, tmp_path / "out", formats=ALL)
        assert names(tmp_path / "out") == ["slide.ome.zarr", "slide.overlay.png", "slide.tif"]
        store = open_labels(tmp_path / "out" / "slide.ome.zarr")
        labels = store.labels()
        assert labels.max() > 30
        assert ((labels > 0) == dark(image)).mean() > 0.97
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "slide.tif"), labels)
        picture = imagecodecs.png_decode((tmp_path / "out" / "slide.overlay.png").read_bytes())
        assert picture.shape == image.shape
        changed = (picture != image).any(axis=2)
        assert changed.any()
        # outlines are drawn inside; the scale bar lies in the lower left corner
        beyond = changed & (labels == 0)
        assert beyond[100:, :150].any()
        beyond[100:, :150] = False
        assert not beyond.any()
        assert result.nuclei == store.n_nuclei == labels.max()
        assert result.mm2 == pytest.approx(150 * 200 * MPP**2 / 1e6)
        assert (result.status, result.mpp_source, result.error) == ("done", "tiff", None)
        assert result.mpp == pytest.approx(MPP)
        assert result.outputs == {
            name: str(tmp_path / "out" / f"slide{FORMATS[name].suffix}") for name in ALL
        }

    def test_json_is_one_object_with_a_schema(self, tmp_path, model):
        (result,) = run(write_png(tmp_path / "a.png", tissue()), model, tmp_path / "out", mpp=MPP)
        values = json.loads(json.dumps(result.to_json()))
        assert values["schema"] == "histosynth.segment/1"
        assert set(values) == {
            "schema", "input", "output", "outputs", "status", "nuclei", "mm2", "seconds", "mpp",
            "mpp_source", "error", "n_cut", "empty", "plan", "stain_distance", "far", "flags",
            "blurred_share", "ink_mm2",
        }  # fmt: skip
        assert values["input"] == str(tmp_path / "a.png")
        assert values["output"] == str(tmp_path / "out" / "a.ome.zarr")

    def test_ids_follow_anchors_and_the_table_follows_the_ids(self, tmp_path, model):
        run(write_tiff(tmp_path / "a.tif", tissue()), model, tmp_path)
        store = open_labels(tmp_path / "a.ome.zarr")
        table, labels = store.table, store.labels()
        order = np.lexsort((table["x_um"], np.round(table["y_um"])))
        # discs: the anchor is about the centroid
        assert (np.abs(np.argsort(order) - np.arange(len(order))) < 10).all()
        np.testing.assert_array_equal(table["id"], np.arange(1, labels.max() + 1))
        for number in (1, 7, labels.max()):
            rows, columns = np.nonzero(labels == number)
            box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            np.testing.assert_array_equal(table["box"][number - 1], box)
            assert table["y_um"][number - 1] == pytest.approx(rows.mean() * store.mpp)
            assert table["area_um2"][number - 1] == pytest.approx(
                rows.size * store.mpp**2, rel=1e-5
            )
            assert 0.5 < table["probability"][number - 1] <= 1

    @pytest.mark.parametrize("shape", [(1, 1), (1, 90), (17, 3), (65, 64)])
    def test_any_size_from_one_pixel_up(self, tmp_path, model, shape):
        (result,) = run(
            write_png(tmp_path / "a.png", tissue(shape)), model, tmp_path, formats=ALL, mpp=MPP
        )
        assert result.status == "done"
        assert open_labels(tmp_path / "a.ome.zarr").shape == shape

    def test_white_and_black(self, tmp_path, model):
        write_png(tmp_path / "in" / "white.png", np.full((100, 90, 3), 255, np.uint8))
        write_png(tmp_path / "in" / "black.png", np.zeros((100, 90, 3), np.uint8))
        black, white = run(tmp_path / "in", model, tmp_path / "out", formats=ALL, mpp=MPP)
        assert (white.nuclei, black.nuclei) == (0, 0)  # black is ink
        assert (white.mm2, black.mm2) == (0, 0)
        (black,) = run(
            tmp_path / "in" / "black.png",
            model,
            tmp_path / "all",
            formats=ALL,
            mpp=MPP,
            tissue="none",
        )
        assert black.nuclei == 1
        assert (open_labels(tmp_path / "all" / "black.ome.zarr").labels() == 1).all()

    def test_grey_rgba_and_16_bits_are_read_as_the_same_slide(self, tmp_path, model):
        image = tissue()
        write_png(tmp_path / "rgb.png", image)
        write_png(
            tmp_path / "rgba.png",
            np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2),
        )
        write_png(tmp_path / "deep.png", image.astype(np.uint16) * 257)
        run(tmp_path, model, tmp_path / "out", mpp=MPP)
        expected = open_labels(tmp_path / "out" / "rgb.ome.zarr").labels()
        for name in ("rgba", "deep"):
            np.testing.assert_array_equal(
                open_labels(tmp_path / "out" / f"{name}.ome.zarr").labels(), expected
            )

    @pytest.mark.parametrize("mpp", [0.25, 0.35, 1.0])
    def test_other_pixel_sizes_give_the_same_nuclei_in_the_slide_s_own_pixels(
        self, tmp_path, model, mpp
    ):
        image = tissue((300, 260), scale=MPP / mpp)
        (result,) = run(write_tiff(tmp_path / "a.tif", image, mpp), model, tmp_path / "out")
        store = open_labels(tmp_path / "out" / "a.ome.zarr")
        assert store.shape == (300, 260)
        assert store.mpp == pytest.approx(mpp)
        truth = dark(image)
        found = store.labels() > 0
        assert (found & truth).sum() / (found | truth).sum() > 0.85
        true_labels, n = ndimage.label(truth)
        centres = np.array(ndimage.center_of_mass(truth, true_labels, range(1, n + 1)))
        y, x = store.table["y_um"] / mpp, store.table["x_um"] / mpp
        nearest = np.hypot(centres[:, :1] - y, centres[:, 1:] - x).argmin(axis=0)
        assert abs((y - centres[nearest, 0]).mean()) < 0.3
        assert abs((x - centres[nearest, 1]).mean()) < 0.3
        assert store.n_nuclei == store.labels().max() == result.nuclei
        assert len(np.unique(store.labels())) == result.nuclei + 1

    def test_zarr_input(self, tmp_path, model):
        image = tissue()
        zarr.save_array(tmp_path / "plain.zarr", image)
        (result,) = run(tmp_path / "plain.zarr", model, tmp_path / "out", mpp=MPP)
        assert result.output.endswith("plain.ome.zarr")
        assert result.nuclei > 30


class TestSameResult:
    def test_for_any_tiles_and_workers(self, tmp_path, model):
        slide = write_tiff(tmp_path / "a.tif", tissue((333, 270)))
        found = []
        for tile_px, workers in ((64, 1), (64, 3), (96, 2), (1024, 1)):
            out = tmp_path / f"{tile_px}-{workers}"
            run(slide, model, out, tile_px=tile_px, workers=workers)
            found.append(open_labels(out / "a.ome.zarr"))
        for other in found[1:]:
            np.testing.assert_array_equal(other.labels(), found[0].labels())
            for name, column in other.table.items():
                np.testing.assert_array_equal(column, found[0].table[name], err_msg=name)

    def test_alone_or_in_a_batch(self, tmp_path, model):
        for seed in range(3):
            write_png(tmp_path / "in" / f"{seed}.png", tissue(seed=seed))
        run(tmp_path / "in", model, tmp_path / "all", mpp=MPP)
        run(tmp_path / "in" / "1.png", model, tmp_path / "one", mpp=MPP)
        np.testing.assert_array_equal(
            open_labels(tmp_path / "all" / "1.ome.zarr").labels(),
            open_labels(tmp_path / "one" / "1.ome.zarr").labels(),
        )


class TestNames:
    def test_double_suffixes_are_stripped_and_collisions_get_a_hash(self, tmp_path, model):
        write_png(tmp_path / "in" / "a" / "s.png", tissue(seed=1))
        write_tiff(tmp_path / "in" / "b" / "s.ome.tif", tissue(seed=2))
        write_png(tmp_path / "in" / "b" / "other.png", tissue(seed=3))
        results = run(tmp_path / "in", model, tmp_path / "out", mpp=MPP)
        made = [Path(result.output).name for result in results]
        assert len(set(made)) == 3
        assert (
            sum(
                name.startswith("s__") and len(name) == len("s__12345678.ome.zarr") for name in made
            )
            == 2
        )
        assert "other.ome.zarr" in made
        for result in results:
            assert open_labels(result.output).facts["source"]["name"] == Path(result.input).name

    def test_an_output_never_replaces_its_input(self, tmp_path, model):
        slide = write_tiff(tmp_path / "slide.tif", tissue())
        before = slide.read_bytes()
        for overwrite in (False, True):
            with pytest.raises(StoreExists, match=r"slide\.tif"):
                run(slide, model, tmp_path, formats=("tiff",), overwrite=overwrite)
        assert slide.read_bytes() == before


class TestRerun:
    def test_done_is_skipped_and_says_what_it_holds(self, tmp_path, model):
        slide = write_png(tmp_path / "a.png", tissue())
        (first,) = run(slide, model, tmp_path / "out", formats=ALL, mpp=MPP)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
        for formats in (ALL, ("tiff",), ("overlay", "ome-zarr")):
            (again,) = run(slide, model, tmp_path / "out", formats=formats, mpp=MPP)
            assert again.status == "skipped"
            assert (again.nuclei, again.mm2, again.mpp, again.mpp_source) == (
                first.nuclei,
                first.mm2,
                first.mpp,
                first.mpp_source,
            )
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    def test_a_format_can_be_added_later(self, tmp_path, model):
        slide = write_png(tmp_path / "a.png", tissue())
        run(slide, model, tmp_path / "out", mpp=MPP)
        store = (tmp_path / "out" / "a.ome.zarr" / "zarr.json").stat().st_mtime_ns
        (result,) = run(slide, model, tmp_path / "out", formats=("ome-zarr", "tiff"), mpp=MPP)
        assert result.status == "done"
        assert names(tmp_path / "out") == ["a.ome.zarr", "a.tif"]
        assert (tmp_path / "out" / "a.ome.zarr" / "zarr.json").stat().st_mtime_ns == store

    @pytest.mark.parametrize("formats", [("ome-zarr",), ("tiff",), ("overlay",)])
    def test_other_settings_need_overwrite(self, tmp_path, model, formats):
        slide = write_png(tmp_path / "a.png", tissue())
        run(slide, model, tmp_path / "out", formats=formats, mpp=MPP)
        with pytest.raises(StoreExists, match="--overwrite"):
            run(slide, model, tmp_path / "out", formats=formats, mpp=0.6)
        (result,) = run(slide, model, tmp_path / "out", formats=formats, mpp=0.6, overwrite=True)
        assert (result.status, result.mpp) == ("done", 0.6)

    def test_a_changed_slide_is_not_taken_for_done(self, tmp_path, model):
        slide = write_png(tmp_path / "a.png", tissue())
        run(slide, model, tmp_path / "out", mpp=MPP)
        write_png(slide, tissue(seed=5))
        with pytest.raises(StoreExists, match="other settings or inputs"):
            run(slide, model, tmp_path / "out", mpp=MPP)

    def test_what_is_in_the_way_is_found_before_any_work(self, tmp_path, model):
        write_png(tmp_path / "in" / "a.png", tissue())
        write_png(tmp_path / "in" / "b.png", tissue(seed=1))
        (tmp_path / "out" / "b.ome.zarr").mkdir(parents=True)
        (tmp_path / "out" / "b.ome.zarr" / "mine.txt").write_text("keep")
        with pytest.raises(StoreExists, match="not made by histosynth"):
            run(tmp_path / "in", model, tmp_path / "out", mpp=MPP, overwrite=True)
        assert names(tmp_path / "out") == ["b.ome.zarr"]
        assert (tmp_path / "out" / "b.ome.zarr" / "mine.txt").read_text() == "keep"

    def test_what_a_killed_run_left_is_made_without_being_asked(self, tmp_path, model):
        slide = write_png(tmp_path / "a.png", tissue())
        run(slide, model, tmp_path / "out", mpp=MPP)
        store = tmp_path / "out" / "a.ome.zarr"
        store.rename(partial_path(store))
        (result,) = run(slide, model, tmp_path / "out", mpp=MPP)
        assert result.status == "done"
        assert names(tmp_path / "out") == ["a.ome.zarr"]


class TestBatches:
    @pytest.fixture
    def folder(self, tmp_path):
        """Good, empty, good, truncated, good."""
        write_png(tmp_path / "in" / "1.png", tissue(seed=1))
        (tmp_path / "in" / "2.png").touch()
        write_png(tmp_path / "in" / "3.png", tissue(seed=3))
        write_png(tmp_path / "in" / "4.png", tissue(seed=4))
        (tmp_path / "in" / "4.png").write_bytes((tmp_path / "in" / "4.png").read_bytes()[:200])
        write_png(tmp_path / "in" / "5.png", tissue(seed=5))
        return tmp_path / "in"

    def test_one_bad_slide_does_not_end_the_batch(self, tmp_path, folder, model):
        seen = []
        results = run(
            folder, model, tmp_path / "out", mpp=MPP, on_error="continue", report=seen.append
        )
        assert [result.status for result in results] == ["done", "failed", "done", "failed", "done"]
        assert seen == results
        assert "empty" in results[1].error
        assert results[1].nuclei is None
        assert names(tmp_path / "out") == ["1.ome.zarr", "3.ome.zarr", "5.ome.zarr"]

    def test_without_it_the_first_error_ends_the_batch_and_what_was_done_stays(
        self, tmp_path, folder, model
    ):
        seen = []
        with pytest.raises(UnsupportedSlide, match=r"2\.png"):
            run(folder, model, tmp_path / "out", mpp=MPP, report=seen.append)
        assert [result.status for result in seen] == ["done"]
        assert names(tmp_path / "out") == ["1.ome.zarr"]

    def test_a_missing_slide_fails_alone(self, tmp_path, model):
        slides = [tmp_path / "none.png", write_png(tmp_path / "a.png", tissue())]
        with pytest.raises(InputNotFound, match=r"none\.png"):
            run(slides, model, tmp_path / "out", mpp=MPP)
        results = run(slides, model, tmp_path / "out", mpp=MPP, on_error="continue")
        assert [result.status for result in results] == ["failed", "done"]

    def test_a_result_in_the_way_fails_alone(self, tmp_path, model):
        slides = [
            write_png(tmp_path / "a.png", tissue()),
            write_png(tmp_path / "b.png", tissue(seed=1)),
        ]
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.ome.zarr").write_text("mine")
        results = run(slides, model, tmp_path / "out", mpp=MPP, on_error="continue")
        assert [result.status for result in results] == ["failed", "done"]
        assert (tmp_path / "out" / "a.ome.zarr").read_text() == "mine"

    def test_results_come_in_the_order_of_the_slides(self, tmp_path, model):
        for number in range(6):
            write_png(
                tmp_path / "in" / f"{number}.png", tissue((30 + 60 * (5 - number), 50), seed=number)
            )
        seen = []
        results = run(tmp_path / "in", model, tmp_path / "out", mpp=MPP, report=seen.append)
        assert [Path(result.input).stem for result in results] == list("012345")
        assert seen == results

    def test_paths_on_stdin(self, tmp_path, model, monkeypatch):
        slide = write_png(tmp_path / "a.png", tissue())
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{slide}\n"))
        assert run("-", model, tmp_path / "out", mpp=MPP)[0].status == "done"
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        with pytest.raises(InputNotFound, match="no input"):
            run("-", model, tmp_path / "out", mpp=MPP)

    def test_a_manifest_gives_each_slide_its_pixel_size(self, tmp_path, model):
        write_png(tmp_path / "a.png", tissue())
        write_png(tmp_path / "b.png", tissue(seed=1))
        (tmp_path / "slides.csv").write_text("path,mpp\na.png,0.5\nb.png,0.25\n")
        results = run(tmp_path / "slides.csv", model, tmp_path / "out")
        assert [(result.mpp, result.mpp_source) for result in results] == [
            (0.5, "given"),
            (0.25, "given"),
        ]

    def test_a_folder_without_images(self, tmp_path, model):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "notes.txt").write_text("hello")
        with pytest.raises(InputNotFound, match=r"\.png"):
            run(tmp_path / "in", model, tmp_path / "out")


class TestPatchStores:
    def test_one_label_image_per_patch_in_one_store(self, tmp_path, model):
        patches = write_patches(tmp_path / "synth.zarr", 40)
        (result,) = run(patches, model, tmp_path / "out")
        assert names(tmp_path / "out") == ["synth.labels.zarr"]
        store = open_labels(result.output)
        assert len(store) == 40
        for index in (0, 33, 39):
            truth = dark(tissue((48, 48), index))
            assert ((store.label_image(index) > 0) == truth).mean() > 0.96
        assert store.n_nuclei == result.nuclei == int(store.labels().max(axis=(1, 2)).sum())
        assert result.mpp_source == "store"
        assert result.mm2 == pytest.approx(40 * (48 * MPP) ** 2 / 1e6)
        (again,) = run(patches, model, tmp_path / "out")
        assert (again.status, again.nuclei, again.mm2) == ("skipped", result.nuclei, result.mm2)

    def test_other_pixel_size_and_patches_larger_than_a_tile(self, tmp_path, model):
        patches = write_patches(tmp_path / "synth.zarr", 2, patch_px=150, mpp=0.25)
        (result,) = run(patches, model, tmp_path / "out")
        store = open_labels(result.output)
        assert store.labels().shape == (2, 150, 150)
        assert store.mpp == 0.25

    def test_an_interrupted_store_goes_on_where_it_was(self, tmp_path, model, monkeypatch):
        patches = write_patches(tmp_path / "synth.zarr", 70)
        written = threading.Event()
        write = PatchLabelsWriter.write

        def note(writer, part, found):
            write(writer, part, found)
            written.set()

        (whole,) = run(patches, model, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(PatchLabelsWriter, "write", note)
            patch.setattr(interrupts, "stop_requested", written.is_set)
            with pytest.raises(Stopped) as caught:
                run(patches, model, tmp_path / "out")
        assert caught.value.exit_code == 75
        assert not (tmp_path / "out" / "synth.labels.zarr").exists()
        loaded = []
        read = PatchStore.read
        monkeypatch.setattr(
            PatchStore, "read", lambda store, part: loaded.append(part) or read(store, part)
        )
        (result,) = run(patches, model, tmp_path / "out")
        assert 0 < len(loaded) < 3
        np.testing.assert_array_equal(
            open_labels(result.output).labels(), open_labels(whole.output).labels()
        )

    def test_a_damaged_patch_store(self, tmp_path, model):
        patches = write_patches(tmp_path / "synth.zarr", 3)
        next(file for file in (patches / "image" / "c").rglob("*") if file.is_file()).unlink()
        with pytest.raises(InvalidStore):
            run(patches, model, tmp_path / "out")

    def test_a_label_store_is_not_a_slide(self, tmp_path, model):
        (result,) = run(write_png(tmp_path / "a.png", tissue()), model, tmp_path / "out", mpp=MPP)
        with pytest.raises(UnsupportedSlide, match="histosynth-labels/1"):
            run(result.output, model, tmp_path / "again")


def after(calls: int):
    """A stop request that comes after some safe points."""
    count = iter(range(10**6))
    return lambda: next(count) >= calls


def faint(shape=(150, 200), seed=0):
    """The same discs, hardly darker than the tissue that they lie in; a strip of glass."""
    image = np.where(
        dark(tissue(shape, seed))[..., None], np.uint8([140, 135, 185]), np.uint8([165, 150, 195])
    )
    image[:, -12:] = 250
    return image


@pytest.fixture(scope="module")
def demanding(model, tmp_path_factory) -> Path:
    """The same model, trained on tissue of more contrast."""
    header, tensors = read_model(model)
    path = tmp_path_factory.mktemp("demanding") / "model.safetensors"
    write_model(path, tensors, dataclasses.replace(header, normalisation={"contrast_floor": 0.25}))
    return path


class TestFaintStaining:
    def test_a_flat_image_is_brought_up_to_what_the_model_learnt_from(
        self, tmp_path, model, demanding
    ):
        image = faint()
        slide = write_tiff(tmp_path / "faint.tif", image)
        (plain,) = run(slide, model, tmp_path / "plain", tissue="none")
        (result,) = run(slide, demanding, tmp_path / "out", tissue="none")
        assert plain.nuclei == 0
        truth = dark(tissue())
        truth[:, -12:] = False
        store = open_labels(result.output)
        assert ((store.labels() > 0) == truth).mean() > 0.95
        contrast = store.facts["contrast"]
        assert contrast["spread"] < 0.25
        table = store.table
        level = store.facts["glass_level"]
        expected = typical_hematoxylin(
            rgb_to_optical_density(glass_to_white(np.uint8([[140, 135, 185]]), level))
        )
        # of the slide, not of what was raised
        assert np.median(table["hematoxylin"]) == pytest.approx(expected[0], rel=0.1)

    def test_tiles_and_workers_change_nothing(self, tmp_path, demanding):
        slide = write_tiff(tmp_path / "faint.tif", faint((300, 260)))
        folders = [tmp_path / str(number) for number in range(2)]
        for folder, settings in zip(
            folders, ({"tile_px": 64, "workers": 1}, {"tile_px": 1024, "workers": 3}), strict=True
        ):
            run(slide, demanding, folder, **settings)
        first, second = (open_labels(folder / "faint.ome.zarr").labels() for folder in folders)
        assert first.max() > 20
        np.testing.assert_array_equal(first, second)

    def test_patches_are_raised_too(self, tmp_path, model, demanding):
        patches = write_patches(tmp_path / "synth.zarr", 3, patch_px=96, draw=faint)
        (plain,) = run(patches, model, tmp_path / "plain")
        (result,) = run(patches, demanding, tmp_path / "out")
        assert plain.nuclei == 0
        assert result.nuclei > 20


def test_a_stain_that_the_model_has_not_seen_is_said(tmp_path, model, caplog):
    header, tensors = read_model(model)
    slide = write_tiff(tmp_path / "a.tif", tissue())
    (plain,) = run(slide, model, tmp_path / "plain")
    assert (plain.stain_distance, plain.far) == (None, False)

    def segmented(name, statistics):
        known = {"statistics": [statistics], "limit": 0.8}
        path = tmp_path / f"{name}.safetensors"
        write_model(
            path, tensors, dataclasses.replace(header, normalisation={"known_stains": known})
        )
        (result,) = run(slide, path, tmp_path / name)
        store = open_labels(result.output).facts
        assert (store["stain_distance"], store["far"]) == (result.stain_distance, result.far)
        return result

    far = segmented("far", [0.02, 0.02, 2.0, 0.02, 0.02, 0.7])
    assert far.far
    assert far.stain_distance > 0.8
    assert "the model has seen no stain like this" in caplog.text
    caplog.clear()
    contrast = open_labels(far.output).facts["contrast"]
    near = segmented("near", [*contrast["mean"], *contrast["spreads"]])
    assert (near.stain_distance, near.far) == (0, False)
    assert "no stain like this" not in caplog.text
    assert near.nuclei == far.nuclei == plain.nuclei


class TestStopping:
    def test_slides_that_were_finished_are_kept_and_the_rest_follows(
        self, tmp_path, model, monkeypatch
    ):
        for number in range(4):
            write_png(tmp_path / "in" / f"{number}.png", tissue(seed=number))
        safe_points = []
        with monkeypatch.context() as patch:
            patch.setattr(interrupts, "stop_requested", lambda: bool(safe_points.append(1)))
            run(tmp_path / "in" / "0.png", model, tmp_path / "one", mpp=MPP)
        assert len(safe_points) > 2
        seen = []
        with monkeypatch.context() as patch:
            # in the middle of the third slide
            patch.setattr(interrupts, "stop_requested", after(2 * len(safe_points) + 1))
            with pytest.raises(Stopped, match="same command"):
                run(tmp_path / "in", model, tmp_path / "out", mpp=MPP, report=seen.append)
        assert [result.status for result in seen] == ["done", "done"]
        assert names(tmp_path / "out") == ["0.ome.zarr", "1.ome.zarr"]
        results = run(tmp_path / "in", model, tmp_path / "out", mpp=MPP)
        assert [result.status for result in results] == ["skipped", "skipped", "done", "done"]

    def test_unfinished_work_may_be_begun_anew(self, tmp_path, model, monkeypatch):
        """Also the hidden store of a slide whose labels are wanted as a TIFF only."""
        image = write_png(tmp_path / "a.png", tissue((400, 400)))
        wanted = {"formats": ("tiff",), "mpp": MPP}
        with monkeypatch.context() as patch:
            patch.setattr(SlideJob, "finish", lambda job: raise_stopped())
            with pytest.raises(Stopped):
                run(image, model, tmp_path / "out", **wanted)
        begun = partial_path(tmp_path / "out" / "a.ome.zarr")
        assert begun.exists()
        run(image, model, tmp_path / "out", resume=False, dry_run=True, **wanted)
        assert begun.exists()
        parts = []
        original = SlideJob.load
        monkeypatch.setattr(
            SlideJob, "load", lambda job, part: parts.append(part) or original(job, part)
        )
        run(image, model, tmp_path / "out", resume=False, **wanted)
        assert parts  # nothing was taken over
        assert names(tmp_path / "out") == ["a.tif"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_at_the_next_tile(self, tmp_path, model, number):
        write_png(tmp_path / "a.png", tissue((400, 400)))

        def track(description, total):
            return Kicking(number)

        with interrupts.graceful_signals(), pytest.raises(Stopped):
            segment(
                [str(tmp_path / "a.png")],
                model,
                tmp_path / "out",
                SegmentConfig(tile_px=64, mpp=MPP),
                Execution(device="cpu", precision="fp32"),
                track=track,
            )
        assert names(tmp_path / "out") == []


def raise_stopped():
    raise Stopped("stopped")


class Kicking:
    """A progress bar that sends this process a signal at its first step."""

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, steps=1, note=""):
        if self.number is not None:
            signal.raise_signal(self.number)
            self.number = None


class TestRefusals:
    def test_no_model_where_none_came_with_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setattr("histocli.stores.box.WEIGHTS", tmp_path)
        with pytest.raises(InvalidOption, match="--model") as caught:
            run(write_png(tmp_path / "a.png", tissue()), None, tmp_path / "out")
        assert caught.value.exit_code == 2

    def test_models_that_are_none(self, tmp_path, model):
        slide = write_png(tmp_path / "a.png", tissue())
        torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.pt")
        (tmp_path / "text.safetensors").write_text("hello")
        (tmp_path / "cut.safetensors").write_bytes(model.read_bytes()[:300])
        for name in ("pickle.pt", "text.safetensors", "cut.safetensors", "none.safetensors"):
            with pytest.raises((InvalidInput, InputNotFound), match=name):
                run(slide, tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_unknown_pixel_size_where_it_matters(self, tmp_path, model):
        tifffile.imwrite(tmp_path / "a.tif", tissue(), photometric="rgb")
        with pytest.raises(UnknownPixelSize, match="--mpp"):
            run(tmp_path / "a.tif", model, tmp_path / "out")
        assert run(tmp_path / "a.tif", model, tmp_path / "out", mpp=MPP)[0].mpp_source == "given"

    def test_an_assumed_pixel_size_is_said_aloud(self, tmp_path, model, caplog):
        (result,) = run(write_png(tmp_path / "a.png", tissue()), model, tmp_path / "out")
        assert (result.mpp, result.mpp_source) == (0.25, "assumed")
        assert "0.25 um/px is assumed" in caplog.text
        assert "--mpp" in caplog.text

    def test_one_warning_for_many_images_of_assumed_pixel_size(self, tmp_path, model, caplog):
        (tmp_path / "in").mkdir()
        for number in range(3):
            write_png(tmp_path / "in" / f"{number}.png", tissue((64, 64)))
        run(tmp_path / "in", model, tmp_path / "out")
        said = [each.getMessage() for each in caplog.records if "assumed" in each.getMessage()]
        assert len(said) == 1
        assert said[0].startswith(f"3 images ({tmp_path / 'in' / '0.png'} first) record no")

    def test_a_file_where_the_folder_should_be(self, tmp_path, model):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(StoreExists):
            run(write_png(tmp_path / "a.png", tissue()), model, tmp_path / "out", mpp=MPP)

    def test_a_full_disk_ends_the_batch_and_keeps_what_was_done(self, tmp_path, model, monkeypatch):
        for number in range(3):
            write_png(tmp_path / "in" / f"{number}.png", tissue(seed=number))
        write = zarr.Array.__setitem__
        count = iter(range(10))

        def full(array, *arguments):
            if array.basename == "0" and "nuclei" in array.path and next(count) >= 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(array, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", full)
            with pytest.raises(OutOfResources, match="space") as caught:
                run(tmp_path / "in", model, tmp_path / "out", mpp=MPP, on_error="continue")
        assert caught.value.exit_code == 6
        assert open_labels(tmp_path / "out" / "0.ome.zarr").n_nuclei > 30
        results = run(tmp_path / "in", model, tmp_path / "out", mpp=MPP)
        assert [result.status for result in results] == ["skipped", "done", "done"]


class TestDryRun:
    def test_says_what_would_be_made_and_makes_nothing(self, tmp_path, model):
        slides = [write_tiff(tmp_path / "a.tif", tissue()), write_patches(tmp_path / "p.zarr", 2)]
        results = run(slides, model, tmp_path / "out", formats=("ome-zarr",), dry_run=True)
        assert [result.status for result in results] == ["planned", "planned"]
        assert [Path(result.output).name for result in results] == ["a.ome.zarr", "p.labels.zarr"]
        assert [result.mpp for result in results] == [pytest.approx(MPP), MPP]
        assert not (tmp_path / "out").exists()

    def test_checks_inputs_and_outputs(self, tmp_path, model):
        tifffile.imwrite(tmp_path / "a.tif", tissue(), photometric="rgb")
        with pytest.raises(UnknownPixelSize):
            run(tmp_path / "a.tif", model, tmp_path / "out", dry_run=True)
        run(tmp_path / "a.tif", model, tmp_path / "out", mpp=MPP)
        assert (
            run(tmp_path / "a.tif", model, tmp_path / "out", mpp=MPP, dry_run=True)[0].status
            == "skipped"
        )
        with pytest.raises(StoreExists):
            run(tmp_path / "a.tif", model, tmp_path / "out", mpp=0.3, dry_run=True)


def test_progress_ends_at_the_number_of_slides(tmp_path, model):
    for number in range(3):
        write_png(tmp_path / "in" / f"{number}.png", tissue(seed=number))
    (tmp_path / "in" / "bad.png").touch()
    steps = []

    class Counting(Kicking):
        def advance(self, steps_done=1, note=""):
            steps.append(steps_done)

    segment(
        [str(tmp_path / "in")],
        model,
        tmp_path / "out",
        SegmentConfig(tile_px=64, mpp=MPP),
        Execution(device="cpu", precision="fp32", on_error="continue"),
        track=lambda description, total: (
            Counting(None) if total == 4 else pytest.fail(f"total is {total}")
        ),
    )
    assert sum(steps) == pytest.approx(4)


def test_results_are_frozen():
    result = SegmentResult(output="o", status="done", seconds=1.0, input="i", outputs={})
    with pytest.raises(AttributeError):
        result.nuclei = 3


def test_with_all_views_a_turned_slide_gives_turned_labels(tmp_path):
    """A network with random weights sees a turned picture otherwise; eight views on average do
    not."""
    architecture = {"family": "unet", "channels": [4, 6, 8]}
    torch.manual_seed(3)
    network = build_segmenter(architecture)
    with torch.no_grad():
        network.head.weight *= 8
    path = tmp_path / "random.safetensors"
    write_model(
        path, network.state_dict(), ModelHeader(architecture=architecture, mpp=MPP, config_hash="x")
    )
    picture = tissue((96, 96))
    differ = {}
    for name, slide in (("upright", picture), ("turned", np.ascontiguousarray(np.rot90(picture)))):
        tifffile.imwrite(tmp_path / f"{name}.tif", slide)
    for views in (1, 8):
        out = tmp_path / str(views)
        slides = [tmp_path / "upright.tif", tmp_path / "turned.tif"]
        run(slides, path, out, formats=("tiff",), tile_px=128, mpp=MPP, views=views, tissue="none")
        masks = [tifffile.imread(out / f"{name}.tif") > 0 for name in ("upright", "turned")]
        differ[views] = (np.rot90(masks[0]) != masks[1]).mean()
    assert differ[8] < 0.002
    assert differ[1] > 0.005
