"""How fast and with which aims the refiner and its critics learn."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdversarialSchedule:
    """Settings of the adversarial training."""

    batch: int = 8
    """Crops of each kind in a step."""
    crop_px: int = 128
    warm_up: float = 0.17
    """Share of the training in which the critics learn alone, whether steps or seconds count."""
    refiner_rate: float = 3e-4
    critic_rate: float = 1e-3
    later_critic_rate: float = 2e-4
    """Critics' learning rate where a trained refiner goes on: a critic that learns faster than the
    refiner only tells it that it is wrong."""
    least_skill: float = 0.6
    """Share of nuclear pixels that the critic must judge rightly for the refiner to move."""
    averaging: float = 0.99
    """How much of the averaged weights stays in each step."""
    history: int = 512
    """Repainted crops that are kept to remind the critic of earlier refiners."""
    style_weight: float = 0.2
    """Weight of the style critic's loss in the refiner's; being taken for real has weight 1."""
    identity_weight: float = 3.0
    """Weight in the refiner's loss of changing the tone of nuclei."""
    edits: str = "nuclei"
    """Where the refiner may change a patch, and where realism is judged: ``nuclei`` or the whole
    ``patch``."""
    objective: str = "fooling"
    """What the refiner is after: ``fooling`` the critic, or ``matching`` what the critic sees in
    the reference's nuclei."""
    seed: int = 0

    def rates(self, done: float) -> dict[str, float]:
        """Return the learning rate of each network, level at first and then down to nearly 0.

        Parameters
        ----------
        done : float
            Share of the training that is behind us, 0..1.
        """
        decline = min(1.0, 2.5 * (1 - done) + 0.02)
        peaks = {
            "refiner": self.refiner_rate,
            "realism": self.critic_rate,
            "style": self.critic_rate,
        }
        return {name: peak * decline for name, peak in peaks.items()}
