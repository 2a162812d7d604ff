"""Slides, patch stores and a run, for tests of ``segment`` from files to files."""

import dataclasses
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.stages.segment.ledger import STATUS_FILE
from histocli.stages.segment.run import segment
from histocli.stores.patches import CONTRACT as PATCHES
from histocli.stores.patches import PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance

MPP = 0.5
ALL = ("ome-zarr", "tiff", "overlay")


def tissue(shape: tuple[int, int] = (150, 200), seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Dark discs on glass, well apart: one in most cells of a grid of 24 pixels."""
    rng = np.random.default_rng(seed)
    image = np.full((*shape, 3), (240, 232, 242), np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]]
    step = 24 * scale
    for cy in np.arange(step / 2, shape[0], step):
        for cx in np.arange(step / 2, shape[1], step):
            if rng.random() < 0.8:
                radius, dy, dx = rng.uniform(5, 8) * scale, rng.uniform(-2, 2), rng.uniform(-2, 2)
                image[(y - cy - dy) ** 2 + (x - cx - dx) ** 2 < radius**2] = (70, 30, 110)
    return image


def write_png(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(image))
    return path


def write_tiff(path: Path, image: np.ndarray, mpp: float = MPP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
    )
    return path


def write_patches(path: Path, n: int, patch_px: int = 48, mpp: float = MPP, draw=tissue) -> Path:
    made_by = Provenance(contract=PATCHES, command="pack", config={}, config_hash="p")
    reference = ReferenceRecord(
        name="r", sha256="0" * 64, mpp=mpp, mpp_source="given", statistics={}
    )
    with PatchStoreWriter(
        path,
        n=n,
        patch_px=patch_px,
        mpp=mpp,
        origin="labelled",
        references=[reference],
        provenance=made_by,
    ) as writer:
        for batch in writer.pending():
            images = np.stack([draw((patch_px, patch_px), seed) for seed in batch])
            zeros = np.zeros(images.shape[:3], np.int32)
            writer.write(
                batch,
                images,
                zeros,
                np.ones(len(batch), np.float32),
                np.zeros(len(batch), np.int32),
            )
        writer.finish()
    return path


def dark(image: np.ndarray) -> np.ndarray:
    return image[..., 0] < 150


def run(
    slides,
    model,
    out,
    *,
    formats=("ome-zarr",),
    tile_px=64,
    mpp=None,
    report=lambda result: None,
    **more,
):
    words = [str(slide) for slide in (slides if isinstance(slides, list) else [slides])]
    names = {field.name for field in dataclasses.fields(SegmentConfig)}
    config = SegmentConfig(
        formats=formats, tile_px=tile_px, mpp=mpp, **{k: v for k, v in more.items() if k in names}
    )
    execution = {k: v for k, v in more.items() if k not in names}
    settings = Execution(device="cpu", precision="fp32", workers=2)
    settings = Execution(**(vars(settings) | execution))
    return segment(words, model, Path(out), config, settings, report=report)


def names(folder: Path) -> list[str]:
    """Return what lies in a folder, but for the status file."""
    return (
        sorted(path.name for path in folder.iterdir() if path.name != STATUS_FILE)
        if folder.exists()
        else []
    )
