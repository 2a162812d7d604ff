"""Label TIFF and overlay PNG: single files for other programs, each of which says itself how it was made.

- ``<stem>.tif``: uint32 labels of a slide at its full resolution, deflated, with resolution tags; the provenance is the JSON in
  ``ImageDescription``.
- ``<stem>.overlay.png``: a picture for people; the provenance is the JSON in the text chunk ``histosynth``.

Both are written beside their place and renamed, so what is there is whole; the rerun rule is that of the stores.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from histocli.base.types import Json, RGBImage
from histocli.stores.provenance import ATTRIBUTE, Action, Provenance, peek, plain_json, replace_atomically, rerun_rule

LABEL_IMAGE = "histosynth-label-image/1"
OVERLAY = "histosynth-overlay/1"
TILE_PX = 512
UM_PER_CM = 10_000.0
DEFLATE_LEVEL = 1  # labels are runs of equal values: higher levels take longer for little
PNG_LEVEL = 4  # twice the speed of level 6 for a few per cent more bytes on stained tissue
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
        Something is in the way that is not ours, or was made with other settings and ``overwrite`` was not given.
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
    """Return what a label TIFF or overlay of ours says about itself, or None for anything else."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        text = _png_text(path) if start == PNG_START else _tiff_description(path)
        facts = json.loads(text)[ATTRIBUTE]
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return None
    return facts if isinstance(facts, dict) else None


def write_label_tiff(
    path: Path, labels: npt.NDArray[np.integer[Any]], *, mpp: float, provenance: Provenance, facts: Json
) -> None:
    """Write a label image.

    Parameters
    ----------
    path : Path
    labels : ndarray of int, shape (H, W)
        0 = background, 1..n.
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
    tiled = max(labels.shape) > TILE_PX
    with replace_atomically(path) as partial:
        tifffile.imwrite(
            partial,
            labels.astype(np.uint32, copy=False),
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


def write_overlay(path: Path, picture: RGBImage, *, provenance: Provenance, facts: Json) -> None:
    """Write a picture as PNG; parameters and errors as in :func:`write_label_tiff`, the contract is :data:`OVERLAY`."""
    assert provenance.contract == OVERLAY, provenance.contract
    content = imagecodecs.png_encode(np.ascontiguousarray(picture), level=PNG_LEVEL)
    body = b"tEXt" + _TEXT_KEY + _record(provenance, facts).encode("ascii")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    after_header = len(PNG_START) + 25  # the header chunk has 13 bytes, and 12 around them
    with replace_atomically(path) as partial:
        partial.write_bytes(content[:after_header] + chunk + content[after_header:])


def _record(provenance: Provenance, facts: Json) -> str:
    """Return the JSON text, in ASCII; a file that is in its place is complete."""
    return json.dumps({ATTRIBUTE: provenance.to_json() | {"complete": True} | plain_json(facts)})


def _provenance_of(target: Path) -> Provenance | None:
    if target.is_dir():
        return peek(target)  # a store that took the place of a file: the rule refuses it by its contract
    facts = read_facts(target)
    try:
        return None if facts is None else Provenance.from_json(facts, target)
    except ValueError:
        return None


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
