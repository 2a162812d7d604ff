"""The batched blur is SciPy's Gaussian, one strength for each image."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from histocli.optics.blur import RADIUS_PX, blur_each


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.6])
def test_it_is_the_gaussian_of_scipy(sigma):
    image = np.random.default_rng(0).random((20, 31)).astype(np.float32)
    ours = blur_each(torch.from_numpy(image)[None, None], torch.tensor([sigma]))[0, 0].numpy()
    np.testing.assert_allclose(
        ours, gaussian_filter(image, sigma, mode="nearest", radius=RADIUS_PX), atol=1e-5
    )


def test_every_image_has_its_own_strength():
    images = torch.rand((3, 2, 16, 16), generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.0, 0.8, 1.5])
    together = blur_each(images, sigma)
    for i in range(3):
        torch.testing.assert_close(together[i], blur_each(images[i : i + 1], sigma[i : i + 1])[0])
    torch.testing.assert_close(together[0], images[0])  # strength 0 leaves an image as it is
    assert (together[2].var() < together[1].var()) & (together[1].var() < images[1].var())


def test_a_flat_image_stays_and_so_does_the_size():
    flat = torch.full((1, 3, 1, 9), 7.0)
    torch.testing.assert_close(blur_each(flat, torch.tensor([1.2])), flat)
