import numpy as np
import torch

from histocli.training.augmentation import Augmentation
from histocli.training.soft_labels import SCALES, maps_over_scales, soft_tissue

CPU = torch.device("cpu")


def test_labels_turn_with_the_tissue_and_stay_soft():
    """Where maps repeat the brightness of the image, crops do so too."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.uniform(0.2, 0.8, (3, 4, 4)), np.ones((24, 24)))
    images = np.repeat(np.rint(smooth * 255)[..., None], 3, axis=3).astype(np.uint8)
    still = Augmentation(
        stain_gain=0, stain_mixing=0, underexposure=0, blur_px=0.31, noise=0, transfer=0, jpeg=0
    )
    maps = [np.dstack([each, each, np.zeros_like(each)]).astype(np.float32) for each in smooth]
    batch = soft_tissue(images, maps).draw(6, 32, still, np.random.default_rng(1), CPU)
    assert batch.pixels.shape == (6, 3, 32, 32)
    grey = batch.pixels.mean(dim=1)
    assert (grey - batch.nucleus).abs().mean() < 0.06  # exposure still varies a little
    torch.testing.assert_close(batch.distance, batch.nucleus)
    assert ((batch.nucleus > 0.25) & (batch.nucleus < 0.75)).any()
    assert batch.valid.min() > 0.999
    assert (batch.borders == 1).all()


def test_where_sizes_disagree_less_is_learnt():
    patches = np.zeros((1, 64, 64, 3), np.uint8)

    def of_size(tiles):
        """Return a probability that depends on the magnification on the left side only."""
        n, height, width = tiles.shape[:3]
        maps = np.full((n, height, width, 2), 0.5, np.float32)
        maps[:, :, : width // 2] = (height / 64) - 0.5
        return maps

    found = maps_over_scales(of_size, patches, 16)
    assert len(SCALES) == 3
    assert found[0, :, 8:24, 2].min() > 0.1
    assert found[0, :, 40:, 2].max() == 0
    soft = soft_tissue(patches, [found[0]]).maps[0, ..., 2]
    assert soft[:, 8:24].max() < soft[:, 40:].min() == 255
