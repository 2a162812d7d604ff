"""Files for other programs, each of which says how it was made: label TIFF, pictures, outlines,
tables, OME-Zarr 0.4.

- ``<stem>.tif``: uint32 labels of a slide at its full resolution, deflated, with resolution tags; the provenance is the JSON in
  ``ImageDescription``.
- ``<stem>.overlay.png``, ``<stem>.qc.overlay.png``: pictures for people; the provenance is the JSON in the text chunk
``histosynth``.
- ``<stem>.geojson.gz``: outlines for QuPath, a ``detection`` each, in slide pixels; the provenance is the member ``histosynth``
before
  ``features``.
- ``<stem>.parquet``: the table of nuclei; the provenance is the key ``histosynth`` of the schema's metadata.
- ``<stem>.csv``: the same; CSV has no place for the provenance, so it lies beside it in ``.<stem>.csv.histosynth.json``.
- ``<stem>.ome04.zarr``: the label store as OME-Zarr 0.4 (Zarr format 2), for programs that do not read 0.5 yet.

All are written beside their place and renamed, so what is there is whole; the rerun rule is that of
the stores. Outlines, tables and labels are written piece by piece: memory does not grow with the
slide.
"""

import csv
import gzip
import json
import shutil
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np
import numpy.typing as npt
import orjson
import tifffile
import zarr

from histocli.base.errors import InvalidOption
from histocli.base.files import disk_errors, partial_path, replace_atomically
from histocli.base.text import plain_json
from histocli.base.types import Json, RGBImage
from histocli.instances.outlines import outlines
from histocli.stores.provenance import ATTRIBUTE, Action, Provenance, peek, rerun_rule

LABEL_IMAGE = "histosynth-label-image/1"
OVERLAY = "histosynth-overlay/1"
QC = "histosynth-qc/1"
OUTLINES = "histosynth-outlines/1"
TABLE = "histosynth-table/1"
NGFF_04 = "histosynth-labels-0.4/1"
TILE_PX = 512
BIG_BYTES = 2**31  # classic TIFF ends at 4 GiB, compressed; half of that, uncompressed, is safe
UM_PER_CM = 10_000.0
DEFLATE_LEVEL = 1  # labels are runs of equal values: higher levels take longer for little
PNG_LEVEL = 4  # twice the speed of level 6 for a few per cent more bytes on stained tissue
TILES_AT_ONCE = 8
GZIP_LEVEL = 4  # level 9 takes three times as long for a twentieth of the bytes
ROWS_AT_ONCE = 1 << 16
BLOCK_PX = 4096  # side of the regions whose outlines are drawn at a time
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "histosynth/nuclei")
LARGEST_RECORD = 1 << 16
PNG_START = b"\x89PNG\r\n\x1a\n"
_TEXT_KEY = ATTRIBUTE.encode() + b"\0"


def prepare_file(target: Path, *, contract: str, config_hash: str, overwrite: bool) -> Action:
    """Apply the rerun rule to a single file; there is never a partial one.

    Returns
    -------
    {"create", "skip"}

    Raises
    ------
    StoreExists
        Something is in the way that is not ours, or was made with other settings and ``overwrite``
        was not given.
    """
    return rerun_rule(
        target,
        contract=contract,
        config_hash=config_hash,
        finished=_provenance_of(target),
        partial=None,
        partial_is_foreign=False,
        resume=False,
        overwrite=overwrite,
    )


def read_facts(path: Path) -> Json | None:
    """Return what a file of ours says about itself, or None for anything else."""
    try:
        if path.is_dir():
            attributes = json.loads((path / ".zattrs").read_bytes())[ATTRIBUTE]
            return attributes if isinstance(attributes, dict) else None
        with path.open("rb") as file:
            start = file.read(8)
        facts = json.loads(_text_of(path, start))[ATTRIBUTE]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        struct.error,
        EOFError,
        zlib.error,
    ):
        return None
    return facts if isinstance(facts, dict) else None


class LabelSource(Protocol):
    """Labels of a slide that are read by regions: an array in memory or in a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""

    def __getitem__(self, where: Any) -> Any:
        """Return the labels of rows and columns."""


def write_label_tiff(
    path: Path, labels: LabelSource, *, mpp: float, provenance: Provenance, facts: Json
) -> None:
    """Write a label image, a few tiles at a time.

    Parameters
    ----------
    path : Path
    labels : array of int, shape (H, W)
        0 = background, 1..n; in memory or in a store.
    mpp : float
        Micrometres per pixel, for the resolution tags.
    provenance : Provenance
        Its contract must be :data:`LABEL_IMAGE`.
    facts : dict
        What else to record, JSON values.

    Raises
    ------
    OutOfResources
        The disk is full or the place cannot be written.
    """
    assert provenance.contract == LABEL_IMAGE, provenance.contract
    per_cm = UM_PER_CM / mpp
    height, width = labels.shape
    tiled = max(labels.shape) > TILE_PX
    with replace_atomically(path) as partial:
        tifffile.imwrite(
            partial,
            _tiles(labels) if tiled else np.asarray(labels[:, :]).astype(np.uint32, copy=False),
            shape=(height, width),
            dtype=np.uint32,
            bigtiff=4 * height * width > BIG_BYTES,
            photometric="minisblack",
            tile=(TILE_PX, TILE_PX) if tiled else None,
            compression="zlib",
            compressionargs={"level": DEFLATE_LEVEL},
            predictor=False,
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            description=_record(provenance, facts),
            metadata=None,
        )


def _tiles(labels: LabelSource) -> Iterator[npt.NDArray[np.uint32]]:
    """Yield the tiles of a label image, row by row, filled up with background."""
    height, width = labels.shape
    step = TILE_PX * TILES_AT_ONCE
    for top in range(0, height, TILE_PX):
        for left in range(0, width, step):
            part = np.asarray(
                labels[top : min(top + TILE_PX, height), left : min(left + step, width)]
            ).astype(np.uint32)
            columns = -(-part.shape[1] // TILE_PX) * TILE_PX
            part = np.pad(part, ((0, TILE_PX - part.shape[0]), (0, columns - part.shape[1])))
            yield from (
                np.ascontiguousarray(part[:, x : x + TILE_PX]) for x in range(0, columns, TILE_PX)
            )


def write_overlay(path: Path, picture: RGBImage, *, provenance: Provenance, facts: Json) -> None:
    """Write a picture as PNG; parameters and errors as in :func:`write_label_tiff`, the contract is
    :data:`OVERLAY` or :data:`QC`.
    """
    assert provenance.contract in (OVERLAY, QC), provenance.contract
    content = imagecodecs.png_encode(np.ascontiguousarray(picture), level=PNG_LEVEL)
    body = b"tEXt" + _TEXT_KEY + _record(provenance, facts).encode("ascii")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    after_header = len(PNG_START) + 25  # the header chunk has 13 bytes, and 12 around them
    with replace_atomically(path) as partial:
        partial.write_bytes(content[:after_header] + chunk + content[after_header:])


class Nuclei(Protocol):
    """The nuclei of a slide that are read piece by piece."""

    def level(self, number: int) -> LabelSource:
        """Return the labels of a level."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """The columns of the table, sliced like arrays."""

    @property
    def n_nuclei(self) -> int:
        """Number of rows."""


def write_outlines(path: Path, nuclei: Nuclei, *, provenance: Provenance, facts: Json) -> None:
    """Write the outlines of all nuclei as GeoJSON for QuPath, compressed, a region of the slide at
    a time.

    Every nucleus is a ``detection`` with a UUID (version 5) that depends on slide, model and id
    only; coordinates are slide pixels from the outer corner of the first one. Parameters and errors
    as in :func:`write_label_tiff`, the contract is :data:`OUTLINES`.
    """
    assert provenance.contract == OUTLINES, provenance.contract
    columns = nuclei.columns
    boxes = np.asarray(columns["box"][...])
    place = (boxes[:, 0] // BLOCK_PX).astype(np.int64) << 32 | boxes[:, 1] // BLOCK_PX
    order = np.argsort(place, kind="stable")
    stops = [*(np.flatnonzero(np.diff(place[order])) + 1), len(order)]
    source = (
        f"{facts.get('source', {}).get('sha256', '')}/{facts.get('model', {}).get('sha256', '')}"
    )
    named = [(name, column) for name, column in MEASURED.items() if name in columns]
    values = [np.asarray(columns[name][...]) for name, _ in named]
    with (
        replace_atomically(path) as partial,
        gzip.GzipFile(partial, "wb", GZIP_LEVEL, mtime=0) as stream,
    ):
        stream.write(b'{"type":"FeatureCollection","%s":' % ATTRIBUTE.encode())
        stream.write(orjson.dumps(provenance.to_json() | {"complete": True} | plain_json(facts)))
        stream.write(FEATURES)
        first = True
        for start, stop in zip([0, *stops], stops, strict=False) if len(order) else ():
            here = np.sort(order[start:stop])
            box = boxes[here]
            top, left = box[:, 0].min(), box[:, 1].min()
            labels = np.asarray(nuclei.level(0)[top : box[:, 2].max(), left : box[:, 3].max()])
            measured = [value[here].tolist() for value in values]
            lines = []
            for number, polygon, *row in zip(
                (here + 1).tolist(),
                outlines(labels, here + 1, box, (int(top), int(left))),
                *measured,
                strict=True,
            ):
                name = uuid.uuid5(NAMESPACE, f"{source}/{number}")
                told = ",".join(
                    f'"{title}":{value:.4g}' for (_, title), value in zip(named, row, strict=True)
                )
                ring = (
                    orjson.dumps(polygon, option=orjson.OPT_SERIALIZE_NUMPY)
                    .replace(b".0,", b",")
                    .replace(b".0]", b"]")
                )
                lines.append(
                    b'{"type":"Feature","id":"%s","geometry":{"type":"Polygon","coordinates":[%s]},'
                    b'"properties":{"objectType":"detection","measurements":{%s}}}'
                    % (str(name).encode(), ring, told.encode())
                )
            stream.write((b"\n" if first else b",\n") + b",\n".join(lines))
            first = False
        stream.write(b"\n]}\n")


MEASURED = {
    "area_um2": "Area um^2",
    "eccentricity": "Eccentricity",
    "hematoxylin": "Hematoxylin mean",
    "probability": "Probability",
}
"""Columns that QuPath gets as measurements, with their names there."""
FEATURES = b',"features":['


def flat_columns(columns: Mapping[str, Any], rows: slice) -> dict[str, npt.NDArray[Any]]:
    """Return some rows of a table with the box as four columns, ``id`` first."""
    flat: dict[str, npt.NDArray[Any]] = {}
    for name in sorted(
        columns,
        key=lambda name: (name not in LEADING, LEADING.index(name) if name in LEADING else 0, name),
    ):
        values = np.asarray(columns[name][rows])
        if name == "box":
            flat |= {
                f"box_{side}": values[:, index]
                for index, side in enumerate(("y0", "x0", "y1", "x1"))
            }
        else:
            flat[name] = values
    return flat


LEADING = ("id", "y_px", "x_px", "y_um", "x_um", "box", "area_um2")


def _row_slices(n: int) -> Iterator[slice]:
    """Yield the rows of a table in pieces; one empty piece where there are none."""
    yield from (
        slice(start, min(start + ROWS_AT_ONCE, n)) for start in range(0, max(n, 1), ROWS_AT_ONCE)
    )


def write_csv(path: Path, nuclei: Nuclei, *, provenance: Provenance, facts: Json) -> None:
    """Write the table as CSV; parameters and errors as in :func:`write_label_tiff`, the contract is
    :data:`TABLE`.
    """
    assert provenance.contract == TABLE, provenance.contract
    with (
        replace_atomically(path) as partial,
        partial.open("w", encoding="ascii", newline="") as stream,
    ):
        for rows in _row_slices(nuclei.n_nuclei):
            columns = flat_columns(nuclei.columns, rows)
            if rows.start == 0:
                csv.writer(stream).writerow(columns)
            text = [_as_text(values) for values in columns.values()]
            stream.writelines(",".join(row) + "\r\n" for row in zip(*text, strict=True))
    with replace_atomically(_beside(path)) as partial:
        partial.write_text(_record(provenance, facts))


def _as_text(values: npt.NDArray[Any]) -> list[str]:
    """Write numbers, floats with the digits that a measurement has."""
    if values.dtype.kind != "f":
        return list(map(str, values.tolist()))
    form = "{:.3f}".format if values.dtype == np.float64 else "{:.5g}".format
    return list(map(form, values.tolist()))


def write_parquet(path: Path, nuclei: Nuclei, *, provenance: Provenance, facts: Json) -> None:
    """Write the table as Parquet, a row group at a time; the contract is :data:`TABLE`.

    Raises
    ------
    InvalidOption
        The optional package for it is not installed.
    OutOfResources
        The disk is full or the place cannot be written.
    """
    assert provenance.contract == TABLE, provenance.contract
    check_parquet()
    import pyarrow
    import pyarrow.parquet

    def table(rows: slice) -> Any:
        return pyarrow.table(
            {
                name: pyarrow.array(column)
                for name, column in flat_columns(nuclei.columns, rows).items()
            }
        )

    schema = table(slice(0, 0)).schema.with_metadata(
        {ATTRIBUTE: _record(provenance, facts)[len(ATTRIBUTE) + 5 : -1]}
    )
    with (
        replace_atomically(path) as partial,
        pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for rows in _row_slices(nuclei.n_nuclei):
            writer.write_table(table(rows).cast(schema))


def check_parquet() -> None:
    """Raise ``InvalidOption`` where the optional package for Parquet is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InvalidOption(
            "parquet needs the optional package pyarrow: pip install 'histosynth[export]', or choose csv"
        ) from error


def write_ngff_04(path: Path, store: Path, *, provenance: Provenance, facts: Json) -> None:
    """Write a label store as OME-Zarr 0.4: Zarr format 2, chunks without shards, a chunk row at a
    time.

    Parameters
    ----------
    path : Path
        Folder to make; what lies there must have been checked.
    store : Path
        A complete label store of a slide.
    provenance : Provenance
        Its contract must be :data:`NGFF_04`.
    facts : dict
        What else to record.
    """
    assert provenance.contract == NGFF_04, provenance.contract
    source = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    partial = partial_path(path)
    with disk_errors(path):
        if partial.exists():
            shutil.rmtree(partial)
        root = zarr.create_group(partial, zarr_format=2, attributes=_attributes_04(source))
        _copy_levels(source, root)
        ome = source["labels"].attrs["ome"]
        names = list(ome["labels"])  # type: ignore[index, call-overload, arg-type]
        folder = root.create_group("labels", attributes={"labels": names})
        for name in folder.attrs["labels"]:  # type: ignore[union-attr]
            nuclei = source[f"labels/{name}"]
            assert isinstance(nuclei, zarr.Group)
            _copy_levels(nuclei, folder.create_group(str(name), attributes=_attributes_04(nuclei)))
        root.attrs[ATTRIBUTE] = provenance.to_json() | {"complete": True} | plain_json(facts)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)


def _attributes_04(group: zarr.Group) -> Json:
    """Return the attributes of an OME-Zarr 0.5 group as 0.4 writes them."""
    ome = group.attrs["ome"]
    assert isinstance(ome, dict)
    values: Json = {
        key: value for key, value in ome.items() if key not in ("version", "image-label")
    }
    values["multiscales"] = [dict(image) | {"version": "0.4"} for image in values["multiscales"]]
    if "image-label" in ome:
        values["image-label"] = dict(ome["image-label"]) | {"version": "0.4"}
    return values


def _copy_levels(source: zarr.Group, target: zarr.Group) -> None:
    multiscales = source.attrs["ome"]["multiscales"]  # type: ignore[index, call-overload]
    for dataset in multiscales[0]["datasets"]:  # type: ignore[index, call-overload, union-attr]
        array = source[dataset["path"]]  # type: ignore[index, call-overload]
        assert isinstance(array, zarr.Array)
        copy = target.create_array(
            dataset["path"],  # type: ignore[index, call-overload, arg-type]
            shape=array.shape,
            dtype=array.dtype,
            chunks=array.chunks,
            fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        step = max(1, (1 << 24) // max(1, array.shape[-1]) // array.chunks[-2]) * array.chunks[-2]
        for top in range(0, array.shape[-2], step):
            where = (..., slice(top, top + step), slice(None))
            copy[where] = array[where]


def _record(provenance: Provenance, facts: Json) -> str:
    """Return the JSON text, in ASCII; a file that is in its place is complete."""
    return json.dumps({ATTRIBUTE: provenance.to_json() | {"complete": True} | plain_json(facts)})


def peek_json(target: Path) -> Json | None:
    """Return what a store that took the place of a file says about itself: the rule refuses it by
    its contract.
    """
    found = peek(target)
    return None if found is None else found.to_json()


def _provenance_of(target: Path) -> Provenance | None:
    facts = (
        peek_json(target) if target.is_dir() and peek(target) is not None else read_facts(target)
    )
    try:
        return None if facts is None else Provenance.from_json(facts, target)
    except ValueError:
        return None


def _text_of(path: Path, start: bytes) -> str:
    """Return the JSON text that holds the provenance, by the kind of file."""
    if start == PNG_START:
        return _png_text(path)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as stream:
            head = stream.read(LARGEST_RECORD)
        return head[: head.index(FEATURES)].decode() + "}"
    if start[:4] == b"PAR1":
        check_parquet()
        import pyarrow.parquet

        return f'{{"{ATTRIBUTE}":{pyarrow.parquet.read_schema(path).metadata[ATTRIBUTE.encode()].decode()}}}'
    if path.suffix == ".csv":
        return _beside(path).read_text()
    return _tiff_description(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{ATTRIBUTE}.json")


def _tiff_description(path: Path) -> str:
    with tifffile.TiffFile(path) as tiff:
        return str(tiff.pages.first.description)


def _png_text(path: Path) -> str:
    for kind, content in _png_chunks(path):
        if kind == b"IDAT":
            break
        if kind == b"tEXt" and content.startswith(_TEXT_KEY):
            return content[len(_TEXT_KEY) :].decode("ascii")
    raise KeyError(ATTRIBUTE)


def _png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks before the pixels."""
    with path.open("rb") as file:
        file.seek(len(PNG_START))
        while head := file.read(8):
            length, kind = struct.unpack(">I4s", head)
            yield kind, b"" if kind == b"IDAT" else file.read(length)
            file.seek(4, 1)
