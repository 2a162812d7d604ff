"""The labels of patches read back what was written, also after an interruption."""

import numpy as np
import pytest

from histocli.base.errors import StoreExists
from histocli.stores.labels import PatchLabelsWriter, open_labels
from tests.stores.labels.writing import MPP, record


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
