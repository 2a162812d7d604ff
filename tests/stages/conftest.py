"""A model for tests: weights set by hand, so that dark is nucleus."""

from pathlib import Path

import pytest
import torch

from histocli.model.segmenter import TARGETS, build_segmenter
from histocli.stores.models import ModelHeader, write_model

MPP = 0.5


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A segmenter of the smallest size that passes darkness on, sharp for the nucleus and blurred
    for its depth."""
    architecture = {"family": "unet", "channels": [2, 2]}
    network = build_segmenter(architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4 or parameter is network.head.bias:
                parameter.zero_()
        stem = network.stem.convolution.weight  # 3 colours at 4 places each -> 2 channels
        stem[:, :, 1, 1] = -1 / 12
        network.stem.normalisation.bias.fill_(1.0)
        first, second = network.encoder[0]
        level = network.decoder[0]
        for block, offset in ((first, 0), (second, 0), (level["reduce"], 2), (level["mix"], 0)):
            block.convolution.weight[0, offset, 1, 1] = 1
            block.convolution.weight[1, offset + 1] = 1 / 9  # a box filter each time
        network.head.weight[:4, 0, 1, 1] = 8
        network.head.weight[4:, 1, 1, 1] = 4
        network.head.bias[:4] = -8 * 1.35
        network.head.bias[4:] = -4 * 1.35
    assert TARGETS["distance"] == 2
    path = tmp_path_factory.mktemp("model") / "dark.safetensors"
    write_model(
        path, network.state_dict(), ModelHeader(architecture=architecture, mpp=MPP, config_hash="x")
    )
    return path
