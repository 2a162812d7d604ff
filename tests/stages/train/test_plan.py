"""What goes into a training is checked before any work is done."""

import pytest

from histocli.base.errors import InputNotFound, InvalidInput, InvalidOption, InvalidStore
from histocli.stages.train.plan import split_weight
from histocli.stores.models import read_model_header
from tests.stages.train.conftest import make_store, run

DRY = {"execution": {"dry_run": True}}


def test_pixel_sizes_and_patch_sizes_do_not_mix(store, tmp_path):
    other = make_store(tmp_path / "fine.zarr", 2, mpp=0.25)
    with pytest.raises(InvalidInput, match=r"0\.25 um/px.*same --mpp") as refused:
        run([store, other], tmp_path / "m.safetensors")
    assert refused.value.exit_code == 3
    larger = make_store(tmp_path / "large.zarr", 2, side=48)
    with pytest.raises(InvalidInput, match="same --patch-px"):
        run([store, larger], tmp_path / "m.safetensors")
    nearly = make_store(tmp_path / "nearly.zarr", 2, mpp=0.504)
    assert run([store, nearly], tmp_path / "m.safetensors", **DRY).status == "planned"


def test_missing_and_foreign_stores_are_refused(tmp_path):
    with pytest.raises(InputNotFound, match=r"gone\.zarr"):
        run(str(tmp_path / "gone.zarr"), tmp_path / "m.safetensors")
    (tmp_path / "foreign.zarr").mkdir()
    with pytest.raises(InvalidStore, match=r"foreign\.zarr"):
        run(str(tmp_path / "foreign.zarr"), tmp_path / "m.safetensors")


def test_one_input_that_must_not_ship_decides_for_the_model(store, tmp_path, references):
    closed = make_store(tmp_path / "closed.zarr", 2, shippable=False, origin="labelled")
    out = tmp_path / "m.safetensors"
    assert not run([store, closed], out, steps=1).shippable
    assert not read_model_header(out).shippable
    second = tmp_path / "second.safetensors"
    assert not run(store, second, init=str(out), **DRY).shippable
    more = {"refs": references, "reference_mpp": 0.5, **DRY}
    assert run(store, second, **more).shippable
    assert not run(store, second, shippable=False, **more).shippable


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.zarr", ("a.zarr", 1.0)),
        ("a.zarr:2", ("a.zarr", 2.0)),
        ("dir/a.zarr:0.5", ("dir/a.zarr", 0.5)),
        ("C:\\data\\a.zarr", ("C:\\data\\a.zarr", 1.0)),
        ("a:b.zarr", ("a:b.zarr", 1.0)),
        ("-", ("-", 1.0)),
        ("-:3", ("-", 3.0)),
        ("a:b/c.zarr", ("a:b/c.zarr", 1.0)),
    ],
)
def test_a_word_may_carry_a_share(word, expected):
    assert split_weight(word) == expected


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf"])
def test_a_share_must_be_positive(share):
    with pytest.raises(InvalidOption, match="share"):
        split_weight(f"a.zarr:{share}")
