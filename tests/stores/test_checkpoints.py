"""The state of a training comes back as it was saved."""

import numpy as np
import pytest
import torch

from histocli.stores.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint


def training_state() -> dict:
    """Train for two steps, so that the optimiser has a state."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    for _ in range(2):
        network(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        schedule.step()
    return {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {
            key: value for key, value in schedule.state_dict().items() if key != "_anneal_func_type"
        },
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": np.random.default_rng(3).bit_generator.state,
        "step": 2,
        "best": float("-inf"),
        "history": [{"loss": 0.5}, {"loss": None}],
    }


def assert_same(found, expected) -> None:
    assert type(found) is type(expected) or isinstance(expected, dict)
    match expected:
        case torch.Tensor():
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
        case dict():
            assert found.keys() == expected.keys()
            for key in expected:
                assert_same(found[key], expected[key])
        case list() | tuple():
            for one, other in zip(found, expected, strict=True):
                assert_same(one, other)
        case _:
            assert found == expected


def test_a_training_state_comes_back_as_it_was_saved(tmp_path):
    state = training_state()
    path = checkpoint_path(tmp_path / "model.safetensors")
    write_checkpoint(path, {"step": 1}, config_hash="same")
    write_checkpoint(path, state, config_hash="same")
    found = read_checkpoint(path)
    assert found.config_hash == "same"
    assert_same(found.state, state)
    generator = np.random.default_rng()
    generator.bit_generator.state = found.state["numpy_rng"]
    assert generator.random() == np.random.default_rng(3).random()
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_holds_values_only(tmp_path):
    with pytest.raises(TypeError, match=r"state\.loop\[0\]: a checkpoint cannot hold object"):
        write_checkpoint(tmp_path / "c.safetensors", {"loop": [object()]}, config_hash="x")
    with pytest.raises(TypeError, match="keys"):
        write_checkpoint(tmp_path / "c.safetensors", {1.5: 0}, config_hash="x")
    assert list(tmp_path.iterdir()) == []
