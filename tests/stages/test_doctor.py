"""The examination finds what is broken, says what to do, and leaves nothing behind."""

import os
import re
import shutil
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest

from histocli.stages import doctor as module
from histocli.stages.doctor import EXTRAS, MODULES, Finding, doctor, measure_writing

ROOT = Path(__file__).parents[2]
DISK = namedtuple("DISK", "total used free")


def named(result, name) -> Finding:
    (finding,) = (each for each in result.findings if each.name == name)
    return finding


def test_this_machine_is_usable_and_stays_clean(tmp_path):
    result = doctor(tmp_path)
    assert result.usable
    assert {finding.group for finding in result.findings} == {
        "Installation",
        "Models",
        "Devices",
        "Readers",
        "Memory",
        "Disk",
    }
    for finding in result.findings:
        assert finding.found
        assert finding.advice or finding.verdict in ("ok", "note"), finding
    assert list(tmp_path.iterdir()) == []
    assert result.to_json()["findings"][0]["verdict"] == "ok"


def test_the_packages_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=~!\[ ]", each)[0] for each in project["dependencies"]}
    # the command line needs the first two to say anything; the last has no module of its own
    assert set(MODULES) == names - {"typer", "rich", "openslide-bin"}
    for package, (extra, _) in EXTRAS.items():
        listed = project["optional-dependencies"][extra]
        assert any(each.startswith(package) for each in listed)


def test_a_package_that_cannot_be_loaded_is_broken(tmp_path, monkeypatch):
    found = __import__("importlib").import_module

    def load(name):
        if name == "openslide":
            raise OSError("libopenslide.so.1: cannot open shared object file")
        return found(name)

    monkeypatch.setattr(module.importlib, "import_module", load)
    result = doctor(tmp_path)
    finding = named(result, "openslide-python")
    assert finding.verdict == "broken"
    assert "libopenslide.so.1" in finding.found
    assert "pip install" in finding.advice
    assert not result.usable


def test_a_package_of_another_version_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.metadata, "requires", lambda name: ["zarr<3", "numpy>=1"])
    result = doctor(tmp_path)
    assert named(result, "zarr").verdict == "warning"
    assert named(result, "zarr").advice == "pip install 'zarr<3'"
    assert named(result, "numpy").verdict == "ok"
    assert result.usable


def test_a_reader_that_fails_is_broken_and_the_others_are_still_tried(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("no codec")

    monkeypatch.setattr(module, "_read_tiff", fail)
    readers = [each for each in doctor(tmp_path).findings if each.group == "Readers"]
    assert [each.verdict for each in readers] == ["broken", "ok", "ok", "ok"]
    assert "no codec" in readers[0].found


def test_a_part_that_fails_is_broken(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("driver\nlost")
        yield

    monkeypatch.setattr(module, "_devices", fail)
    (finding,) = (each for each in doctor(tmp_path).findings if each.group == "Devices")
    assert finding.verdict == "broken"
    assert "driver lost" in finding.found


def test_damaged_weights_are_found(tmp_path, monkeypatch):
    from histocli.stores import box

    copy = tmp_path / "weights"
    shutil.copytree(box.WEIGHTS, copy)
    monkeypatch.setattr(box, "WEIGHTS", copy)
    name = box.find_box_model().name
    with box.find_box_model().path.open("ab") as stream:
        stream.write(b"x")
    assert named(doctor(tmp_path), name).verdict == "broken"


@pytest.mark.parametrize(("free_gb", "verdict"), [(100.0, "ok"), (5.0, "warning"), (0.1, "broken")])
def test_space_is_judged(tmp_path, monkeypatch, free_gb, verdict):
    disk = DISK(1e12, 0, free_gb * 1e9)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: disk)
    finding = named(doctor(tmp_path), "space for outputs")
    assert finding.verdict == verdict
    assert ("-o/--out" in finding.advice) == (verdict != "ok")


@pytest.mark.parametrize(("free_gb", "verdict"), [(9, "ok"), (2, "warning"), (0.3, "broken")])
def test_memory_is_that_which_the_container_grants(tmp_path, monkeypatch, free_gb, verdict):
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{int(10e9)}\n")
    (tmp_path / "memory.current").write_text(f"{int((10 - free_gb) * 1e9)}\n")
    monkeypatch.setattr("psutil.virtual_memory", lambda: Free)
    finding = named(doctor(tmp_path), "memory")
    assert finding.verdict == verdict
    assert "limited to 10.0 GB" in finding.found
    assert ("--max-memory" in finding.advice) == (verdict != "ok")


class Free:
    """A machine with much more memory than its container."""

    available, total = 60e9, 64e9


@pytest.mark.parametrize(
    ("flags", "bf16", "int8"),
    [
        ({"avx512_bf16", "avx512_vnni"}, "ok", "ok"),
        ({"amx_bf16", "amx_int8"}, "ok", "ok"),
        ({"avx2", "avx_vnni"}, "note", "ok"),
        (set(), "note", "note"),
    ],
)
def test_number_formats_follow_the_processor(tmp_path, monkeypatch, flags, bf16, int8):
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset(flags))
    result = doctor(tmp_path)
    assert named(result, "bfloat16 on the CPU").verdict == bf16
    assert named(result, "int8 on the CPU").verdict == int8
    assert result.usable


@pytest.mark.parametrize(
    ("driver", "built", "verdict", "advice"),
    [
        (False, None, "note", "CPU"),
        (True, None, "warning", "with CUDA"),
        (True, "12.8", "warning", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_is_not_used_is_explained(tmp_path, monkeypatch, driver, built, verdict, advice):
    import torch

    monkeypatch.setattr(module, "NVIDIA", tmp_path if driver else tmp_path / "none")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", built)
    finding = named(doctor(tmp_path), "GPU")
    assert finding.verdict == verdict
    assert advice in finding.advice


def test_a_folder_that_cannot_be_written_to_is_broken(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "measure_writing", refuse)
    finding = named(doctor(tmp_path), "writing")
    assert finding.verdict == "broken"
    assert "Permission denied" in finding.found


def test_a_slow_disk_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure_writing", lambda folder: (200.0, 9.0))
    assert named(doctor(tmp_path), "writing").verdict == "warning"


def test_a_folder_to_be_made_is_examined_where_it_will_be(tmp_path):
    assert doctor(tmp_path / "new" / "out").output == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_speed_is_measured_on_what_is_written(tmp_path):
    megabytes, files = measure_writing(tmp_path)
    assert megabytes > 0
    assert files > 0
    assert os.listdir(tmp_path) == []
