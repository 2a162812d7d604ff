"""The settings of the adversarial training: sizes, learning rates and weights of losses."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdversarialSchedule:
    """Settings of the adversarial training."""

    batch: int = 8
    """Crops in each set (initial, reference, real, partner) of a step."""
    crop_px: int = 128
    warm_up: float = 0.17
    """Share of the training, in steps or under a time budget in seconds, in which only the critics
    learn."""
    refiner_rate: float = 3e-4
    critic_rate: float = 1e-3
    later_critic_rate: float = 2e-4
    """Learning rate of critics that continue with a trained refiner (``train --hard refiner``). A
    critic that learns faster than the refiner rejects everything, which teaches it nothing."""
    least_skill: float = 0.6
    """The refiner is updated only while the critic judges this share of judged pixels rightly."""
    averaging: float = 0.99
    """Share of the averaged weights that each update keeps."""
    history: int = 512
    """Repainted crops of earlier steps that are kept for the realism critic to learn from."""
    style_weight: float = 0.2
    """Weight of the style part of the refiner's loss; the realism part has weight 1."""
    identity_weight: float = 3.0
    """Weight of the change of tone in the refiner's loss."""
    edits: str = "nuclei"
    """Where the refiner may change a patch, and where realism is judged: ``nuclei`` or the whole
    ``patch``."""
    objective: str = "fooling"
    """The realism part of the refiner's loss. ``fooling`` raises the critic's logits; ``matching``
    brings the critic's features of repainted nuclei close to those of the reference's nuclei."""
    seed: int = 0

    def rates(self, done: float) -> dict[str, float]:
        """Return each network's learning rate: constant for 61 % of the training, then falling.

        It falls linearly to 2 % of its peak.

        Parameters
        ----------
        done : float
            Share of the training that is done, 0..1.
        """
        decline = min(1.0, 2.5 * (1 - done) + 0.02)
        peaks = {
            "refiner": self.refiner_rate,
            "realism": self.critic_rate,
            "style": self.critic_rate,
        }
        return {name: peak * decline for name, peak in peaks.items()}
