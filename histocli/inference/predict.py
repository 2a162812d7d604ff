"""Run a trained segmenter on tiles: pixels in, nucleus probability and border distance out."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.memory import pages_of_its_own
from histocli.base.types import FloatArray, InstanceLabels, RGBImage
from histocli.instances.targets import DEFAULT_THRESHOLDS, Thresholds, maps_to_instances
from histocli.model.backends import TileNetwork, in_bands
from histocli.model.segmenter import Segmenter, channels_last

VIEWS = ((0, False), (1, True), (2, False), (3, True), (1, False), (2, True), (3, False), (0, True))
"""The eight orientations of a tile: number of quarter turns, and whether it is mirrored first. The
first leaves the tile as it is."""


class Predictor:
    """A trained segmenter, ready for tiles.

    Parameters
    ----------
    segmenter : Segmenter
        Moved to the device and set to evaluation.
    mpp : float
        Micrometres per pixel that the segmenter was trained at.
    device : torch.device
    dtype : torch.dtype
        Number format of the convolutions.
    thresholds : Thresholds
    views : int
        Number of orientations, 1 to 8, in which every tile is predicted; the maps are averaged.
    between : callable, optional
        Called between the bands of rows in which a tile is computed; may raise to stop.
    compiled : TileNetwork, optional
        The same segmenter as another backend runs it; by default, PyTorch runs it in bands.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        mpp: float,
        device: torch.device,
        dtype: torch.dtype,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        views: int = 1,
        between: Callable[[], None] = lambda: None,
        compiled: TileNetwork | None = None,
    ) -> None:
        self.segmenter = channels_last(segmenter, device).eval()
        self.multiple_px, self.halo_px = self.segmenter.multiple_px, self.segmenter.halo_px
        self.mpp, self.thresholds = mpp, thresholds
        self.device, self.dtype = device, dtype
        self.views, self.between, self.compiled = VIEWS[:views], between, compiled

    def maps(self, tiles: npt.NDArray[np.uint8]) -> FloatArray:
        """Predict maps of tiles.

        Parameters
        ----------
        tiles : ndarray of uint8, shape (N, H, W, 3)
            sRGB at ``mpp``; H and W are multiples of ``multiple_px``.

        Returns
        -------
        ndarray of float32, shape (N, H, W, 2)
            Nucleus probability and normalised border distance, 0..1.
        """
        # bands are made for each call, since the weights of the segmenter may have changed
        network = self.compiled or in_bands(self.segmenter, self.dtype, self.between)
        pixels = torch.from_numpy(tiles).to(self.device)
        maps = self._seen(network, pixels, *self.views[0])
        for view in self.views[1:]:
            maps += self._seen(network, pixels, *view)
        if len(self.views) > 1:
            maps /= len(self.views)
        found: FloatArray = maps.permute(0, 2, 3, 1).cpu().numpy()
        return found

    def _seen(
        self, network: TileNetwork, pixels: torch.Tensor, turns: int, mirrored: bool
    ) -> torch.Tensor:
        """Predict tiles in one orientation; return the maps in the orientation of the tiles."""
        seen = _turned(pixels.flip(2) if mirrored else pixels, turns, (1, 2)).contiguous()
        shape = (seen.shape[0], 2, seen.shape[1], seen.shape[2])
        if self.device.type == "cpu":  # pages of their own: maps outlive the inner layers
            maps = torch.from_numpy(pages_of_its_own(shape, np.float32))
        else:
            maps = torch.empty(shape, device=self.device)
        network.maps(seen, maps)
        maps = _turned(maps, -turns, (2, 3))
        return maps.flip(3) if mirrored else maps

    def segment(self, image: RGBImage) -> InstanceLabels:
        """Segment one small image with white glass at ``mpp`` as one tile, mirrored at its borders.

        Large images go through :class:`histocli.inference.pipeline.Pipeline`.
        """
        height, width = image.shape[:2]
        margin = min(self.halo_px, height, width)
        sides = [
            (margin, margin + (-side - 2 * margin) % self.multiple_px) for side in (height, width)
        ]
        padded = np.pad(image, [*sides, (0, 0)], mode="symmetric")
        maps = self.maps(padded[None])[0][margin : margin + height, margin : margin + width]
        return self.instances(np.ascontiguousarray(maps))

    def instances(self, maps: FloatArray) -> InstanceLabels:
        """Decode the maps of one tile, shape (H, W, 2), into labels 1..n."""
        return maps_to_instances(maps, self.mpp, self.thresholds)


def _turned(x: torch.Tensor, turns: int, axes: tuple[int, int]) -> torch.Tensor:
    """Turn an array by a number of quarter turns."""
    return torch.rot90(x, turns, axes) if turns else x
