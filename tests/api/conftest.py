"""Two small pieces of real tissue, and a model and patches that were made of them in no time."""

import numpy as np
import pytest

from histocli import Execution, GenerateConfig, TrainConfig, generate, train

MPP = 0.5
CPU = Execution(device="cpu", precision="fp32", workers=1)
GENERATE = GenerateConfig(n=8, patch_px=64, mpp=MPP, reference_mpp=MPP)
TRAIN = TrainConfig(steps=2, batch=2, crop_px=32, reference_mpp=MPP)


@pytest.fixture(scope="session")
def pieces():
    from skimage.data import immunohistochemistry

    tissue = immunohistochemistry()
    return [np.ascontiguousarray(tissue[200 * i : 200 * i + 128, :160]) for i in range(2)]


@pytest.fixture(scope="session")
def patches(pieces, tmp_path_factory):
    return generate(pieces, tmp_path_factory.mktemp("api") / "synth.zarr", GENERATE, CPU)


@pytest.fixture(scope="session")
def segmenter(patches, tmp_path_factory):
    return train(patches, tmp_path_factory.mktemp("api") / "m.safetensors", TRAIN, CPU)
