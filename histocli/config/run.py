"""Settings of ``histosynth run``, the chain from references to labelled slides."""

from dataclasses import dataclass

from histocli.base.formats import format_names
from histocli.config.common import (
    REFERENCE_MPP,
    SEED,
    SHIPPABLE,
    check_mpp,
    check_time_budget,
    time_budget,
)
from histocli.config.evaluate import EvaluateConfig
from histocli.config.generate import GenerateConfig
from histocli.config.options import option, parse_names
from histocli.config.refine import RefineConfig
from histocli.config.segment import SegmentConfig
from histocli.config.train import SIZES, TrainConfig

BOX_MPP = 0.25  # micrometres per pixel of the models that come with the package
SAME_MPP = 0.02  # relative difference up to which two pixel sizes are the same


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of the chain; each field is a command-line option.

    All other settings of the commands have their defaults.
    """

    n: int = option(2000, "Number of patches to draw; fewer where a time budget is short.")
    patch_px: int = option(256, "Side of a patch, in pixels.")
    mpp: float = option(0.25, "Micrometres per pixel of patches and model.")
    reference_mpp: float | None = option(None, REFERENCE_MPP)
    slide_mpp: float | None = option(
        None, "Micrometres per pixel of the slides; overrides what they record."
    )
    # refinement costs accuracy wherever it was measured (docs/research/refinement.md)
    refine: bool = option(
        False, "Repaint the patches by a GAN before training; measured not to help."
    )
    size: str = option("S", "Network, as in 'histosynth train'.", metavar="|".join(SIZES))
    steps: int = option(3000, "Optimisation steps.")  # a time budget replaces this number
    self_training: bool = option(
        True,
        "Learn on from the references as well, without labels.",
        flag="--self-training/--no-self-training",
    )
    box: bool = option(
        True,
        "Go on from the model S of the package, with T as teacher, where pixel size and network "
        "are theirs; else from nothing.",
        flag="--box/--no-box",
    )
    formats: tuple[str, ...] = option(
        ("ome-zarr",),
        f"What to write for each slide, comma-separated: {', '.join(format_names('segment'))}.",
        flag="--format",
        metavar="LIST",
        parse=parse_names,
    )
    shippable: bool = option(True, SHIPPABLE, flag="--shippable/--not-shippable")
    time_budget_s: float | None = time_budget()
    seed: int = option(0, SEED)

    def __post_init__(self) -> None:
        check_mpp(self.slide_mpp)
        check_time_budget(self.time_budget_s)
        # each raises InvalidOption for a value that its command refuses
        _ = self.generate_config(self.n), self.refine_config(None), self.train_config(None)
        _ = self.segment_config, self.evaluate_config

    def generate_config(self, n: int) -> GenerateConfig:
        """Return the settings of ``generate`` for n patches."""
        return GenerateConfig(
            n=n,
            patch_px=self.patch_px,
            mpp=self.mpp,
            reference_mpp=self.reference_mpp,
            shippable=self.shippable,
            seed=self.seed,
        )

    def refine_config(self, time_budget_s: float | None) -> RefineConfig:
        """Return the settings of ``refine`` within its part of a time budget."""
        return RefineConfig(
            reference_mpp=self.reference_mpp, time_budget_s=time_budget_s, seed=self.seed
        )

    def train_config(self, time_budget_s: float | None) -> TrainConfig:
        """Return the settings of ``train`` within its part of a time budget."""
        goes_on = self.box and self.size == "S" and abs(self.mpp / BOX_MPP - 1) <= SAME_MPP
        return TrainConfig(
            size=self.size,
            init="box:S" if goes_on else None,
            teacher="box:T" if goes_on and self.self_training else None,
            steps=self.steps,
            reference_mpp=self.reference_mpp,
            shippable=self.shippable,
            time_budget_s=time_budget_s,
            seed=self.seed,
        )

    @property
    def segment_config(self) -> SegmentConfig:
        """The settings of ``segment``."""
        return SegmentConfig(formats=self.formats, mpp=self.slide_mpp)

    @property
    def evaluate_config(self) -> EvaluateConfig:
        """The settings of ``evaluate``."""
        return EvaluateConfig(mpp=self.slide_mpp, seed=self.seed)
