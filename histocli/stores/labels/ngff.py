"""OME-Zarr 0.5 metadata of a label store."""

from __future__ import annotations

from histocli.base.types import Json
from histocli.stores.labels.layout import LABEL_NAME

VERSION = "0.5"
CHANNELS = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))


def image_metadata(name: str, factors: list[int], mpp: float) -> Json:
    """Return the metadata of the overview; its pixels are ``factors`` slide pixels wide."""
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {
        "version": VERSION,
        "multiscales": [_multiscale(name, "cyx", factors, mpp)],
        "omero": {
            "channels": [
                {"label": label, "color": colour, "window": window, "active": True}
                for label, colour in CHANNELS
            ],
            "rdefs": {"model": "color"},
        },
    }


def labels_metadata() -> Json:
    """Return the metadata of the folder of labels."""
    return {"version": VERSION, "labels": [LABEL_NAME]}


def label_metadata(factors: list[int], mpp: float) -> Json:
    """Return the metadata of the labels; their pixels are ``factors`` slide pixels wide."""
    return {
        "version": VERSION,
        "multiscales": [_multiscale(LABEL_NAME, "yx", factors, mpp)],
        "image-label": {"version": VERSION, "source": {"image": "../../"}},
    }


def _multiscale(name: str, axes: str, factors: list[int], mpp: float) -> Json:
    def transform(kind: str, space: list[float], channel: float) -> Json:
        return {"type": kind, kind: [channel, *space] if axes == "cyx" else space}

    return {
        "name": name,
        "type": "nearest" if axes == "yx" else "mean",
        "axes": [
            {"name": axis, "type": "channel"}
            if axis == "c"
            else {"name": axis, "type": "space", "unit": "micrometer"}
            for axis in axes
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    transform("scale", [factor * mpp] * 2, 1.0),
                    # from the centre of the slide's first pixel to the centre of the first block
                    transform("translation", [(factor - 1) / 2 * mpp] * 2, 0.0),
                ],
            }
            for level, factor in enumerate(factors)
        ],
    }
