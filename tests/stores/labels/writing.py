"""Label stores of slides that are in memory."""

import numpy as np

from histocli.base.pyramid import shrink
from histocli.stores.labels import FirstLook, TiledLabelsWriter


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
