"""What one patch aims at: how many nuclei of which kinds and sizes, in which order."""

from dataclasses import dataclass

import numpy as np

from histocli.instances.kinds import Kind
from histocli.reference.chromatin import Mixture
from histocli.reference.morphology import Morphology
from histocli.synthesis.recipe import FULL_RECIPE, Recipe
from histocli.synthesis.variation import AS_MEASURED, Variation

EVEN_KIND: Mixture = tuple(float(kind is Kind.DENSE) for kind in Kind)
"""All nuclei are dense."""


@dataclass(frozen=True)
class Arrangement:
    """What one patch aims at."""

    coverage: float
    """Share of the tissue to be covered by nuclei."""
    area_um2: float
    """Median area."""
    log_area_sd: float
    """Spread of the natural log of the area."""
    large_share: float
    """Share of nuclei of a second, larger kind."""
    large_factor: float
    """Area of the larger kind relative to the median."""
    elongation: float
    """Median elongation."""
    irregularity: float
    """How far outlines stray from ellipses, as a share of the radius."""
    direction_rad: float
    """Common direction in the middle of the patch."""
    direction_turn: float
    """How much the direction turns over the patch, radians per side."""
    direction_sharing: float
    """0: nuclei point anywhere; 1: all have the common direction."""
    touching_share: float
    """Share of nuclei that are put beside an earlier one."""
    margin_um: float
    """How far the label reaches over the painted edge; negative where it stays inside."""
    in_place_share: float
    """Share of nuclei put where the reference had one: glands, rows and clusters come from
    there."""
    restored_share: float
    """Share of these that have its size, shape and texture too, so that some nuclei look exactly
    like real ones."""
    mixture: Mixture
    """Share of each kind of nucleus."""
    crowds: int
    """Ribbons, glands and sheets of epithelium."""
    clusters: int
    """Clusters of lymphocytes."""


def draw_arrangement(
    morphology: Morphology,
    mixture: Mixture,
    rng: np.random.Generator,
    recipe: Recipe = FULL_RECIPE,
    variation: Variation = AS_MEASURED,
) -> Arrangement:
    """Draw what a patch aims at, around what its reference shows.

    The rough map breaks pale nuclei into pieces, fuses others and misses some, so size, number and
    spread are drawn around what it shows, and patches of one reference differ.
    """
    median, weighted = morphology.typical_area_um2
    smallest, largest = np.clip([0.9 * median, 1.2 * weighted], 14, 150)
    typical = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    # sparse tissue has few crowds: more of them everywhere helped dense laboratories and hurt
    # sparse ones
    crowding = 0.15 + 1.5 * morphology.nuclear_fraction + 0.4 * morphology.touching_share
    inhabited = recipe.crowds and morphology.n_nuclei >= 3
    crowded = inhabited and rng.random() < np.clip(crowding, 0.2, 0.85)
    infiltrated = inhabited and rng.random() < np.clip(1.5 * mixture[Kind.LYMPHOCYTE], 0.04, 0.35)
    return Arrangement(
        coverage=float(
            np.clip(
                variation.coverage * morphology.nuclear_fraction * rng.uniform(0.6, 1.6), 0.02, 0.6
            )
        ),
        area_um2=float(variation.area * typical),
        log_area_sd=float(rng.uniform(0.15, np.clip(morphology.log_area_sd, 0.3, 0.6))),
        large_share=float(rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0),
        large_factor=float(rng.uniform(1.5, 3.0)),
        elongation=float(
            np.clip(rng.normal(np.clip(morphology.elongation[2], 1.1, 2.0) - 0.1, 0.2), 1.05, 2.4)
        ),
        irregularity=float(rng.uniform(0.01, 0.11 if recipe.grain else 0.07)),
        direction_rad=float(rng.uniform(-np.pi, np.pi)),
        direction_turn=float(rng.normal(0, 0.6)),
        direction_sharing=float(
            np.clip(morphology.direction_sharing + rng.normal(0, 0.25), 0, 0.98)
        ),
        touching_share=float(np.clip(morphology.touching_share + rng.uniform(0, 0.4), 0, 0.8)),
        # annotators' outlines reach about as far: with 0 to 0.2, labels lay outside theirs
        margin_um=float(rng.uniform(-0.2, 0.1)),
        in_place_share=float(rng.uniform(0.2, 0.9)),
        restored_share=float(rng.uniform(0, 1)),
        mixture=_vary(mixture, rng) if recipe.chromatin else EVEN_KIND,
        crowds=int(crowded) * int(rng.integers(1, 4)),
        clusters=int(infiltrated),
    )


def _vary(mixture: Mixture, rng: np.random.Generator) -> Mixture:
    """Draw the mixture of one patch around the reference's.

    It varies widely, as a Dirichlet distribution: a gland or a nodule is mostly of one kind.
    """
    shares = rng.gamma(np.maximum(np.asarray(mixture) * 2.5, 1e-3))
    shares /= max(float(shares.sum()), 1e-9)
    if rng.random() < 0.4:
        # the rough map hardly sees these, so every reference gets some patches that are full of
        # them
        vesicular = float(rng.uniform(0, 0.8))
        shares *= 1 - vesicular
        shares[Kind.VESICULAR] += vesicular
    return tuple(shares.tolist())
