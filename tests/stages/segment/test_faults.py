"""What can go wrong with a slide, a disk and a process: nothing is half-valid, nothing finished is
lost, nothing is believed blindly."""

import errno
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from histocli.base.errors import (
    HistosynthError,
    InputNotFound,
    OutOfResources,
    StoreExists,
    UnsupportedSlide,
)
from histocli.inference import windows
from histocli.slides.open import open_slide
from histocli.slides.slide import shape_of
from histocli.stores import rerun
from histocli.stores.labels import open_labels
from histocli.stores.rerun import OutputLock
from tests.stages.segment.in_blocks import SMALL, blobs, files_of, make, write_slide

KILLS = 12


def kill_again_and_again(folder: Path) -> None:
    """Fork a run, kill it at a random moment, look at what it left; at last let one end. Runs in a
    process without threads."""
    for module, name, value in SMALL:
        setattr(module, name, value)
    rng = random.Random(0)
    slide, target = folder / "s.tif", folder / "killed" / "s.ome.zarr"
    kills = early = 0
    longest = 0.3
    while kills < KILLS:
        child = os.fork()
        if child == 0:
            make(slide, target, block=1)
            os._exit(0)
        time.sleep(rng.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        if target.exists():  # whole, or it would not be here
            open_labels(target)
            rerun._remove(target)
            early += 1
        longest = min(longest * 1.2, 1.5)
    child = os.fork()
    if child == 0:
        make(slide, target)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    sys.stdout.write(json.dumps({"kills": kills, "finished": early}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_at_random_moments_it_is_completed_to_the_same_bytes(tmp_path, small):
    slide = write_slide(tmp_path / "s.tif", blobs((300, 410), 3))
    make(slide, tmp_path / "whole" / "s.ome.zarr")
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-m", "tests.stages.segment.test_faults", str(tmp_path)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["kills"] == KILLS
    assert files_of(tmp_path / "killed" / "s.ome.zarr") == files_of(
        tmp_path / "whole" / "s.ome.zarr"
    )
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["s.ome.zarr"]


@pytest.mark.parametrize("after", [0, 1, 5, 12])
def test_a_full_disk_leaves_work_that_goes_on(tmp_path, small, monkeypatch, after):
    slide = write_slide(tmp_path / "s.tif", blobs((300, 310), 3))
    make(slide, tmp_path / "whole" / "s.ome.zarr")
    replace, count = os.replace, iter(range(10**6))

    def full(*arguments, **named):
        if next(count) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(*arguments, **named)

    target = tmp_path / "out" / "s.ome.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises((OutOfResources, OSError), match="space"):
            make(slide, target)
    assert not target.exists()
    make(slide, target)
    assert files_of(target) == files_of(tmp_path / "whole" / "s.ome.zarr")


def test_two_runs_do_not_write_one_store(tmp_path):
    slide = write_slide(tmp_path / "s.tif", blobs((100, 110)))
    with OutputLock(tmp_path / "s.ome.zarr"), pytest.raises(StoreExists, match="another process"):
        make(slide, tmp_path / "s.ome.zarr")


def test_a_corrupt_tile_is_named_and_what_was_found_before_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_PX", 96)
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path,
        blobs((300, 310), 3),
        photometric="rgb",
        tile=(64, 64),
        compression="zlib",
        resolution=(2e4, 2e4),
        resolutionunit=3,
    )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        place, size = page.dataoffsets[-1], page.databytecounts[-1]
    content = bytearray(path.read_bytes())
    right = bytes(content)
    # a corner tile: only the last block needs it, so the overview is made first and must not hide
    # the damage
    content[place : place + size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(UnsupportedSlide, match=r"rows .* columns .* cannot be decoded"):
        make(path, tmp_path / "out" / "s.ome.zarr", block=1)
    assert not (tmp_path / "out" / "s.ome.zarr").exists()
    path.write_bytes(right)
    make(path, tmp_path / "out" / "s.ome.zarr", block=1)
    make(path, tmp_path / "whole" / "s.ome.zarr")
    assert files_of(tmp_path / "out" / "s.ome.zarr") == files_of(tmp_path / "whole" / "s.ome.zarr")


def test_a_file_that_became_shorter_while_it_was_read(tmp_path):
    path = write_slide(tmp_path / "s.tif", blobs((300, 310)))
    slide = open_slide(path)
    try:
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(UnsupportedSlide, match="shorter"):
            slide.read(0, slice(0, 300), slice(0, 310))
    finally:
        slide.close()


def test_a_file_that_vanished(tmp_path):
    with pytest.raises(InputNotFound):
        open_slide(tmp_path / "gone.tif", mpp=0.5)


def limited(function) -> float:
    """Run with little memory; return the seconds it took."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    start = time.perf_counter()
    try:
        function()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return time.perf_counter() - start


def refuse(path: Path) -> None:
    """Open and read a corner; anything but an error of ours, or honest pixels, is a failure."""
    try:
        slide = open_slide(path, mpp=0.5)
    except HistosynthError:
        return
    try:
        height, width = shape_of(slide)
        slide.read(0, slice(0, min(height, 64)), slice(0, min(width, 64)))
    except HistosynthError:
        pass
    finally:
        slide.close()


linux = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does"
)


@linux
@pytest.mark.parametrize(
    ("tag", "value"),
    [(256, 2**31 - 1), (257, 2**31 - 1), (322, 2**30), (323, 2**30), (277, 60000), (258, 64)],
    ids=["width", "length", "tile width", "tile length", "samples", "bits"],
)
def test_declared_sizes_are_not_believed(tmp_path, tag, value):
    path = write_slide(tmp_path / "s.tif", blobs((200, 210)))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        found = tiff.pages.first.tags[tag]
        with path.open("r+b") as stream:
            stream.seek(found.valueoffset)
            stream.write(
                struct.pack(
                    "<I" if found.dtype == 4 else "<H",
                    value & (2**32 - 1 if found.dtype == 4 else 2**16 - 1),
                )
            )
    assert limited(lambda: refuse(path)) < 10


@linux
def test_a_circle_of_directories_ends(tmp_path):
    path = write_slide(tmp_path / "s.tif", blobs((200, 210)))
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    path.write_bytes(content)
    assert limited(lambda: refuse(path)) < 10


@linux
@pytest.mark.parametrize("kind", ["tif", "svs-like", "zarr"])
def test_damaged_anywhere_it_is_refused_or_read(tmp_path, kind):
    rng = np.random.default_rng(0)
    if kind == "zarr":
        zarr.save_array(tmp_path / "good.zarr", blobs((80, 90)))
        content = (tmp_path / "good.zarr" / "zarr.json").read_bytes()
    else:
        path = tmp_path / "good.tif"
        more = (
            {"compression": "jpeg", "description": "Aperio Image Library |MPP = 0.5"}
            if kind == "svs-like"
            else {}
        )
        tifffile.imwrite(path, blobs((80, 90)), photometric="rgb", tile=(32, 32), **more)
        content = path.read_bytes()
    for number in range(60):
        damaged = bytearray(content)
        for place in rng.integers(
            0, len(content) if number % 2 else min(len(content), 300), rng.integers(1, 6)
        ):
            damaged[place] = rng.integers(0, 256)
        if number % 7 == 0:
            damaged = damaged[: rng.integers(8, len(damaged))]
        if kind == "zarr":
            path = tmp_path / "good.zarr"
            (path / "zarr.json").write_bytes(damaged)
        else:
            path = tmp_path / f"{number}.tif"
            path.write_bytes(damaged)
        assert limited(lambda path=path: refuse(path)) < 10


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**40, 2**40, 3]},
        {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**20, 2**20, 3]}},
            "shape": [2**19, 2**19, 3],
        },
        {"codecs": [{"name": "no-such-codec", "configuration": {}}]},
        {"shape": [-5, 10, 3]},
    ],
    ids=["shape", "chunk", "codec", "negative"],
)
def test_hostile_zarr_metadata(tmp_path, change):
    zarr.save_array(tmp_path / "a.zarr", blobs((80, 90)))
    file = tmp_path / "a.zarr" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UnsupportedSlide):
        open_slide(tmp_path / "a.zarr", mpp=0.5).read(0, slice(0, 8), slice(0, 8))


@pytest.mark.parametrize("name", ["../secret.zarr", "/etc", "a/../../secret.zarr"])
def test_paths_that_lead_out_of_a_store_are_not_followed(tmp_path, name):
    zarr.save_array(tmp_path / "secret.zarr", blobs((80, 90)))
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    axes = [{"name": axis, "type": "space"} for axis in "yx"] + [{"name": "c", "type": "channel"}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": name}]}],
    }
    with pytest.raises(UnsupportedSlide, match="leads out"):
        open_slide(tmp_path / "a.zarr", mpp=0.5)


if __name__ == "__main__":
    kill_again_and_again(Path(sys.argv[1]))
