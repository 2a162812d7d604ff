"""The guard of an adversarial training: it notices failures and keeps the last good weights."""

import copy

from histocli.training.adversarial.judge import HeldOut
from histocli.training.adversarial.networks import AdversarialTraining
from histocli.training.adversarial.step import StepReport

LARGEST_CHANGE = 0.35  # mean absolute change of optical density in nuclei that counts as failure
SATURATED_STEPS = 200  # successive steps of an almost perfect critic that end the training


class Guard:
    """Keeps the last good weights, and says what is wrong after a bad step."""

    def __init__(self, training: AdversarialTraining) -> None:
        self.training = training
        self.saturated = 0
        self.remember()

    def remember(self) -> None:
        """Keep the present weights as the last good ones."""
        self.good = copy.deepcopy(self.training.networks.state())

    def go_back(self) -> None:
        """Return to the last good weights."""
        self.training.networks.restore(self.good)

    @property
    def hopeless(self) -> bool:
        """Whether training must end: its rate fell to 1/8, or the critic is almost never fooled."""
        return self.training.pace <= 0.125 or self.saturated > 0

    def slow_down(self) -> None:
        """Halve the refiner's learning rate, and clear the momentum of all optimisers."""
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
        """Return what is wrong if refined crops have too equal a texture, else None."""
        if held.diversity >= 0.25:
            return None
        return (
            f"refined nuclei look alike: their texture varies {held.diversity:.2f} times as much "
            "as before"
        )
