"""The guard of an adversarial training: it sees when one goes wrong, and keeps good weights."""

import copy

from histocli.training.adversarial.judge import HeldOut
from histocli.training.adversarial.networks import AdversarialTraining
from histocli.training.adversarial.step import StepReport

LARGEST_CHANGE = 0.35
"""Mean change of optical density within nuclei at which a refiner has left what it was given."""
SATURATED_STEPS = 200
"""Steps in a row in which the critic is practically never fooled before the training is ended."""


class Guard:
    """Keeps the last weights that were good, and says what is wrong with those that are not."""

    def __init__(self, training: AdversarialTraining) -> None:
        self.training = training
        self.saturated = 0
        self.remember()

    def remember(self) -> None:
        """Call the present weights good."""
        self.good = copy.deepcopy(self.training.networks.state())

    def go_back(self) -> None:
        """Return to the last good weights."""
        self.training.networks.restore(self.good)

    @property
    def hopeless(self) -> bool:
        """Whether slowing down has not helped, or would not help, so that the training ends."""
        return self.training.pace <= 0.125 or self.saturated > 0

    def slow_down(self) -> None:
        """Halve the refiner's learning rate and forget the momentum that led astray."""
        self.training.pace /= 2
        for optimizer in self.training.optimizers.values():
            optimizer.state.clear()

    def look(self, report: StepReport) -> str | None:
        """Return what is wrong after a step, or None."""
        if not report.finite:
            return "a loss is not a number"
        if report.refiner is not None and report.change > LARGEST_CHANGE:
            return (
                f"the refiner changes nuclei by {report.change:.2f} of optical density and has "
                "left what it was given"
            )
        perfect = report.refiner is not None and report.skill > 0.995
        self.saturated = self.saturated + 1 if perfect else 0
        if self.saturated >= SATURATED_STEPS:
            return "the critic is never fooled any more and teaches nothing"
        return None

    @staticmethod
    def collapsed(held: HeldOut) -> str | None:
        """Return what is wrong where a refiner makes all nuclei alike, or None."""
        if held.diversity >= 0.25:
            return None
        return (
            f"refined nuclei look alike: their texture varies {held.diversity:.2f} times as much "
            "as before"
        )
