"""The settings of the adversarial training: sizes, learning rates and weights of losses."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdversarialSchedule:
    """Settings of the adversarial training."""

    batch: int = 8  # crops in each set (initial, reference, real, partner) of a step
    crop_px: int = 128
    warm_up: float = 0.17  # share of the steps or time budget in which only the critics learn
    refiner_rate: float = 3e-4
    critic_rate: float = 1e-3
    later_critic_rate: float = 2e-4
    """Learning rate of critics that continue with a trained refiner (``train --hard refiner``). A
    critic that learns faster than the refiner rejects everything, which teaches it nothing."""
    least_skill: float = 0.6  # share of right pixels below which the refiner is not updated
    averaging: float = 0.99  # share of the averaged weights that each update keeps
    history: int = 512  # repainted crops of earlier steps kept for the realism critic
    style_weight: float = 0.2  # weight of style in the refiner's loss; realism has weight 1
    identity_weight: float = 3.0  # weight of the change of tone in the refiner's loss
    edits: str = "nuclei"  # where it paints and is judged: ``nuclei`` or the whole ``patch``
    objective: str = "fooling"
    """The realism part of the refiner's loss. ``fooling`` raises the critic's logits; ``matching``
    brings the critic's features of repainted nuclei close to those of the reference's nuclei."""
    seed: int = 0

    def rates(self, done: float) -> dict[str, float]:
        """Return each network's learning rate when a share ``done``, 0..1, of the training is done.

        It is constant for 61 % of the training, and then falls linearly to 2 % of its peak.
        """
        decline = min(1.0, 2.5 * (1 - done) + 0.02)
        critic = self.critic_rate * decline
        return {"refiner": self.refiner_rate * decline, "realism": critic, "style": critic}
