"""Label images of any kind, as a user names them: found, named, and opened one at a time, in
windows where the file allows.

=============================  =====================================================================================
what                           how it is known
=============================  =====================================================================================
label store, patch store       ours, by their attributes; a patch store has one image a patch
OME-Zarr of others             a Zarr folder with ``labels/<name>`` or a multiscale image of integers, version 0.4 or 0.5
label image                    ``.tif``, ``.tiff``, ``.png``, ``.npy``; large TIFFs in windows if they are tiled
outlines                       ``.geojson``, ``.geojson.gz``, ImageScope ``.xml``; as large as their partner
masks of single nuclei         a folder ``<image>/masks/*.png``, as in the 2018 Data Science Bowl
=============================  =====================================================================================
"""

from __future__ import annotations

import csv
import json
import logging
import re
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import first_line
from histocli.base.types import RGBImage
from histocli.stores.annotations import ANNOTATION_SUFFIXES, read_annotations
from histocli.stores.inputs import expand_inputs
from histocli.stores.label_images import LABEL_SUFFIXES, read_label_image
from histocli.stores.labels import LabelStore, open_labels
from histocli.stores.patches import PatchStore
from histocli.stores.provenance import peek
from histocli.stores.slides import read_image, slide_stem

log = logging.getLogger(__name__)

STORE_SUFFIX = ".zarr"
MANIFEST_SUFFIX = ".csv"
# what segment writes beside labels: pictures, and the same again
OTHER_ENDINGS = (".overlay.png", ".qc.png", ".ome04.zarr")
PATCH_LABELS_ENDING = ".labels"  # of the stem of a store with one label image per patch
MASKS_FOLDER = "masks"
LARGE_PX = 50_000_000  # from here on an image is read in parts where its format allows
COLLISION = re.compile(r"^(?P<stem>.+)__[0-9a-f]{8}$")  # what segment appends where stems collide
ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
MPP_RANGE = (0.05, 5.0)
UM_PER_UNIT = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class OpenLabels:
    """A label image that is ready to be read."""

    source: str
    """Where it is, for messages."""
    shape: tuple[int, int] | None
    """Height and width; None for outlines, which fit any."""
    read_window: Callable[[slice, slice], Labels] | None = None
    """Reads a part without the rest; None where the file is decoded as a whole."""
    read_whole: Callable[[tuple[int, int]], Labels]
    """Reads everything; takes the shape that outlines are drawn on."""
    mpp: float | None = None
    """Micrometres per pixel; None where nothing says."""


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """One label image, opened when its turn comes."""

    name: str
    """What pairs it with its partner."""
    source: str
    """Where it is, for messages."""
    open: Callable[[], OpenLabels]
    image: Callable[[], RGBImage] | None = None
    """Reads the picture that belongs to it, where the store has one of the same size."""
    probabilities: (
        Callable[[], tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None] | None
    ) = None
    """Reads ids, ascending, and the probability of each nucleus, where the store has them."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prediction and its truth."""

    name: str
    prediction: LabelSource
    truth: LabelSource
    group: str = ""
    mpp: float | None = None
    """Micrometres per pixel that a manifest gives."""
    image: Path | None = None
    """The picture that a manifest names."""
    ignore: LabelSource | None = None
    """Pixels that are not 0 here are ignored."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which predictions belong to which truths, and what is left over."""

    pairs: tuple[Pair, ...]
    """In the order of the truth."""
    without_prediction: tuple[str, ...] = ()
    """Names of true images that nothing was predicted for."""
    without_truth: tuple[str, ...] = ()
    """Names of predictions that there is no truth for."""


@dataclass(frozen=True, kw_only=True)
class TruthTable:
    """The true images by name, and what a manifest says about them."""

    sources: Mapping[str, LabelSource]
    groups: Mapping[str, str] = field(default_factory=dict)
    mpps: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)
    ignores: Mapping[str, LabelSource] = field(default_factory=dict)


# ----------------------------------------------------------------------------------------------------------------
# finding


def find_labels(word: str) -> dict[str, LabelSource]:
    """Return the label images that a word names, by name.

    Raises
    ------
    InputNotFound
        There is nothing, or nothing but overlays.
    InvalidInput
        Two of one name, or something that holds no labels.
    """
    path = Path(word)
    if path.is_dir() and (_is_store(path) or _is_masks(path)):
        return _by_name(sources_of(path))
    masks = _mask_folders(path)
    if masks:
        return _by_name(source for folder in masks for source in sources_of(folder))
    suffixes = (*LABEL_SUFFIXES, *ANNOTATION_SUFFIXES, STORE_SUFFIX)
    paths = expand_inputs([word], suffixes=suffixes, stdin=sys.stdin, what="label image")
    if len(paths) == 1:
        return _by_name(sources_of(paths[0]))
    paths = [path for path in paths if not path.name.lower().endswith(OTHER_ENDINGS)]
    # segment writes one slide in several formats: of each the one that says most counts
    best: dict[str, int] = {}
    for path in paths:
        best[label_stem(path)] = min(_rank(path), best.get(label_stem(path), _rank(path)))
    chosen = [path for path in paths if _rank(path) == best[label_stem(path)]]
    if not chosen:
        raise InputNotFound(
            f"{word}: holds overlays only, which are pictures; labels are *.zarr, {', '.join(suffixes[:-1])}"
        )
    if len(chosen) == 1:
        return _by_name(sources_of(chosen[0]))
    return _by_name(source for path in chosen for source in sources_of(path, prefix=True))


def _is_store(path: Path) -> bool:
    return path.name.lower().endswith(STORE_SUFFIX) or any(
        (path / name).is_file() for name in ZARR_FILES
    )


def _rank(path: Path) -> int:
    """Return 0 for a store, 1 for a label image, 2 for outlines."""
    return 0 if _is_store(path) else 2 if _is_outlines(path) else 1


def _is_outlines(path: Path) -> bool:
    # .json is read where it is named, but not picked up from folders, where most of it is something
    # else
    return not _is_store(path) and path.name.lower().endswith((*ANNOTATION_SUFFIXES, ".json"))


def _is_masks(path: Path) -> bool:
    return (path / MASKS_FOLDER).is_dir()


def _mask_folders(path: Path) -> list[Path]:
    """Return the folders below that hold a folder of masks, sorted; none for anything but a
    folder.
    """
    if not path.is_dir():
        return []
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and _is_masks(folder))


def label_stem(path: Path) -> str:
    """Return the name of the image that labels belong to."""
    for ending in ANNOTATION_SUFFIXES:
        if path.name.lower().endswith(ending) and not path.is_dir():
            return path.name[: -len(ending)]
    return slide_stem(path).removesuffix(PATCH_LABELS_ENDING)


def _by_name(sources: Iterable[LabelSource]) -> dict[str, LabelSource]:
    named: dict[str, LabelSource] = {}
    for source in sources:
        if source.name in named:
            raise InvalidInput(
                f"{named[source.name].source} and {source.source} have the same name, so it is not clear which one counts; "
                "keep one of them, or name the pairs in a CSV with columns prediction, truth"
            )
        named[source.name] = source
    return named


def sources_of(path: Path, *, prefix: bool = False) -> list[LabelSource]:
    """Return the label images of one file, folder of masks or store; ``prefix`` puts the store's
    name before a patch's number.

    Raises
    ------
    InvalidInput
        It holds no labels.
    """
    name, where = label_stem(path), str(path)
    if _is_masks(path):
        return [LabelSource(name=path.name, source=where, open=partial(_open_masks, path))]
    if not path.is_dir():
        opener = _open_outlines if _is_outlines(path) else _open_image
        return [LabelSource(name=name, source=where, open=partial(opener, path))]
    known = peek(path)
    if known is None:
        array, mpp = _foreign_zarr(path)
        return [LabelSource(name=name, source=where, open=partial(_open_zarr, array, where, mpp))]
    if known.contract_name == "histosynth-patches":
        patches = PatchStore.open(path)
        return _numbered(
            path,
            len(patches),
            prefix,
            partial(_open_patch, patches),
            partial(_image_of_patch, patches),
        )
    labels = open_labels(path)
    if labels.layout == "slide":
        opened = partial(_open_slide, labels)
        return [
            LabelSource(
                name=name, source=where, open=opened, probabilities=partial(_probabilities, labels)
            )
        ]
    return _numbered(path, len(labels), prefix, partial(_open_patch_labels, labels), None)


def _numbered(
    path: Path,
    n: int,
    prefix: bool,
    opener: Callable[[int], OpenLabels],
    image: Callable[[int], RGBImage] | None,
) -> list[LabelSource]:
    before = f"{label_stem(path)}:" if prefix else ""
    return [
        LabelSource(
            name=f"{before}{i:06d}",
            source=f"{path}, patch {i}",
            open=partial(opener, i),
            image=None if image is None else partial(image, i),
        )
        for i in range(n)
    ]


# ----------------------------------------------------------------------------------------------------------------
# opening


def _open_image(path: Path) -> OpenLabels:
    shape = _shape_of_large_tiff(path)
    if shape is not None:
        return _open_tiled(path, shape)
    labels = _checked_ids(read_label_image(path), str(path))
    return _in_memory(labels, str(path), _sane(_recorded_mpp(path)))


def _recorded_mpp(path: Path) -> Any:
    """Return the pixel size that a label TIFF of ours records; None for anything else."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return json.loads(str(tiff.pages.first.description))[ATTRIBUTE].get("mpp")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        return None


def _shape_of_large_tiff(path: Path) -> tuple[int, int] | None:
    """Return the size of a large tiled TIFF of labels, which is read in parts; None for anything
    else.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            height, width = series.shape
            usable = (
                series.keyframe.is_tiled
                and series.dtype.kind in "iu"
                and height * width >= LARGE_PX
            )
    except Exception:  # whatever is wrong with the file, reading it as a whole says so
        return None
    return (int(height), int(width)) if usable else None


def _open_tiled(path: Path, shape: tuple[int, int]) -> OpenLabels:
    def window(rows: slice, columns: slice) -> Labels:
        try:
            # opened anew: files that stay open are shared by threads
            with tifffile.imread(path, aszarr=True) as store:
                node = zarr.open(store, mode="r")
                # of a pyramid the first level
                array = node["0"] if isinstance(node, zarr.Group) else node
                values = np.asarray(array[rows, columns])  # type: ignore[index]
        except Exception as error:  # decoders raise whatever they like over damaged files
            raise InvalidInput(
                f"{path}: cannot be read as a label image ({first_line(error)}); is the file damaged?"
            ) from error
        return _checked_ids(values, str(path))

    return OpenLabels(
        source=str(path),
        shape=shape,
        read_window=window,
        read_whole=lambda _: window(slice(None), slice(None)),
        mpp=_sane(_recorded_mpp(path)),
    )


def _in_memory(labels: Labels, source: str, mpp: float | None) -> OpenLabels:
    height, width = labels.shape
    return OpenLabels(
        source=source,
        shape=(height, width),
        read_window=lambda y, x: labels[y, x],
        read_whole=lambda _: labels,
        mpp=mpp,
    )


def _open_outlines(path: Path) -> OpenLabels:
    annotations = read_annotations(path)

    def draw(shape: tuple[int, int]) -> Labels:
        height, width = annotations.extent
        if shape == (0, 0):
            return annotations.labels((height, width))
        if height > shape[0] + 1 or width > shape[1] + 1:
            log.warning(
                "%s: outlines reach to row %d and column %d, beyond its partner of %d x %d pixels; are both of one resolution?",
                path,
                height,
                width,
                *shape,
            )
        return annotations.labels(shape)

    return OpenLabels(source=str(path), shape=None, read_whole=draw, mpp=annotations.mpp)


def _open_masks(folder: Path) -> OpenLabels:
    """Read a mask per nucleus; where masks overlap, the later one by name wins."""
    files = sorted(
        path for path in (folder / MASKS_FOLDER).iterdir() if path.suffix.lower() in LABEL_SUFFIXES
    )
    if not files:
        raise InvalidInput(
            f"{folder / MASKS_FOLDER}: holds no mask; one image per nucleus is expected"
        )
    labels: npt.NDArray[np.int32] | None = None
    for number, path in enumerate(files, 1):
        mask = read_label_image(path) > 0
        if labels is None:
            labels = np.zeros(mask.shape, np.int32)
        if mask.shape != labels.shape:
            raise InvalidInput(
                f"{path}: is {_size(mask.shape)} pixels but {files[0].name} is {_size(labels.shape)}; masks of an image agree"
            )
        labels[mask] = number
    assert labels is not None
    return _in_memory(labels, str(folder), None)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _open_slide(store: LabelStore) -> OpenLabels:
    return OpenLabels(
        source=str(store.path),
        shape=store.shape,
        read_window=store.window,
        read_whole=lambda _: store.labels(),
        mpp=store.mpp,
    )


def _probabilities(
    store: LabelStore,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
    table = store.table
    if "probability" not in table:
        return None
    return table["id"].astype(np.int64), table["probability"].astype(np.float64)


def _open_patch_labels(store: LabelStore, index: int) -> OpenLabels:
    return OpenLabels(
        source=f"{store.path}, patch {index}",
        shape=store.shape,
        read_whole=lambda _: store.label_image(index),
        mpp=store.mpp,
    )


def _open_patch(store: PatchStore, index: int) -> OpenLabels:
    labels: Labels = np.asarray(store.read(range(index, index + 1))[1][0])
    return _in_memory(labels, f"{store.path}, patch {index}", store.mpp)


def _image_of_patch(store: PatchStore, index: int) -> RGBImage:
    return np.asarray(store.read(range(index, index + 1))[0][0])


def _open_zarr(array: zarr.Array[Any], source: str, mpp: float | None) -> OpenLabels:
    def window(rows: slice, columns: slice) -> Labels:
        where: tuple[int | slice, ...] = (*(0,) * (array.ndim - 2), rows, columns)
        try:
            values = np.asarray(array[where])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InvalidInput(
                f"{source}: a chunk of {array.path} cannot be read ({first_line(error)}); is it damaged?"
            ) from error
        return _checked_ids(values, source)

    height, width = (int(side) for side in array.shape[-2:])
    return OpenLabels(
        source=source,
        shape=(height, width),
        read_window=window,
        read_whole=lambda _: window(slice(None), slice(None)),
        mpp=mpp,
    )


def _checked_ids(labels: Labels, source: str) -> Labels:
    """Refuse negative labels but -1, which marks ignored pixels: they are most often a wrapped or
    mistaken type.
    """
    if labels.dtype.kind == "i" and labels.size and int(labels.min()) < -1:
        raise InvalidInput(
            f"{source}: holds the label {int(labels.min())}; labels are 0 for background, 1 and above for nuclei, and -1 for "
            "ignored pixels; was it saved with too small a type?"
        )
    return labels


def _sane(mpp: Any) -> float | None:
    return (
        float(mpp) if isinstance(mpp, int | float) and MPP_RANGE[0] <= mpp <= MPP_RANGE[1] else None
    )


def _foreign_zarr(path: Path) -> tuple[zarr.Array[Any], float | None]:
    """Find the labels of an OME-Zarr, or of a Zarr array, that is not ours; returns them and their
    pixel size.
    """
    node = _zarr_node(path)
    if isinstance(node, zarr.Array):
        return _checked_array(node, path), None
    ome = _ome_attributes(node)
    if "labels" in node:
        folder = node["labels"]
        assert isinstance(folder, zarr.Group)
        named = _ome_attributes(folder).get("labels")
        names = (
            [name for name in named if isinstance(name, str)]
            if isinstance(named, list)
            else sorted(folder.group_keys())
        )
        if len(names) != 1:
            shown = ", ".join(str(path / "labels" / name) for name in names) or "none"
            raise InvalidInput(
                f"{path}: holds {len(names)} label images ({shown}); name one of them"
            )
        return _foreign_zarr(path / "labels" / names[0])
    scales = ome.get("multiscales")
    try:
        scale = scales[0]  # type: ignore[index]
        dataset = scale["datasets"][0]
        array = node[dataset["path"]]
    except (KeyError, IndexError, TypeError):
        raise InvalidInput(
            f"{path}: is neither a store of this program nor an OME-Zarr with labels; labels lie under labels/<name>"
        ) from None
    if not isinstance(array, zarr.Array):
        raise InvalidInput(f"{path}: {dataset['path']} is no array")
    return _checked_array(array, path), _ome_mpp(scale, dataset)


def _ome_attributes(group: zarr.Group) -> dict[str, Any]:
    """Return the attributes of OME-Zarr: at the top in version 0.4, under ``ome`` since 0.5."""
    attributes: dict[str, Any] = dict(group.attrs.asdict())
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _zarr_node(path: Path) -> zarr.Array[Any] | zarr.Group:
    try:
        return zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInput(
            f"{path}: cannot be opened as Zarr ({first_line(error)}); is it damaged?"
        ) from error


def _checked_array(array: zarr.Array[Any], path: Path) -> zarr.Array[Any]:
    if array.dtype.kind not in "iub":
        raise InvalidInput(
            f"{path}: labels must be integers, got {array.dtype}; is it a probability map or a picture?"
        )
    if array.ndim < 2 or any(side != 1 for side in array.shape[:-2]):
        raise InvalidInput(
            f"{path}: a label image has one integer a pixel, this has shape {array.shape}; is it a picture?"
        )
    return array


def _ome_mpp(scale: Mapping[str, Any], dataset: Mapping[str, Any]) -> float | None:
    """Return the micrometres per pixel of the first level, where they are given."""
    try:
        unit = UM_PER_UNIT[scale["axes"][-1]["unit"]]
        factors = [
            part["scale"][-1]
            for part in dataset["coordinateTransformations"]
            if part["type"] == "scale"
        ]
        return _sane(factors[0] * unit)
    except (KeyError, IndexError, TypeError):
        return None


# ----------------------------------------------------------------------------------------------------------------
# pairing


def pair_by_name(prediction: str, truth: TruthTable) -> Pairing:
    """Pair predictions with truths of the same name; two single images pair whatever their
    names.
    """
    predicted = find_labels(prediction)
    if len(predicted) == len(truth.sources) == 1:
        (only,), (name,) = predicted.values(), truth.sources
        return Pairing(pairs=(_pair(name, only, truth),))
    pairs, unpaired, taken = [], [], set()
    for name in truth.sources:
        partner = _partner(name, predicted)
        if partner is None:
            unpaired.append(name)
        else:
            taken.add(partner.name)
            pairs.append(_pair(name, partner, truth))
    extra = tuple(name for name in predicted if name not in taken)
    return Pairing(pairs=tuple(pairs), without_prediction=tuple(unpaired), without_truth=extra)


def _pair(name: str, prediction: LabelSource, truth: TruthTable) -> Pair:
    return Pair(
        name=name,
        prediction=prediction,
        truth=truth.sources[name],
        group=truth.groups.get(name, ""),
        mpp=truth.mpps.get(name),
        image=truth.images.get(name),
        ignore=truth.ignores.get(name),
    )


def _partner(name: str, predicted: Mapping[str, LabelSource]) -> LabelSource | None:
    """Find the prediction of a name; also the one that segment renamed because stems collided, if
    it is the only one.
    """
    if name in predicted:
        return predicted[name]
    renamed = [
        item
        for other, item in predicted.items()
        if (match := COLLISION.match(other)) and match["stem"] == name
    ]
    return renamed[0] if len(renamed) == 1 else None


def read_truth(word: str) -> TruthTable:
    """Return the true images of a word: label images as in :func:`find_labels`, or a CSV with a
    column ``truth``.
    """
    if not word.lower().endswith(MANIFEST_SUFFIX):
        return TruthTable(sources=find_labels(word))
    rows = _rows_of(Path(word), ("truth",))
    sources, groups, mpps, images, ignores = {}, {}, {}, {}, {}
    for line, row in rows:
        source = _one_source(row.get("truth"), Path(word), line, "truth")
        if source.name in sources:
            raise InvalidInput(
                f"{word}: line {line} names {source.name} a second time; names of true images differ"
            )
        sources[source.name] = source
        extra = _extras(row, Path(word), line)
        groups[source.name] = extra.group
        if extra.mpp is not None:
            mpps[source.name] = extra.mpp
        if extra.image is not None:
            images[source.name] = extra.image
        if extra.ignore is not None:
            ignores[source.name] = extra.ignore
    return TruthTable(sources=sources, groups=groups, mpps=mpps, images=images, ignores=ignores)


def pairs_of_manifest(path: Path) -> Pairing:
    """Read pairs from a CSV with columns ``prediction`` and ``truth``, and perhaps ``group``,
    ``mpp``, ``image``, ``ignore``.

    Relative paths count from the working folder or, where nothing is there, from the CSV's.
    """
    pairs = []
    for line, row in _rows_of(path, ("prediction", "truth")):
        predicted, true = (
            _one_source(row.get(column), path, line, column) for column in ("prediction", "truth")
        )
        extra = _extras(row, path, line)
        pairs.append(
            Pair(
                name=predicted.name,
                prediction=predicted,
                truth=true,
                group=extra.group,
                mpp=extra.mpp,
                image=extra.image,
                ignore=extra.ignore,
            )
        )
    return Pairing(pairs=tuple(_with_distinct_names(pairs)))


@dataclass(frozen=True)
class _Extras:
    group: str
    mpp: float | None
    image: Path | None
    ignore: LabelSource | None


def _extras(row: Mapping[str, str | None], manifest: Path, line: int) -> _Extras:
    text = (row.get("mpp") or "").strip()
    mpp = None
    if text:
        try:
            mpp = _sane(float(text))
        except ValueError:
            mpp = None
        if mpp is None:
            raise InvalidInput(
                f"{manifest}: line {line}: mpp must lie between 0.05 and 5 micrometres per pixel, got {text!r}"
            )
    image = (row.get("image") or "").strip()
    ignore = (row.get("ignore") or "").strip()
    return _Extras(
        group=(row.get("group") or "").strip(),
        mpp=mpp,
        image=_existing(image, manifest, line, "image") if image else None,
        ignore=_one_source(ignore, manifest, line, "ignore mask") if ignore else None,
    )


def _rows_of(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV with their line numbers; names of columns are lower case."""
    listed = ", ".join(needed)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, skipinitialspace=True)
            table.fieldnames = [name.strip().lower() for name in table.fieldnames or []]
            header = list(table.fieldnames)
            rows = [(table.line_num, row) for row in table]
    except FileNotFoundError:
        raise InputNotFound(
            f"{path}: no such file; a CSV with columns {listed} was expected"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(
            f"{path}: cannot be read as CSV ({' '.join(str(error).split())})"
        ) from error
    if not set(needed) <= set(header):
        raise InvalidInput(
            f"{path}: needs the columns {listed}; got {', '.join(header) or 'nothing'}"
        )
    if not rows:
        raise InputNotFound(
            f"{path}: no input, the CSV names no pair; one a line is expected below the header"
        )
    return rows


def _with_distinct_names(pairs: Sequence[Pair]) -> list[Pair]:
    """Name pairs by both paths where the short names of several are equal."""
    if len({pair.name for pair in pairs}) == len(pairs):
        return list(pairs)
    return [replace(pair, name=f"{pair.prediction.source} | {pair.truth.source}") for pair in pairs]


def _existing(name: str, manifest: Path, line: int, what: str) -> Path:
    path = Path(name)
    beside = manifest.parent / path
    if not path.exists() and beside.exists():
        path = beside
    if not path.exists():
        raise InputNotFound(f"{path}: no such {what} (line {line} of {manifest}); check the path")
    return path


def _one_source(word: str | None, manifest: Path, line: int, column: str) -> LabelSource:
    name = (word or "").strip()
    if not name:
        raise InvalidInput(f"{manifest}: line {line} has no {column}; fill it or remove the line")
    path = _existing(name, manifest, line, "label image")
    sources = sources_of(path)
    if len(sources) != 1:
        raise InvalidInput(
            f"{path}: holds {len(sources)} label images, but a line of {manifest} names one; evaluate it by itself"
        )
    return sources[0]


def find_pictures(words: str, names: Iterable[str]) -> dict[str, Path]:
    """Return the pictures of a folder, glob or list whose stem is one of the names."""
    wanted = set(names)
    suffixes = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs", ".ndpi", ".ome.tif")
    paths = expand_inputs([words], suffixes=suffixes, stdin=None, what="image")
    return {slide_stem(path): path for path in paths if slide_stem(path) in wanted}


def read_picture(path: Path) -> RGBImage:
    """Read a picture at its full resolution."""
    return read_image(path).pixels
