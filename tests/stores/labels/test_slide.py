"""The store of a slide gives back what was written, lies over its slide; others can read it."""

import errno
import shutil
from contextlib import suppress

import ngio
import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from histocli.base.errors import OutOfResources, StoreNotFound
from histocli.base.files import partial_path
from histocli.base.pyramid import nearest_level, shrink
from histocli.stores import rerun
from histocli.stores.labels import CONTRACT, TiledLabelsWriter, open_labels
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import prepare_output
from tests.stores.labels.writing import MPP, about, example, fill, record, write, writer_of


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A slide of 2300 by 1500 pixels: several shards, an overview coarser than the slide."""
    path = tmp_path_factory.mktemp("large") / "slide.ome.zarr"
    return path, *write(path, (2300, 1500))


class TestSlides:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 700), (60, 45), (513, 512)])
    def test_reads_back_what_was_written(self, tmp_path, shape):
        image, labels, table = write(tmp_path / "s.ome.zarr", shape)
        store = open_labels(tmp_path / "s.ome.zarr")
        np.testing.assert_array_equal(store.labels(), labels)
        np.testing.assert_array_equal(store.label_image(), labels)
        assert store.labels().dtype == np.uint32
        np.testing.assert_array_equal(store.overview(), image)
        assert (store.layout, len(store), store.shape, store.mpp, store.n_nuclei) == (
            "slide",
            1,
            shape,
            MPP,
            labels.max(),
        )
        assert store.facts["mm2"] == pytest.approx(shape[0] * shape[1] * MPP**2 / 1e6)
        assert set(store.table) == set(table)
        for name, column in table.items():
            np.testing.assert_allclose(store.table[name], column)
        with pytest.raises(IndexError):
            store.label_image(1)

    def test_several_shards(self, large):
        path, image, labels, _ = large
        store = open_labels(path)
        np.testing.assert_array_equal(store.labels(), labels)
        np.testing.assert_array_equal(store.overview(), shrink(image, 2))
        root = zarr.open_group(path, mode="r")
        assert root["labels/nuclei/0"].shards == (2048, 1536)
        assert root["labels/nuclei/0"].chunks == (512, 512)
        np.testing.assert_array_equal(root["tiles_done"][:], [[1], [1]])
        assert root["tissue"].shape == (1150, 750)
        assert (root["tissue"][:] == 1).all()

    def test_nothing_found(self, tmp_path):
        image, labels, table = example((30, 30))
        empty = {name: column[:0] for name, column in table.items()}
        write(tmp_path / "s.ome.zarr", found=(image, np.zeros_like(labels), empty))
        store = open_labels(tmp_path / "s.ome.zarr")
        assert store.n_nuclei == 0
        assert store.table["box"].shape == (0, 4)

    def test_levels_show_the_nearest_pixel_and_never_a_mean(self, large):
        path, _, labels, _ = large
        store = open_labels(path)
        assert store.n_levels == 5
        for level in range(store.n_levels):
            coarse = store.labels(level)
            factor = 2**level
            assert coarse.shape == (-(-2300 // factor), -(-1500 // factor))
            assert np.isin(coarse, labels).all()
            np.testing.assert_array_equal(coarse, nearest_level(labels, factor))
        assert max(coarse.shape) <= 256

    def test_all_levels_lie_over_the_slide(self, large):
        """Every pixel's place in micrometres is the centre of the slide pixels that it stands
        for."""
        path, *_ = large
        root = zarr.open_group(path, mode="r")
        for group, first in ((root, 2), (root["labels/nuclei"], 1)):
            (multiscale,) = group.attrs["ome"]["multiscales"]
            assert [axis["unit"] for axis in multiscale["axes"][-2:]] == ["micrometer"] * 2
            for level, dataset in enumerate(multiscale["datasets"]):
                scale, translation = dataset["coordinateTransformations"]
                factor = first * 2**level
                block = np.arange(3 * factor, 4 * factor)  # slide pixels of pixel 3
                assert 3 * scale["scale"][-1] + translation["translation"][-1] == pytest.approx(
                    block.mean() * MPP
                )
                array = group[dataset["path"]]
                assert array.metadata.dimension_names == tuple(
                    axis["name"] for axis in multiscale["axes"]
                )

    def test_table_lies_over_the_labels(self, large):
        path, *_ = large
        table = open_labels(path).table
        labels = open_labels(path).labels()
        y, x = np.rint(table["y_um"] / MPP).astype(int), np.rint(table["x_um"] / MPP).astype(int)
        np.testing.assert_array_equal(labels[y, x], table["id"])

    def test_valid_for_ome_zarr_models(self, large):
        path, *_ = large
        root = zarr.open_group(path, mode="r")
        image = Image.from_zarr(root)
        assert len(image.attributes.ome.multiscales[0].datasets) == 5
        assert Labels.from_zarr(root["labels"]).attributes.ome.labels == ["nuclei"]
        assert (
            ImageLabel.from_zarr(root["labels/nuclei"]).attributes.ome.image_label.source.image
            == "../../"
        )

    def test_read_by_ngio(self, large):
        path, _, labels, _ = large
        container = ngio.open_ome_zarr_container(path)
        assert container.list_labels() == ["nuclei"]
        assert container.get_image().pixel_size.x == pytest.approx(2 * MPP)
        nuclei = container.get_label("nuclei")
        assert nuclei.pixel_size.x == pytest.approx(MPP)
        np.testing.assert_array_equal(np.squeeze(nuclei.get_as_numpy()), labels)

    def test_other_tools_may_add_labels(self, tmp_path):
        write(tmp_path / "s.ome.zarr")
        root = zarr.open_group(tmp_path / "s.ome.zarr", mode="r+")
        root["labels"].create_array("mine", data=np.zeros((4, 4), np.uint8))
        root["labels"].attrs["ome"] = {"version": "0.5", "labels": ["nuclei", "mine"]}
        assert open_labels(tmp_path / "s.ome.zarr").n_nuclei == 30


class TestWriting:
    def test_a_full_disk_leaves_the_earlier_store(self, tmp_path, monkeypatch):
        path = tmp_path / "s.ome.zarr"
        _, labels, _ = write(path)

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "__setitem__", full)
            with pytest.raises(OutOfResources, match="free some space"):
                write(path, provenance=record("new"))
        np.testing.assert_array_equal(open_labels(path).labels(), labels)
        write(path, provenance=record("new"))
        assert [file.name for file in tmp_path.iterdir()] == ["s.ome.zarr"]

    def test_where_nothing_was_found_nothing_is_kept(self, tmp_path):
        image, labels, table = example((30, 30))
        with writer_of(tmp_path / "s.ome.zarr", image, **about()) as writer:
            assert partial_path(tmp_path / "s.ome.zarr").exists()
            fill(writer, labels, table)
        assert list(tmp_path.iterdir()) == []

    def test_what_was_found_is_kept_and_taken_up(self, tmp_path):
        image, labels, table = example((60, 45))
        path = tmp_path / "s.ome.zarr"
        with writer_of(path, image, **about()) as writer:
            writer.save_found(3, {"ids": np.arange(3)})
            writer.save_found(1003, {"ids": np.arange(4)}, "settled")
        with pytest.raises(StoreNotFound, match="not finished"):
            open_labels(path)
        assert (
            prepare_output(path, contract=CONTRACT, config_hash="abc", resume=True, overwrite=False)
            == "resume"
        )
        settings = about() | {"look": lambda factor: pytest.fail("looked again")}
        with TiledLabelsWriter(path, shape=(60, 45), **settings) as writer:
            assert writer.has_found(3)
            assert not writer.has_found(1003)
            assert list(writer.load_found(3)["ids"]) == [0, 1, 2]
            assert list(writer.load_found(1003, "settled")["ids"]) == [0, 1, 2, 3]
            fill(writer, labels, table)
            writer.finish()
        np.testing.assert_array_equal(open_labels(path).labels(), labels)
        assert [file.name for file in tmp_path.iterdir()] == ["s.ome.zarr"]

    def test_what_was_begun_with_other_settings_is_begun_anew(self, tmp_path):
        image, _, _ = example((60, 45))
        path = tmp_path / "s.ome.zarr"
        with writer_of(path, image, **about()) as writer:
            writer.save_found(3, {"ids": np.arange(3)})
        with writer_of(path, image, **(about() | {"provenance": record("other")})) as writer:
            assert not writer.has_found(3)

    def test_a_store_can_stay_hidden_until_it_is_discarded(self, tmp_path):
        image, labels, table = example((60, 45))
        with writer_of(tmp_path / "s.ome.zarr", image, **about()) as writer:
            fill(writer, labels, table)
            hidden = writer.finish(keep_hidden=True)
            np.testing.assert_array_equal(open_labels(hidden).labels(), labels)
            writer.discard()
        assert list(tmp_path.iterdir()) == []

    def test_a_store_that_was_discarded_in_part_is_begun_anew(self, tmp_path, monkeypatch):
        image, labels, table = example((60, 45))
        path = tmp_path / "s.ome.zarr"

        def refused(folder):
            # Some folders are removed before the disk refuses, as a kill would leave it.
            if folder.name == "tissue":
                raise OSError(errno.EIO, "refused", str(folder))
            shutil.rmtree(folder)

        monkeypatch.setattr(rerun, "remove_folder", refused)
        with suppress(OutOfResources, OSError), writer_of(path, image, **about()) as writer:
            writer.discard()
        monkeypatch.undo()
        with writer_of(path, image, **about()) as writer:  # as --resume does
            fill(writer, labels, table)
            writer.finish()
        np.testing.assert_array_equal(open_labels(path).labels(), labels)

    def test_same_input_same_bytes(self, tmp_path):
        stores = [tmp_path / name / "s.ome.zarr" for name in "ab"]
        for store in stores:
            store.parent.mkdir()
            write(
                store,
                provenance=Provenance(
                    contract=CONTRACT, command="segment", config={}, config_hash="x", created="2026"
                ),
            )
        files = [
            sorted(file.relative_to(store) for file in store.rglob("*") if file.is_file())
            for store in stores
        ]
        assert files[0] == files[1]
        for file in files[0]:
            assert (stores[0] / file).read_bytes() == (stores[1] / file).read_bytes(), file
