"""Files of the tests of this room: a colourful picture, and ways to store it."""

import struct
from pathlib import Path

import numpy as np
import zarr

SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"
CM_PER_UM = 1e-4


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    """A colourful gradient."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 12, x * 8, 255 - y * 6 - x * 4], axis=2).astype(np.uint8)


def per_cm(mpp: float) -> tuple[float, float]:
    return (1 / (mpp * CM_PER_UM), 1 / (mpp * CM_PER_UM))


def write_ome_zarr(
    path: Path, pixels: np.ndarray, *, version: str, mpp: float, unit: str = "micrometer"
) -> None:
    """Level 1 of a store whose axes are c, y, x; ``0`` is full resolution."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    planes = np.moveaxis(pixels, 2, 0)
    for level, step in enumerate((1, 2)):
        group.create_array(str(level), data=np.ascontiguousarray(planes[:, ::step, ::step]))
    multiscales = [
        {
            "version": version,
            "axes": [{"name": "c", "type": "channel"}]
            + [{"name": name, "type": "space", "unit": unit} for name in "yx"],
            "datasets": [
                {
                    "path": str(level),
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [1, mpp * step, mpp * step]}
                    ],
                }
                for level, step in enumerate((1, 2))
            ],
        }
    ]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = multiscales


def write_ndpi(path: Path, pixels: np.ndarray, mpp: float) -> None:
    """One strip in Hamamatsu's TIFF, whose offsets have their upper halves behind the directory."""
    height, width, _ = pixels.shape
    resolution = struct.pack("<II", round(10_000_000 / mpp), 1000)  # pixels a centimetre
    data_at = 12
    bits_at = data_at + pixels.nbytes
    x_at, y_at = bits_at + 6, bits_at + 14
    directory_at = bits_at + 22
    short, long, rational = 3, 4, 5
    tags = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, 3, bits_at),
        (259, short, 1, 1),  # not compressed
        (262, short, 1, 2),  # RGB
        (273, long, 1, data_at),
        (277, short, 1, 3),
        (278, long, 1, height),
        (279, long, 1, pixels.nbytes),
        (282, rational, 1, x_at),
        (283, rational, 1, y_at),
        (296, short, 1, 3),  # centimetres
        (65420, long, 1, 1),  # says that this is Hamamatsu's
    ]
    path.write_bytes(
        b"II*\0"
        + struct.pack("<Q", directory_at)
        + pixels.tobytes()
        + struct.pack("<3H", 8, 8, 8)
        + resolution * 2
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + bytes(8 + 4 * len(tags))  # no further directory, and the upper halves
    )
