"""The networks of refinement with their optimisers, a replay buffer and the training's counters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histocli.model.discriminator import RealismCritic, StyleCritic
from histocli.model.refiner import Refiner
from histocli.training.adversarial.schedule import AdversarialSchedule


@dataclass
class Networks:
    """The refiner, its two critics, and the averaged refiner, which repaints the patches later."""

    refiner: Refiner
    realism: RealismCritic
    style: StyleCritic
    averaged: Refiner

    @classmethod
    def fresh(cls, refiner: Refiner, seed: int) -> Networks:
        """Return a refiner with fresh critics."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(refiner, RealismCritic(), StyleCritic(), copy.deepcopy(refiner))

    def by_name(self) -> dict[str, nn.Module]:
        """Return the networks under the names that stores and checkpoints use."""
        return {
            "refiner": self.refiner,
            "realism": self.realism,
            "style": self.style,
            "averaged": self.averaged,
        }

    def to(self, device: torch.device) -> Networks:
        """Move all networks to a device."""
        for network in self.by_name().values():
            network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def state(self) -> dict[str, Any]:
        """Return the weights of every network."""
        return {name: network.state_dict() for name, network in self.by_name().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load weights that ``state`` returned."""
        for name, network in self.by_name().items():
            network.load_state_dict(state[name])


class History:
    """A replay buffer of earlier repainted crops for the critic (Shrivastava et al. 2017)."""

    def __init__(self, size: int, crop_px: int) -> None:
        self.pixels = torch.zeros((size, 3, crop_px, crop_px), dtype=torch.uint8)
        self.regions = torch.zeros((size, 1, crop_px // 2, crop_px // 2), dtype=torch.bool)
        self.filled = 0

    def exchange(
        self, pixels: Tensor, regions: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Keep and return the crops; once the buffer is full, swap a random half for kept ones."""
        size = len(self.pixels)
        out_pixels, out_regions = pixels.clone(), regions.clone()
        for index in range(len(pixels)):
            new = (pixels[index] * 255).round().to(torch.uint8).cpu(), regions[index].cpu()
            if self.filled < size:
                self.pixels[self.filled], self.regions[self.filled] = new
                self.filled += 1
            elif rng.random() < 0.5:
                place = int(rng.integers(size))
                out_pixels[index] = self.pixels[place].to(pixels.device).float() / 255
                out_regions[index] = self.regions[place].to(pixels.device)
                self.pixels[place], self.regions[place] = new
        return out_pixels, out_regions

    def state(self) -> dict[str, Any]:
        """Return the buffer for a checkpoint."""
        return {"pixels": self.pixels, "regions": self.regions, "filled": self.filled}

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""
        self.pixels.copy_(state["pixels"])
        self.regions.copy_(state["regions"])
        self.filled = int(state["filled"])


@dataclass
class AdversarialTraining:
    """Networks, their optimisers, the history, and the counters of the training."""

    networks: Networks
    wrapped: dict[str, Callable[..., Tensor]]  # by name; several processes average gradients
    optimizers: dict[str, torch.optim.Optimizer]
    history: History
    step: int = 0
    moves: int = 0  # steps in which the refiner was updated
    skill: float = 0.5  # running mean of the share of pixels that the realism critic judges rightly
    pace: float = 1.0  # factor on the refiner's learning rate; the guard halves it after a bad step
    proven: bool = True  # the realism critic passed a test, so that the refiner may learn from it

    @classmethod
    def start(
        cls,
        networks: Networks,
        schedule: AdversarialSchedule,
        wrap: Callable[[nn.Module], Callable[..., Tensor]] = lambda network: network,
    ) -> AdversarialTraining:
        """Make the optimisers, and wrap the refiner and the critics."""
        betas, rate = (0.5, 0.99), schedule.critic_rate
        adam = torch.optim.Adam(networks.refiner.parameters(), schedule.refiner_rate, betas)
        optimizers: dict[str, torch.optim.Optimizer] = {"refiner": adam}
        for name, critic in {"realism": networks.realism, "style": networks.style}.items():
            optimizers[name] = torch.optim.AdamW(
                critic.parameters(), lr=rate, betas=betas, weight_decay=1e-3
            )
        wrapped = {name: wrap(networks.by_name()[name]) for name in optimizers}
        return cls(networks, wrapped, optimizers, History(schedule.history, schedule.crop_px))

    def set_rates(self, rates: dict[str, float]) -> None:
        """Set the learning rate of each network; the refiner's is multiplied by ``pace``."""
        for name, rate in rates.items():
            for group in self.optimizers[name].param_groups:
                group["lr"] = self.pace * rate if name == "refiner" else rate

    def average(self, averaging: float) -> None:
        """Update the averaged refiner's weights; the share kept rises to ``averaging``."""
        keep = min(averaging, self.moves / (self.moves + 10))
        averaged, refiner = self.networks.averaged, self.networks.refiner
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), refiner.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        return {
            "networks": self.networks.state(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.items()},
            "history": self.history.state(),
            "step": self.step,
            "moves": self.moves,
            "skill": self.skill,
            "proven": self.proven,
            "pace": self.pace,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""
        self.networks.restore(state["networks"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.history.restore(state["history"])
        self.step, self.moves = int(state["step"]), int(state["moves"])
        self.skill, self.pace = float(state["skill"]), float(state["pace"])
        self.proven = bool(state["proven"])
