"""Feed damaged files and odd words to the readers and the command line.

    python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--only geojson,xml,...] [--found FOLDER]

Each input is a valid file with a few random changes: bytes flipped, cut out, repeated or truncated,
numbers and names replaced by extreme ones. Allowed are a result, and an error of ours, which is one
line. Anything else is a finding, and is kept in ``--found``: another exception, exit code 1, more
than ``SECONDS`` for one input, or more than ``--memory`` gigabytes. What was found has become a
test beside the code that it broke. Printed is a line for each kind of input.
"""

import argparse
import io
import json
import logging
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
import zarr
from scipy.io import savemat

from histocli.annotations.sources import LabelFinder
from histocli.base.errors import HistosynthError
from histocli.cli.app import run as command_line
from histocli.slides.open import open_slide, read_image

SECONDS = 20
"""Longest time for one input; a machine that is busy otherwise needs some reserve."""
TOKENS = (
    *(b"NaN", b"-1", b"0", b"1e400", b"-1e308", b"99999999999999999999", b"null", b"true"),
    *(b"[", b"]", b"{", b"}", b'"', b"<", b">", b"&amp;", b"\xff", b"\xef\xbb\xbf", b"\0", b"\n"),
    *(b"Polygon", b"nuclei", b"../x", b"\xe2\x80\xae", b"inf", b"1,5", b"65535", b"4294967295"),
)


class Kind(NamedTuple):
    """A kind of input: the name of its file, valid contents, and what reads it."""

    suffix: str
    valid: list[bytes]
    read: Callable[[Path], None]
    share: float
    """Share of all inputs."""


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content with one to six random changes."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 7))):
        if not data:
            return bytes(data)
        at = int(rng.integers(len(data)))
        length = int(rng.integers(1, 1 + min(64, len(data))))
        match int(rng.integers(7)):
            case 0:
                data[at] = int(rng.integers(256))
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[at:]
            case 5:
                token = TOKENS[int(rng.integers(len(TOKENS)))]
                data[at : at + int(rng.integers(len(token) + 1))] = token
            case 6:
                other = int(rng.integers(len(data)))
                data[at : at + length] = data[other : other + length]
    return bytes(data)


find_labels = LabelFinder(own_store=lambda path, prefix: None, recorded_mpp=lambda path: None).find


def read_labels(path: Path) -> None:
    """Open all label images of a file and draw them."""
    for source in list(find_labels(str(path)).values())[:3]:
        source.open().on((32, 32)).whole()


def read_slide(path: Path) -> None:
    """Read an image, its pixel size and a region."""
    read_image(path, mpp=0.5)
    slide = open_slide(path)
    height, width = slide.levels[0].shape
    slide.read(0, slice(0, min(height, 16)), slice(0, min(width, 16)))
    slide.close()


def read_words(path: Path) -> None:
    """Run a command line, one word a line; exit code 1 is a finding."""
    words = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    heard = io.StringIO()
    with redirect_stdout(heard), redirect_stderr(heard):
        code = command_line([*words, "--dry-run"])
    if code == 1 or "Traceback" in heard.getvalue():
        raise AssertionError(f"exit code {code}: {heard.getvalue()[-400:]}")


def contents_of_files(folder: Path) -> dict[str, Kind]:
    """Return the kinds of input with their valid contents."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 20, 3), np.uint8)
    labels = np.kron(np.arange(6).reshape(2, 3), np.ones((8, 6), int)).astype(np.uint16)

    def made(name: str, write: Callable[[Path], object]) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    ring = [[1, 1], [9.5, 1], [9, 9], [1, 8], [1, 1]]
    polygon = {"type": "Polygon", "coordinates": [ring, [[3, 3], [5, 3], [5, 5], [3, 3]]]}
    feature = {
        "type": "Feature",
        "geometry": polygon,
        "nucleusGeometry": polygon,
        "properties": {"objectType": "cell", "classification": {"name": "Tumor"}},
    }
    geojson = [
        json.dumps({"type": "FeatureCollection", "features": [feature, feature]}).encode(),
        json.dumps({"type": "GeometryCollection", "geometries": [polygon]}).encode(),
    ]
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
    xml = (
        '<?xml version="1.0"?><Annotations MicronsPerPixel="0.25"><Annotation Id="1"><Regions>'
        f'<Region Id="1" NegativeROA="0"><Vertices>{vertices}</Vertices></Region>'
        "</Regions></Annotation></Annotations>"
    ).encode()
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 20}],
        "annotations": [
            {"id": 1, "image_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {"id": 2, "image_id": 1, "segmentation": {"size": [24, 20], "counts": [100, 20, 360]}},
            {"id": 3, "image_id": 1, "segmentation": {"size": [24, 20], "counts": "T3d0\\;"}},
        ],
    }
    where = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    aperio = "Aperio Image Library v11\n24x20 [0,0 20x24] |AppMag = 40|MPP = 0.25"
    tiffs = [
        made("a.tif", lambda p: tifffile.imwrite(p, pixels, photometric="rgb", **where)),
        made("b.tif", lambda p: tifffile.imwrite(p, pixels, photometric="rgb", tile=(16, 16),
                                                 description=aperio)),
        made("c.ome.tif", lambda p: tifffile.imwrite(p, pixels, photometric="rgb", ome=True,
                                                     metadata={"PhysicalSizeX": 0.25})),
        made("d.tif", lambda p: tifffile.imwrite(p, pixels, photometric="rgb",
                                                 compression="deflate")),
    ]  # fmt: skip
    pictures = [
        bytes(imagecodecs.png_encode(pixels)),
        bytes(imagecodecs.jpeg8_encode(pixels)),
        bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels[..., 0]))),
    ]
    label_files = [
        made("l.npy", lambda p: np.save(p, labels)),
        made("m.npy", lambda p: np.save(p, labels[None, ..., None])),
    ]
    words = [
        b"segment\na.png\n-o\nout\n--mpp\n0.25",
        b"generate\nrefs\n-o\nx.zarr\n--n\n4\n--seed\n1",
        b"train\nx.zarr\n-o\nm.safetensors\n--steps\n2\n--size\nS",
        b"evaluate\na.png\nb.png\n--min\npq=0.5",
        b"pack\na.png\nb.png\n-o\ny.zarr",
        b"export\na.zarr\n--format\ntiff",
        b"refine\nx.zarr\n-o\ny.zarr\n--time-budget\n10m",
    ]
    return {
        "geojson": Kind(".geojson", geojson, read_labels, 0.32),
        "xml": Kind(".xml", [xml], read_labels, 0.15),
        "coco": Kind(".json", [json.dumps(coco).encode()], read_labels, 0.15),
        "tiff": Kind(".tif", tiffs, read_slide, 0.1),
        "picture": Kind(".png", pictures, read_slide, 0.08),
        "label tiff": Kind(".tif", [made("l.tif", lambda p: tifffile.imwrite(p, labels))],
                           read_labels, 0.04),
        "label npy": Kind(".npy", label_files, read_labels, 0.05),
        "label mat": Kind(".mat", [made("l.mat", lambda p: savemat(p, {"inst_map": labels}))],
                          read_labels, 0.003),
        "zarr": Kind(".zarr", zarr_metadata(folder, pixels), read_slide, 0.05),
        "words": Kind("", words, read_words, 0.05),
    }  # fmt: skip


def zarr_metadata(folder: Path, pixels: np.ndarray) -> list[bytes]:
    """Write an OME-Zarr image, whose metadata are then changed; return the metadata."""
    group = zarr.open_group(folder / "valid.zarr", mode="w", zarr_format=3)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1, 0.25, 0.25]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [
        {"axes": [{"name": "c", "type": "channel"}, *axes],
         "datasets": [{"path": "0", "coordinateTransformations": scale}]}]}  # fmt: skip
    group.create_array("0", data=np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    root = folder / "valid.zarr"
    return [(root / "zarr.json").read_bytes(), (root / "0" / "zarr.json").read_bytes()]


def written(kind: Kind, content: bytes, which: int, folder: Path) -> Path:
    """Write an input and return its path."""
    path = folder / f"input{kind.suffix}"
    if kind.suffix != ".zarr":
        path.write_bytes(content)
        return path
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / "valid.zarr", path)
    (path / ("zarr.json" if which == 0 else "0/zarr.json")).write_bytes(content)
    return path


def too_long(number: int, frame: FrameType | None) -> None:
    """End an input that takes too long."""
    raise TimeoutError(f"more than {SECONDS} s")


def findings(
    name: str, kind: Kind, count: int, seed: int, folder: Path
) -> Iterator[tuple[bytes, BaseException]]:
    """Yield each input that broke a rule, with what it raised."""
    rng = np.random.default_rng([seed, sum(name.encode())])
    for _ in range(count):
        which = int(rng.integers(len(kind.valid)))
        content = changed(kind.valid[which], rng)
        path = written(kind, content, which, folder)
        signal.alarm(SECONDS)
        try:
            kind.read(path)
        except HistosynthError as error:
            if "\n" in str(error):
                yield content, error
        except (Exception, SystemExit, RecursionError) as error:
            yield content, error
        finally:
            signal.alarm(0)


def main(words: Sequence[str] | None = None) -> int:
    """Print a line for each kind of input; the exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=lambda text: text.split(","), help="kinds of input")
    parser.add_argument("--memory", type=float, default=8, help="gigabytes of address space")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    options = parser.parse_args(words)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    limit = int(options.memory * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, too_long)
    broken = 0
    with tempfile.TemporaryDirectory() as place:
        kinds = contents_of_files(Path(place))
        for name, kind in kinds.items():
            if options.only and name not in options.only:
                continue
            count, start, seen = round(options.inputs * kind.share), time.monotonic(), set()
            number = 0
            for content, error in findings(name, kind, count, options.seed, Path(place)):
                number += 1
                about = f"{type(error).__name__}: {str(error)[:160]}"
                if about not in seen and len(seen) < 20:
                    seen.add(about)
                    options.found.mkdir(exist_ok=True)
                    (options.found / f"{name} {len(seen)}{kind.suffix}").write_bytes(content)
                    print(f"    {about}", flush=True)
            broken += number
            seconds = time.monotonic() - start
            print(f"{name:12s} {count:7d} inputs, {number} findings, {seconds:.0f} s", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
