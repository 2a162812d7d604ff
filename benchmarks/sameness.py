"""Does another state of the code make the same bytes, lines and exit codes?

    python benchmarks/sameness.py run TREE WORK          every command on small data with the code in TREE
    python benchmarks/sameness.py compare WORK_A WORK_B  what differs between two such runs; exit 1 if anything

``TREE`` is a checkout (``git worktree add ../before COMMIT`` makes one). Both runs draw the same
input, run the same command lines in one process and write down, for each of them, the exit code,
what was printed and a digest of every file that is there afterwards. Times, versions and the
folder's own path are left out, nothing else.
"""

# ruff: noqa: PLW2901 - command lines stand as a user types them
from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

VOLATILE = {
    "created", "package_version", "seconds", "trained_s", "version", "memory_mb", "rate",
    "time", "drawing_s", "waited_s", "seconds_per_patch", "began", "at", "ended", "when",
}  # fmt: skip
"""Keys of JSON that hold a time or the version of the package."""
RECORD = "sameness.json"
MPP = "0.5"

GOOD = [
    # synthesis
    "generate refs --reference-mpp 0.5 -o a.zarr --n 40 --patch-px 64 --mpp 0.5 --seed 3 --workers 2 --json",
    "generate refs --reference-mpp 0.5 -o a.zarr --n 40 --patch-px 64 --mpp 0.5 --seed 3 --json",
    "generate refs --reference-mpp 0.5 -o dry.zarr --n 40 --patch-px 64 --mpp 0.5 --dry-run --json",
    "generate refs/0.png refs/1.png -o b.zarr --n 20 --patch-px 96 --mpp 0.5 --seed 4",
    "generate refs --reference-mpp 0.5 -o broken.zarr --n 8 --patch-px 64 --mpp 0.5 --on-error continue --json more/no.png",
    "generate manifest.csv -o m.zarr --n 6 --patch-px 64 --mpp 0.5 --not-shippable --json",
    "generate slide.tif -o s.zarr --n 6 --patch-px 64 --mpp 0.5 --json",
    "generate odd -o o.zarr --n 6 --patch-px 64 --mpp 0.5 --reference-mpp 0.5 --json",
    "pack images labels -o labelled.zarr --patch-px 64 --mpp 0.5 --json",
    "pack images outlines -o outlined.zarr --patch-px 64 --json",
    "pack images labels -o dry.zarr --patch-px 64 --dry-run --json",
    # training
    "train a.zarr -o t.safetensors --steps 6 --batch 4 --crop-px 32 --device cpu --json",
    "train a.zarr -o t.safetensors --steps 6 --batch 4 --crop-px 32 --device cpu --json",
    "train a.zarr -o dry.safetensors --steps 6 --refs refs --dry-run --json",
    "train a.zarr labelled.zarr:2 -o w.safetensors --steps 4 --batch 4 --crop-px 32 --size M --targets contact --device cpu --json",
    "train a.zarr -o r.safetensors --steps 6 --batch 4 --crop-px 32 --stop-after 3 --device cpu --json",
    "train a.zarr -o r.safetensors --steps 6 --batch 4 --crop-px 32 --resume --device cpu --json",
    "train a.zarr -o h.safetensors --steps 4 --batch 4 --crop-px 32 --hard appearance --validation 0.3 --device cpu --json",
    "train a.zarr -o f.safetensors --steps 4 --batch 4 --crop-px 32 --fresh --fresh-per-step 4 --workers 1 --device cpu --json",
    "train a.zarr -o u.safetensors --steps 10 --batch 4 --crop-px 32 --refs refs --rounds 1 --preview u.png --device cpu --json",
    "train a.zarr -o k.safetensors --steps 6 --batch 4 --crop-px 32 --refs images --rounds 1 --teacher labels --init t.safetensors --device cpu --json",
    "train a.zarr -o bf.safetensors --steps 4 --batch 4 --crop-px 32 --precision bf16 --device cpu --json",
    "generate refs --reference-mpp 0.5 -o p.zarr --n 6 --patch-px 64 --mpp 0.5 --priors t.safetensors --json",
    # refinement
    "refine a.zarr --refs refs -o ref.zarr --steps 4 --batch 2 --device cpu --json",
    "refine a.zarr --refs refs -o ref.zarr --steps 4 --batch 2 --device cpu --json",
    "refine a.zarr -o dry.zarr --steps 4 --dry-run --json",
    "refine a.zarr --refs refs -o stop.zarr --steps 4 --batch 2 --stop-after 2 --no-weights --device cpu --json",
    "refine a.zarr --refs refs -o stop.zarr --steps 4 --batch 2 --no-weights --resume --device cpu --json",
    "refine a.zarr -o applied.zarr --model ref.zarr --restyle --no-weights --device cpu --json",
    "refine a.zarr -o fool.zarr --steps 3 --batch 2 --objective fooling --edits patch --no-weights --device cpu",
    "train ref.zarr -o hr.safetensors --steps 4 --batch 4 --crop-px 32 --hard refiner --validation 0.3 --device cpu --json",
    # segmentation
    "segment slide.tif --model t.safetensors -o one --format ome-zarr,tiff,geojson,parquet,csv,overlay,qc --workers 2 --device cpu --json",
    "segment slide.tif --model t.safetensors -o one --format ome-zarr,tiff --device cpu --json",
    "segment slide.tif refs/0.png --model S -o box --format ome-zarr,geojson,csv,overlay --mpp 0.25 --device cpu --json",
    "segment slide.tif --model S -o small --mpp 0.25 --tile-px 256 --max-memory 1 --precision bf16 --device cpu --json",
    "segment slide.tif --model S -o roi --mpp 0.25 --roi roi.geojson --format ome-zarr,csv --device cpu --json",
    "segment slide.tif --model S -o views --mpp 0.25 --views 2 --device cpu --json",
    "segment refs --model t.safetensors -o folder --format tiff,geojson --device cpu --json",
    "segment refs --model t.safetensors -o shards --shard 1/2 --format csv --device cpu --json",
    "segment a.zarr --model t.safetensors -o patches --format ome-zarr --device cpu --json",
    "segment pyramid.ome.tif slide.zarr --model S -o kinds --mpp 0.25 --device cpu --json",
    "segment glass.png --model S -o glass --format ome-zarr,tiff,geojson,csv,overlay,qc --device cpu --json",
    "segment refs more/no.png --model t.safetensors -o cont --format csv --on-error continue --device cpu --json",
    "export one/slide.ome.zarr -o exported --format tiff,geojson,csv,parquet,ome-zarr-0.4 --json",
    "export one/slide.ome.zarr -o exported2 --format overlay,qc --slide slide.tif --json",
    "export box/slide.ome.zarr -o region --format tiff,geojson --region 100,50,260,300 --json",
    # scores
    "evaluate box labels --json",
    "evaluate one/slide.ome.zarr slide_labels.tif --json",
    "evaluate one/slide.ome.zarr slide_labels.tif",
    "evaluate folder labels_of_refs --json --bootstrap 50",
    "evaluate folder labels_of_refs --json --min pq=0.99 --max hd95_um=0.1",
    "evaluate folder labels_of_refs --border ignore --no-boundaries --mpp 0.5 --json",
    "evaluate folder shifted --truth labels_of_refs --json",
    "evaluate folder shifted --truth labels_of_refs",
    "evaluate patches/a.labels.zarr a.zarr --json",
    "evaluate outlines labels --json --mpp 0.5",
    "evaluate --realism a.zarr --refs refs --realism-patches 12 --json --device cpu",
    "info a.zarr --json",
    "info a.zarr",
    "info a.zarr --sheet sheet.png --sheet-patches 6 --json",
    "info ref.zarr --json",
    "info t.safetensors --json",
    "info slide.tif --json",
    "info pyramid.ome.tif",
    "info slide.zarr --json",
    "info one/slide.ome.zarr --sheet overview.png --json",
    "info patches/a.labels.zarr --json",
    "models",
    "models --json",
    "train a.zarr -o x.safetensors --print-config --steps 7 --refs refs",
    "segment slide.tif -o x --print-config --config settings.yaml",
    "evaluate folder labels_of_refs --config settings.yaml --print-config",
]
BAD = [
    "generate -o x.zarr --n 2",
    "generate nothing -o x.zarr --n 2",
    "generate refs --reference-mpp 0.5 -o x.txt --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --n 0",
    "generate refs --reference-mpp 0.5 -o x.zarr --patch-px 8 --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --mpp 9 --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --seed -1 --n 2",
    "generate refs --reference-mpp 0.5 -o a.zarr --n 40 --patch-px 64 --mpp 0.5 --seed 5",
    "generate broken.png -o x.zarr --n 2",
    "generate empty.png -o x.zarr --n 2",
    "generate unknown.tif -o x.zarr --n 2",
    "generate refs --reference-mpp 0.5 -o refs --n 4",
    "generate refs --reference-mpp 0.5 -o x.zarr --resume --overwrite --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --workers many --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --device tpu --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --priors broken.png --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --config broken.yaml --n 2",
    "generate refs --reference-mpp 0.5 -o x.zarr --config unknown.yaml --n 2",
    "generate @nolist.txt -o x.zarr --n 2",
    "refine t.safetensors -o x.zarr --steps 2 --batch 2 --no-weights",
    "refine labelled.zarr -o x.zarr --steps 2 --batch 2 --no-weights",
    "refine a.zarr b.zarr -o x.zarr --steps 2 --batch 2 --no-weights",
    "refine a.zarr -o x.zarr --refs nothing --steps 2 --batch 2 --no-weights",
    "refine a.zarr -o x.zarr --model a.zarr --steps 2 --batch 2 --no-weights",
    "refine a.zarr -o x.zarr --style -7 --steps 2 --batch 2 --no-weights",
    "refine a.zarr -o x.zarr --edits all --steps 2 --batch 2 --no-weights",
    "train refs/0.png -o x.safetensors --steps 2 --batch 2 --crop-px 32",
    "train nothing.zarr -o x.safetensors --steps 2 --batch 2 --crop-px 32",
    "train a.zarr:0 -o x.safetensors --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.pt --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --size XL --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --steps 0",
    "train a.zarr -o x.safetensors --time-budget soon --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --crop-px 33 --steps 2 --batch 2",
    "train a.zarr -o x.safetensors --teacher labels --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --preview x.png --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --init broken.safetensors --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --init w.safetensors --size S --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --refs refs --teacher outlines --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o x.safetensors --hard refiner --steps 2 --batch 2 --crop-px 32",
    "train damaged.zarr -o x.safetensors --steps 2 --batch 2 --crop-px 32",
    "train a.zarr -o t.safetensors --steps 7",
    "train a.zarr m.zarr:x -o x.safetensors --steps 2 --batch 2 --crop-px 32",
    "segment slide.tif -o x --model nothing.safetensors",
    "segment slide.tif -o x --model XXL",
    "segment slide.tif -o x --model broken.safetensors",
    "segment slide.tif -o x --format jpg",
    "segment slide.tif -o x --max-memory 1M",
    "segment slide.tif -o x --max-memory 0.3",
    "segment slide.tif -o x --shard 9",
    "segment slide.tif -o x --views 3",
    "segment slide.tif -o x --roi nothing.geojson",
    "segment slide.tif -o x --roi broken.png",
    "segment nothing.svs -o x",
    "segment broken.png truncated.tif -o x --on-error continue --json",
    "segment unknown.tif -o x",
    "segment slide.tif -o broken.png",
    "export a.zarr -o x --format tiff",
    "export one/slide.ome.zarr -o x --format overlay",
    "export one/slide.ome.zarr -o x --format tiff --region 1,2,3",
    "export one/slide.ome.zarr -o x --format tiff --region 9000,0,9100,50",
    "evaluate nothing labels",
    "evaluate folder labels",
    "evaluate folder labels_of_refs --min fame=0.5",
    "evaluate folder labels_of_refs --min pq",
    "evaluate folder",
    "evaluate folder shifted",
    "evaluate folder labels_of_refs --border soft",
    "evaluate broken.png labels_of_refs/0.tif",
    "evaluate images labels",
    "evaluate float.tif labels/0.tif",
    "info nothing",
    "info broken.png",
    "info damaged.zarr",
    "info broken.safetensors",
    "pack images nothing -o x.zarr",
    "pack images labels_of_refs -o x.zarr --patch-px 64",
    "pack images labels -o x.zarr --patch-px 8",
    "models verify",
    "nonsense",
    "train --nonsense --steps 2 --batch 2 --crop-px 32",
]


def draw_inputs(work: Path) -> None:
    """Draw every input; the same bytes whatever the tree, since nothing of the package is used."""
    import cv2
    import numpy as np
    import tifffile
    import zarr

    def tissue(side: tuple[int, int], seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        labels = np.zeros(side, np.int32)
        n = 0
        for y in range(14, side[0] - 8, 26):
            for x in range(14, side[1] - 8, 26):
                if x > side[1] * 0.8 and seed % 2:
                    continue  # glass on the right
                n += 1
                centre = (x + int(rng.integers(-5, 6)), y + int(rng.integers(-5, 6)))
                axes = (int(rng.integers(6, 10)), int(rng.integers(4, 8)))
                cv2.ellipse(labels, centre, axes, float(rng.uniform(0, 180)), 0, 360, n, -1)
        soft = cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 0.8)
        grain = cv2.GaussianBlur(rng.standard_normal(side), (0, 0), 3.0)
        eosin = 0.5 * (1 + 0.15 * grain / grain.std())
        if seed % 2:
            eosin[:, int(side[1] * 0.8) :] = 0
        depth = soft[..., None] * (0.9 * np.array([0.65, 0.70, 0.29])) + eosin[
            ..., None
        ] * np.array([0.07, 0.99, 0.11])
        light = 246 * np.exp(-depth) + rng.normal(0, 2, (*side, 3))
        return np.clip(np.rint(light), 0, 255).astype(np.uint8), labels

    def renumbered(labels: Any) -> Any:
        return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.uint16)

    for folder in (
        "refs",
        "images",
        "labels",
        "outlines",
        "labels_of_refs",
        "shifted",
        "odd",
        "more",
    ):
        (work / folder).mkdir(parents=True)
    for index in range(4):
        image, labels = tissue((200, 220), index)
        Image.fromarray(image).save(work / f"refs/{index}.png", dpi=(50800, 50800))
        tifffile.imwrite(work / f"labels_of_refs/{index}.tif", renumbered(labels))
        tifffile.imwrite(work / f"shifted/{index}.tif", np.roll(renumbered(labels), 2 + index, 1))
    for index in range(3):
        image, labels = tissue((130, 110), 10 + index)
        Image.fromarray(image).save(work / f"images/{index}.png", dpi=(50800, 50800))
        tifffile.imwrite(work / f"labels/{index}.tif", renumbered(labels))
        features = []
        for number in range(1, int(labels.max()) + 1):
            found, _ = cv2.findContours(
                (labels == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            ring = [[float(x), float(y)] for x, y in found[0][:, 0]] if found else []
            if len(ring) > 3:
                features.append(
                    {
                        "type": "Feature",
                        "properties": {"objectType": "detection"},
                        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                    }
                )
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (work / f"outlines/{index}.geojson").write_text(text)
    slide, labels = tissue((620, 700), 21)
    micrometres = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(work / "slide.tif", slide, tile=(128, 128), compression="zlib", **micrometres)
    tifffile.imwrite(work / "slide_labels.tif", labels.astype(np.uint32))
    with tifffile.TiffWriter(work / "pyramid.ome.tif") as tiff:
        metadata = {
            "axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5,
            "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm",
        }  # fmt: skip
        tiff.write(slide, subifds=1, tile=(128, 128), photometric="rgb", metadata=metadata)
        tiff.write(slide[::2, ::2], subfiletype=1, tile=(128, 128), photometric="rgb")
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    ome = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [
                    {"name": "c", "type": "channel"},
                    {"name": "y", "type": "space", "unit": "micrometer"},
                    {"name": "x", "type": "space", "unit": "micrometer"},
                ],
                "datasets": [{"path": "0", "coordinateTransformations": scale}],
            }
        ],
    }
    group = zarr.create_group(work / "slide.zarr", attributes={"ome": ome})
    array = group.create_array(
        "0", shape=(3, 300, 320), chunks=(3, 128, 128), dtype="u1", dimension_names=("c", "y", "x")
    )
    array[:] = np.moveaxis(slide[:300, :320], 2, 0)
    Image.fromarray(np.full((120, 130, 3), 246, np.uint8)).save(
        work / "glass.png", dpi=(50800, 50800)
    )
    tifffile.imwrite(work / "odd/grey16.tif", (slide[:200, :200, 1].astype(np.uint16) << 8) + 9)
    planes = np.moveaxis(slide[200:400, :200], 2, 0)
    tifffile.imwrite(work / "odd/planes.tif", planes, photometric="rgb", planarconfig="separate")
    alpha = np.dstack([slide[:160, 200:400], np.full((160, 200), 200, np.uint8)])
    Image.fromarray(alpha, "RGBA").save(work / "odd/alpha.png")
    Image.fromarray(slide[100:300, 300:500]).save(work / "odd/photo.jpg", quality=90)
    Image.fromarray(slide[100:300, 300:500]).quantize(64).save(work / "odd/palette.png")
    (work / "manifest.csv").write_text("path,mpp\nrefs/0.png,0.5\nrefs/2.png,0.6\n")
    corners = [[100, 80], [420, 80], [420, 400], [100, 400], [100, 80]]
    hole = [[200, 200], [260, 200], [260, 260], [200, 260], [200, 200]]
    shape = {"type": "Polygon", "coordinates": [corners, hole]}
    (work / "roi.geojson").write_text(
        json.dumps({"type": "Feature", "properties": {}, "geometry": shape})
    )
    (work / "settings.yaml").write_text(
        "seed: 3\nsegment:\n  tile-px: 512\nevaluate:\n  min: [pq=0.5]\n"
    )
    # bad ones
    (work / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (work / "empty.png").write_bytes(b"")
    (work / "broken.safetensors").write_bytes(b"not a model at all")
    (work / "broken.yaml").write_text("a: [1, 2")
    (work / "unknown.yaml").write_text("colour: red\n")
    tifffile.imwrite(work / "unknown.tif", slide[:100, :100], tile=(64, 64))
    tifffile.imwrite(work / "float.tif", np.linspace(0, 3, 130 * 110).reshape(130, 110))
    data = (work / "slide.tif").read_bytes()
    (work / "truncated.tif").write_bytes(data[: len(data) // 2])


def damage(work: Path) -> None:
    """Copy a patch store and damage the copy."""
    if (work / "a.zarr").exists() and not (work / "damaged.zarr").exists():
        shutil.copytree(work / "a.zarr", work / "damaged.zarr")
        shutil.rmtree(work / "damaged.zarr/weight")


def without_times(value: Any) -> Any:
    """Take keys that change from run to run out of JSON values."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in VOLATILE}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def plain_text(text: str, work: Path) -> list[str]:
    """Return printed lines without times, colours and the folder's own path."""
    lines = []
    for line in text.replace(str(work), "WORK").splitlines():
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                lines.append(json.dumps(without_times(json.loads(line))))
                continue
        line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
        line = re.sub(r"\b\d+(\.\d+)? ?(s|seconds|ms|MB|GB)\b", "#s", line)
        line = re.sub(r"\b\d+:\d\d(:\d\d)?\b", "#:#", line)
        line = re.sub(r"(created|version|seconds|started) +.*", r"\1 #", line)
        lines.append(line.rstrip())
    return lines


STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
"""When something was made; of one length, so that it can be replaced in place."""
THEN = b"2000-01-01T00:00:00+00:00"


def without_stamp(model: Path) -> None:
    """Set the time in a model's header, since hashes of models go into what is made with them."""
    data = model.read_bytes()
    model.write_bytes(STAMP.sub(THEN, data))


def digest(path: Path, work: Path) -> str:
    """Return a fingerprint of a file's content, without times, versions and the folder's path."""
    data = path.read_bytes()
    name = path.name
    with contextlib.suppress(ValueError, OSError):
        if name.endswith(".gz"):
            data = gzip.decompress(data)
        elif name.endswith(".png"):
            with Image.open(path) as picture:
                data = json.dumps(picture.info, default=str).encode() + picture.tobytes()
        data = STAMP.sub(THEN, data).replace(str(work).encode(), b"WORK")
        if name.endswith(".safetensors"):
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])
            about = header.pop("__metadata__", {})
            about = {key: _parsed(value) for key, value in about.items()}
            data = json.dumps([header, without_times(about)]).encode() + data[8 + length :]
        elif name.endswith((".json", ".geojson")):
            data = json.dumps(without_times(json.loads(data))).encode()
        elif name.endswith(".jsonl"):
            rows = [json.dumps(without_times(json.loads(row))) for row in data.splitlines()]
            data = "\n".join(rows).encode()
        elif name.endswith(".html"):
            return "a page"
    return hashlib.sha256(data).hexdigest()[:16]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def digests(work: Path) -> dict[str, str]:
    """Return the fingerprint of every file beneath a folder."""
    return {
        path.relative_to(work).as_posix(): digest(path, work)
        for path in sorted(work.rglob("*"))
        if path.is_file()
        and not path.name.endswith((".lock", RECORD))
        and ".checkpoint" not in path.name
    }


def run_all(work: Path, only: str | None) -> Iterator[dict[str, Any]]:
    """Run the command lines one by one in this process; yield what each of them did."""
    from histocli.cli.app import run

    before = digests(work)
    for line in GOOD + BAD:
        if only is not None and not re.search(only, line):
            continue
        damage(work)
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(line.split())
        printed, said = (stream.buffer.getvalue().decode() for stream in (out, err))
        for model in work.glob("*.safetensors"):
            if model.name != "broken.safetensors":
                without_stamp(model)
        after = digests(work)
        made = {name: value for name, value in after.items() if before.get(name) != value}
        gone = sorted(set(before) - set(after))
        before = after
        errors = [
            text
            for text in plain_text(said, work)
            if not re.search(r"━|: \d+ of \d+ \(\d+%\)", text)
        ]
        yield {
            "line": line, "code": code, "stdout": plain_text(printed, work),
            "stderr": errors, "made": made, "gone": gone,
        }  # fmt: skip


def run_tree(tree: Path, work: Path, only: str | None) -> None:
    """Run everything with the code in a tree, in a process of its own."""
    if os.environ.get("SAMENESS_TREE") != str(tree.resolve()):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        draw_inputs(work)
        environment = os.environ | {
            "PYTHONPATH": str(tree.resolve()), "SAMENESS_TREE": str(tree.resolve()),
            "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb",
        }  # fmt: skip
        words = [sys.executable, str(Path(__file__).resolve()), "run", str(tree.resolve()), "."]
        subprocess.run(
            words + (["--only", only] if only else []), check=True, cwd=work, env=environment
        )
        return
    import histocli

    assert Path(histocli.__file__).resolve().is_relative_to(tree.resolve()), histocli.__file__
    records = []
    for record in run_all(Path.cwd(), only):
        print(record["code"], record["line"], flush=True)
        records.append(record)
        (Path.cwd() / RECORD).write_text(json.dumps(records, indent=1))
    (Path.cwd() / RECORD).write_text(json.dumps(records, indent=1))


def compare(first: Path, second: Path) -> int:
    """Print what differs between two runs; return how many command lines differ."""
    a = {record["line"]: record for record in json.loads((first / RECORD).read_text())}
    b = {record["line"]: record for record in json.loads((second / RECORD).read_text())}
    wrong = 0
    for line in [line for line in a if line in b]:
        differs = [
            key
            for key in ("code", "stdout", "stderr", "made", "gone")
            if a[line][key] != b[line][key]
        ]
        if not differs:
            continue
        wrong += 1
        print(f"\n{line}")
        for key in differs:
            left, right = a[line][key], b[line][key]
            if isinstance(left, dict):
                names = sorted(
                    name for name in left.keys() | right.keys() if left.get(name) != right.get(name)
                )
                print(f"  {key}: {len(names)} files, such as {names[:6]}")
            else:
                print(f"  {key}:\n    - {str(left)[:1500]}\n    + {str(right)[:1500]}")
    print(f"\n{len(a.keys() & b.keys())} command lines compared, {wrong} differ")
    return wrong


def main() -> None:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "compare"))
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--only", help="a regular expression: command lines to run")
    given = parser.parse_args()
    if given.what == "run":
        run_tree(given.first, given.second, given.only)
    else:
        sys.exit(bool(compare(given.first, given.second)))


if __name__ == "__main__":
    main()
