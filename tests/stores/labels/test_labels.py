"""Label stores read back what was written, lie over their slide, are valid for other tools, and
refuse what is damaged."""

import errno
import json
import shutil

import ngio
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image, ImageLabel, Labels
from scipy import ndimage

from histocli.base import files
from histocli.base.errors import InvalidStore, OutOfResources, StoreExists, StoreNotFound
from histocli.base.files import partial_path
from histocli.base.pyramid import nearest_level, shrink
from histocli.stores.labels import (
    CONTRACT,
    PatchLabelsWriter,
    TiledLabelsWriter,
    layout,
    open_labels,
    overview_factor,
)
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import prepare_output
from tests.stores.labels.writing import fill, write_slide_labels, writer_of

MPP = 0.5


@pytest.fixture(autouse=True, scope="module")
def quick_disk():
    """No test pulls the plug, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "sync_file", lambda path: None)
        yield


def record(config_hash: str = "abc") -> Provenance:
    return Provenance(contract=CONTRACT, command="segment", config={}, config_hash=config_hash)


def example(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Squares of 6 pixels every 10 pixels, dark on white."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels, n = ndimage.label((y % 10 < 6) & (x % 10 < 6))
    image = np.where(labels[..., None] > 0, [90, 40, 140], [245, 245, 245]).astype(np.uint8)
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, n + 1))).reshape(-1, 2)
    table = {
        "id": np.arange(1, n + 1),
        "y_um": centres[:, 0] * MPP,
        "x_um": centres[:, 1] * MPP,
        "box": np.array(
            [(r.start, c.start, r.stop, c.stop) for r, c in ndimage.find_objects(labels)]
        ).reshape(-1, 4),
        "area_um2": np.bincount(labels.ravel(), minlength=n + 1)[1:] * MPP**2,
        "probability": np.full(n, 0.75),
    }
    return image, labels, table


def about():
    return {
        "mpp": MPP,
        "mpp_source": "given",
        "source": {"name": "slide.svs", "sha256": "0" * 64},
        "model": {"name": "m.safetensors", "sha256": "1" * 64},
        "provenance": record(),
    }


def write(path, shape=(60, 45), found=None, **changes):
    image, labels, table = example(shape) if found is None else found
    write_slide_labels(path, image, labels, table, **(about() | changes))
    return image, labels, table


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


class TestOverview:
    @given(st.integers(1, 200_000), st.floats(0.05, 5))
    def test_fine_enough_and_no_smaller_than_useful(self, side, mpp):
        factor = overview_factor((side, side // 2 + 1), mpp)
        assert factor * mpp <= layout.OVERVIEW_MPP
        assert factor == 1 or side / factor >= layout.OVERVIEW_PX
        larger = 2 * factor
        assert larger * mpp > layout.OVERVIEW_MPP or side / larger < layout.OVERVIEW_PX

    @given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]))
    def test_shrinking_averages_blocks(self, height, width, factor):
        image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        small = shrink(image, factor)
        assert small.shape == (-(-height // factor), -(-width // factor), 3)
        for y, x in ((0, 0), (small.shape[0] - 1, small.shape[1] - 1)):
            rows = np.minimum(np.arange(y * factor, (y + 1) * factor), height - 1)
            columns = np.minimum(np.arange(x * factor, (x + 1) * factor), width - 1)
            np.testing.assert_allclose(
                small[y, x], image[rows][:, columns].mean(axis=(0, 1)), atol=1
            )


class TestRefusals:
    def check(self, path, match):
        with pytest.raises(InvalidStore, match=match) as caught:
            open_labels(path)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "s.ome.zarr"
        write(path)
        return path

    def change(self, path, **facts):
        file = path / "zarr.json"
        metadata = json.loads(file.read_text())
        metadata["attributes"]["histosynth"].update(facts)
        file.write_text(json.dumps(metadata))

    def test_missing(self, tmp_path):
        with pytest.raises(StoreNotFound):
            open_labels(tmp_path / "none.ome.zarr")

    @pytest.mark.parametrize(
        ("facts", "match"),
        [
            ({"contract": "histosynth-patches/1"}, "histosynth-labels/1 is needed"),
            ({"contract": "histosynth-labels/99"}, "another version"),
            ({"complete": False}, "not complete"),
            ({"layout": "spiral"}, "layout"),
            ({"mpp": None}, "mpp"),
            ({"n_nuclei": -3}, "n_nuclei"),
            ({"n_nuclei": 5}, "30 rows for 5"),
            ({"files": None}, "files"),
        ],
    )
    def test_attributes_that_break_the_contract(self, path, facts, match):
        self.change(path, **facts)
        self.check(path, match)

    def test_foreign(self, tmp_path):
        zarr.open_group(tmp_path / "foreign.zarr", mode="w")
        self.check(tmp_path / "foreign.zarr", "only stores that histosynth wrote")

    def test_truncated_and_missing_chunks(self, path):
        chunk = next(
            file for file in (path / "labels" / "nuclei" / "0" / "c").rglob("*") if file.is_file()
        )
        content = chunk.read_bytes()
        chunk.write_bytes(content[: len(content) // 2])
        self.check(path, "missing or truncated")
        chunk.unlink()
        self.check(path, "missing or truncated")

    def test_garbled_chunk(self, path):
        chunk = next(
            file for file in (path / "labels" / "nuclei" / "0" / "c").rglob("*") if file.is_file()
        )
        chunk.write_bytes(b"x" * chunk.stat().st_size)
        with pytest.raises(InvalidStore, match="cannot be read"):
            open_labels(path).labels()

    @pytest.mark.parametrize(
        "name", ["labels/nuclei", "tables/nuclei/area_um2", "labels/nuclei/0/zarr.json"]
    )
    def test_missing_arrays(self, path, name):
        gone = path / name
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink()
        self.check(path, name.removesuffix("/zarr.json"))

    def test_labels_of_another_type(self, path):
        file = path / "labels" / "nuclei" / "0" / "zarr.json"
        file.write_text(file.read_text().replace('"uint32"', '"int32"', 1))
        self.check(path, "uint32")


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

    @given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16, 64]))
    def test_nearest_pixel_of_each_block(self, height, width, factor):
        labels = np.arange(height * width).reshape(height, width)
        coarse = nearest_level(labels, factor)
        rows, columns = (
            np.minimum(np.arange(0, side, factor) + factor // 2, side - 1)
            for side in (height, width)
        )
        np.testing.assert_array_equal(coarse, labels[rows][:, columns])

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


class TestPatches:
    def writer(self, path, n=70, config_hash="abc"):
        return PatchLabelsWriter(
            path,
            n=n,
            shape=(16, 20),
            mpp=MPP,
            source={"name": "p"},
            model={"name": "m"},
            provenance=record(config_hash),
        )

    @staticmethod
    def labels_of(batch):
        return np.stack([np.full((16, 20), index % 3, np.int32) for index in batch])

    def test_reads_back_what_was_written(self, tmp_path):
        with self.writer(tmp_path / "p.labels.zarr") as writer:
            assert [len(batch) for batch in writer.pending()] == [32, 32, 6]
            for batch in reversed(writer.pending()):
                writer.write(batch, self.labels_of(batch))
            assert writer.finish() == sum(index % 3 for index in range(70))
        store = open_labels(tmp_path / "p.labels.zarr")
        assert (store.layout, len(store), store.shape, store.n_levels) == (
            "patches",
            70,
            (16, 20),
            1,
        )
        np.testing.assert_array_equal(store.labels(), self.labels_of(range(70)))
        np.testing.assert_array_equal(store.label_image(5), np.full((16, 20), 2))
        assert store.table == {}
        assert store.n_nuclei == sum(index % 3 for index in range(70))

    def test_what_was_written_before_an_interruption_is_kept(self, tmp_path):
        path = tmp_path / "p.labels.zarr"
        with self.writer(path) as writer:
            writer.write(writer.pending()[1], self.labels_of(range(32, 64)))
        assert not path.exists()
        with self.writer(path) as writer:
            assert writer.pending() == [range(0, 32), range(64, 70)]
            for batch in writer.pending():
                writer.write(batch, self.labels_of(batch))
            writer.finish()
        np.testing.assert_array_equal(open_labels(path).labels(), self.labels_of(range(70)))

    def test_other_settings_begin_anew(self, tmp_path):
        path = tmp_path / "p.labels.zarr"
        with self.writer(path) as writer:
            writer.write(writer.pending()[0], self.labels_of(range(32)))
        with self.writer(path, config_hash="other") as writer:
            assert len(writer.pending()) == 3

    def test_two_processes_do_not_write_one_store(self, tmp_path):
        with (
            self.writer(tmp_path / "p.labels.zarr"),
            pytest.raises(StoreExists, match="another process"),
        ):
            self.writer(tmp_path / "p.labels.zarr")

    def test_one_patch(self, tmp_path):
        with self.writer(tmp_path / "p.labels.zarr", n=1) as writer:
            writer.write(range(1), self.labels_of(range(1)))
            writer.finish()
        assert len(open_labels(tmp_path / "p.labels.zarr")) == 1
