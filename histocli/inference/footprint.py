"""The memory that segmenting a slide takes: it depends on the model and on sizes that can be
chosen, not on the slide.
"""

from histocli.inference.windows import WINDOW_HALO_UM, WINDOW_PX
from histocli.model.bands import expected_bytes
from histocli.model.levels import LevelNetwork

# Measured on blocks of tissue, with some reserve; all in bytes.
PROCESS = 450e6  # interpreter and libraries
PER_BLOCK_PX = 32  # pixels of the parts that wait, and the maps of two parts
PER_WINDOW_PX = 80  # a window while it is decoded


def expected_memory(
    network: LevelNetwork,
    mpp: float,
    block_windows: int,
    tile_px: int,
    workers: int,
    bytes_a_number: int = 4,
) -> float:
    """Return the bytes that the process is expected to take at most, whatever the slide.

    Parameters
    ----------
    network : LevelNetwork
    mpp : float
        Micrometres per pixel that it works at.
    block_windows : int
        Windows along a side of a block.
    tile_px : int
        Side of a tile, in pixels.
    workers : int
        Windows that are decoded at the same time.
    bytes_a_number : int
        Of the network's number format.
    """
    halo_px = WINDOW_HALO_UM / mpp
    side = block_windows * WINDOW_PX + 2 * halo_px
    tile = (min(tile_px, side) + 2.0 * network.halo_px) ** 2
    decoded = min(workers, 2 * block_windows**2) * (WINDOW_PX + 2 * halo_px) ** 2
    return (
        PROCESS
        + expected_bytes(network, tile, bytes_a_number)
        + PER_BLOCK_PX * (side + 2.0 * network.halo_px) ** 2
        + PER_WINDOW_PX * decoded
    )
