"""``segment --backend``: who may be chosen, who is chosen, what is recorded and kept."""

import importlib.util
import json

import pytest

from histocli.base.errors import InvalidOption, StoreExists
from histocli.base.files import partial_path
from histocli.cli.app import run as command_line
from histocli.model import backends
from histocli.stages.segment import backend
from histocli.stores.labels import open_labels
from tests.stages.segment.given import MPP, run, tissue, write_patches, write_png
from tests.stages.segment.in_blocks import files_of

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra 'fast' is not installed"
)


@pytest.fixture
def slide(tmp_path):
    return write_png(tmp_path / "a.png", tissue())


@pytest.fixture
def present(monkeypatch):
    """The optional package seems to be installed."""
    monkeypatch.setattr(backend, "_is_installed", lambda: True)


@pytest.fixture
def absent(monkeypatch):
    """The optional package seems not to be installed."""
    monkeypatch.setattr(backend, "_is_installed", lambda: False)


def recorded(store):
    return open_labels(store).facts["model"]["backend"]


def begun(store, name):
    """Let a finished store look as one that was begun with a backend and left."""
    partial = partial_path(store)
    store.rename(partial)
    metadata = json.loads((partial / "zarr.json").read_text())
    metadata["attributes"]["histosynth"]["model"]["backend"] = name
    metadata["attributes"]["histosynth"]["complete"] = False
    (partial / "zarr.json").write_text(json.dumps(metadata))


class TestRefusals:
    def test_a_missing_package_is_one_line_and_exit_code_2(
        self, tmp_path, slide, model, absent, capsys
    ):
        words = ["segment", slide, "--model", model, "-o", tmp_path / "out", "--mpp", MPP]
        assert command_line([*map(str, words), "--backend", "openvino"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "pip install 'histosynth[fast]'" in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"backend": "onnx"}, "torch, openvino or auto, got 'onnx'"),
            ({"backend": "openvino", "device": "cuda"}, "--device is cuda"),
            ({"backend": "openvino", "precision": "int4"}, "got 'int4'"),
            ({"precision": "int8"}, "is for --backend openvino"),
            ({"backend": "auto", "precision": "int8"}, "is for --backend openvino"),
            ({"backend": "auto", "scheduler": "tcp://a:1"}, "not the workers"),
        ],
    )
    def test_what_contradicts_itself(self, tmp_path, slide, model, present, settings, said):
        with pytest.raises(InvalidOption, match=said):
            run(slide, model, tmp_path / "out", mpp=MPP, **settings)


class TestChoice:
    def test_pytorch_is_the_default_and_recorded(self, tmp_path, slide, model, present):
        run(slide, model, tmp_path / "out", mpp=MPP)
        assert recorded(tmp_path / "out" / "a.ome.zarr") == "torch"

    def test_auto_is_pytorch_without_the_package(self, tmp_path, slide, model, absent):
        run(slide, model, tmp_path / "out", mpp=MPP, backend="auto")
        assert recorded(tmp_path / "out" / "a.ome.zarr") == "torch"

    @needs_openvino
    @pytest.mark.parametrize("faster", ["torch", "openvino-fp32"])
    def test_auto_takes_what_is_faster(self, tmp_path, slide, model, monkeypatch, faster):
        asked = []
        monkeypatch.setattr(
            backends, "fastest", lambda networks, tiles: asked.append(list(networks)) or faster
        )
        run(slide, model, tmp_path / "out", mpp=MPP, backend="auto")
        assert asked == [["torch", "openvino-fp32"]]
        assert recorded(tmp_path / "out" / "a.ome.zarr") == faster

    @needs_openvino
    @pytest.mark.parametrize(
        ("flags", "precision"), [({"amx_bf16"}, "bf16"), ({"avx512_vnni"}, "int8")]
    )
    def test_8_bits_are_for_processors_without_bfloat16(
        self, tmp_path, slide, model, monkeypatch, flags, precision
    ):
        monkeypatch.setattr("histocli.base.device.cpu_flags", lambda: frozenset(flags))
        run(slide, model, tmp_path / "out", mpp=MPP, backend="openvino", precision="auto")
        assert recorded(tmp_path / "out" / "a.ome.zarr") == f"openvino-{precision}"


@needs_openvino
class TestLabels:
    def test_in_32_bits_they_are_those_of_pytorch(self, tmp_path, slide, model):
        for name in ("torch", "openvino"):
            run(slide, model, tmp_path / name, mpp=MPP, backend=name)
        found, expected = (
            open_labels(tmp_path / name / "a.ome.zarr").labels() for name in ("openvino", "torch")
        )
        assert expected.max() > 10
        assert ((found > 0) == (expected > 0)).mean() > 0.999
        assert found.max() == expected.max()

    def test_any_number_of_workers_gives_the_same_bytes(self, tmp_path, slide, model):
        stores = []
        for workers in (1, 3):
            settings = {"backend": "openvino", "precision": "int8", "workers": workers}
            run(slide, model, tmp_path / str(workers), mpp=MPP, **settings)
            stores.append(files_of(tmp_path / str(workers) / "a.ome.zarr"))
        root = "zarr.json"  # holds the time
        assert {k: v for k, v in stores[0].items() if k != root} == {
            k: v for k, v in stores[1].items() if k != root
        }

    def test_patch_stores_too(self, tmp_path, model):
        patches = write_patches(tmp_path / "p.zarr", 3)
        (result,) = run(patches, model, tmp_path / "out", backend="openvino")
        assert recorded(result.output) == "openvino-fp32"
        assert result.nuclei


class TestGoingOn:
    @pytest.fixture
    def store(self, tmp_path, slide, model):
        run(slide, model, tmp_path / "out", mpp=MPP)
        return tmp_path / "out" / "a.ome.zarr"

    def test_what_is_finished_is_skipped_whatever_the_backend(self, store, slide, model, present):
        (result,) = run(slide, model, store.parent, mpp=MPP, backend="openvino")
        assert result.status == "skipped"
        assert recorded(store) == "torch"

    def test_auto_keeps_the_backend_of_an_unfinished_store(
        self, store, slide, model, present, monkeypatch
    ):
        monkeypatch.setattr(backends, "fastest", lambda networks, tiles: 1 / 0)
        begun(store, "torch")
        (result,) = run(slide, model, store.parent, mpp=MPP, backend="auto")
        assert (result.status, recorded(store)) == ("done", "torch")

    @needs_openvino
    def test_so_it_does_with_its_precision(self, store, slide, model):
        begun(store, "openvino-int8")
        (result,) = run(slide, model, store.parent, mpp=MPP, backend="auto", precision="auto")
        assert (result.status, recorded(store)) == ("done", "openvino-int8")

    @pytest.mark.parametrize(
        ("name", "settings", "remedy"),
        [
            ("torch", {"backend": "openvino"}, "--backend torch,"),
            ("openvino-int8", {}, "--backend openvino --precision int8,"),
            ("openvino-int8", {"backend": "openvino"}, "--precision int8,"),  # fp32 is asked for
        ],
    )
    def test_another_one_is_refused(self, store, slide, model, present, name, settings, remedy):
        begun(store, name)
        with pytest.raises(StoreExists, match=remedy) as caught:
            run(slide, model, store.parent, mpp=MPP, **settings)
        assert caught.value.exit_code == 4
        run(slide, model, store.parent, mpp=MPP, overwrite=True)
        assert recorded(store) == "torch"

    def test_in_a_batch_that_goes_on_it_fails_alone(self, store, tmp_path, slide, model):
        begun(store, "openvino-int8")
        new = write_png(tmp_path / "b.png", tissue(seed=1))
        results = run([slide, new], model, store.parent, mpp=MPP, on_error="continue")
        assert [result.status for result in results] == ["failed", "done"]
        assert "was begun with" in results[0].error

    def test_without_the_package_it_cannot_go_on(self, store, slide, model, absent):
        begun(store, "openvino-int8")
        with pytest.raises(InvalidOption, match="fast"):
            run(slide, model, store.parent, mpp=MPP, backend="auto", precision="auto")

    @needs_openvino
    def test_slides_of_one_batch_may_differ(self, store, tmp_path, slide, model):
        begun(store, "openvino-fp32")
        new = write_png(tmp_path / "b.png", tissue(seed=1))
        results = run([slide, new], model, store.parent, mpp=MPP, backend="auto")
        assert [result.status for result in results] == ["done", "done"]
        assert recorded(store) == "openvino-fp32"
