"""Label stores of slides that are in memory."""

import numpy as np
from scipy import ndimage

from histocli.base.pyramid import shrink
from histocli.stores.labels import CONTRACT, FirstLook, TiledLabelsWriter
from histocli.stores.provenance import Provenance

MPP = 0.5


def fill(writer, labels, table):
    """Write all labels and their table."""
    writer.begin_table(len(table["id"]), table)
    writer.append_rows(table)
    writer.end_table({})
    for shard in writer.shards():
        part = labels[writer.shard_region(shard)].astype(np.uint32)
        writer.write_shard(shard, part)
        writer.write_coarser(shard, part)
    writer.end_labels()


def writer_of(path, image, *, tissue=None, **about):
    """Begin the store of a slide."""

    def look(factor):
        overview = shrink(image, factor)
        return FirstLook(overview, np.ones(overview.shape[:2], bool) if tissue is None else tissue)

    return TiledLabelsWriter(path, shape=image.shape[:2], look=look, **about)


def write_slide_labels(path, image, labels, table, **about):
    """Make the whole store of a slide."""
    with writer_of(path, image, **about) as writer:
        fill(writer, labels, table)
        writer.finish()


def record(config_hash: str = "abc") -> Provenance:
    return Provenance(contract=CONTRACT, command="segment", config={}, config_hash=config_hash)


def example(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Squares of 6 pixels every 10 pixels, dark on white."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels, n = ndimage.label((y % 10 < 6) & (x % 10 < 6))
    image = np.where(labels[..., None] > 0, [90, 40, 140], [245, 245, 245]).astype(np.uint8)
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, n + 1))).reshape(-1, 2)
    table = {
        "id": np.arange(1, n + 1),
        "y_um": centres[:, 0] * MPP,
        "x_um": centres[:, 1] * MPP,
        "box": np.array(
            [(r.start, c.start, r.stop, c.stop) for r, c in ndimage.find_objects(labels)]
        ).reshape(-1, 4),
        "area_um2": np.bincount(labels.ravel(), minlength=n + 1)[1:] * MPP**2,
        "probability": np.full(n, 0.75),
    }
    return image, labels, table


def about():
    return {
        "mpp": MPP,
        "mpp_source": "given",
        "source": {"name": "slide.svs", "sha256": "0" * 64},
        "model": {"name": "m.safetensors", "sha256": "1" * 64},
        "provenance": record(),
    }


def write(path, shape=(60, 45), found=None, **changes):
    image, labels, table = example(shape) if found is None else found
    write_slide_labels(path, image, labels, table, **(about() | changes))
    return image, labels, table
