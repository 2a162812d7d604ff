"""Targets of one synthetic patch: number, sizes, kinds, directions and groups of its nuclei.

The reference is the real image that the patch imitates; the rough map is its automatic nucleus map.
"""

from dataclasses import dataclass

import numpy as np

from histocli.instances.kinds import Kind
from histocli.reference.chromatin import Mixture
from histocli.reference.morphology import Morphology
from histocli.synthesis.recipe import FULL_RECIPE, Recipe
from histocli.synthesis.variation import AS_MEASURED, Variation

ALL_DENSE: Mixture = tuple(float(kind is Kind.DENSE) for kind in Kind)


@dataclass(frozen=True)
class Arrangement:
    """Targets of one patch."""

    coverage: float  # share of the tissue that nuclei cover
    area_um2: float  # median area
    log_area_sd: float  # standard deviation of the natural log of the area
    large_share: float  # share of nuclei whose area is multiplied by ``large_factor``
    large_factor: float
    elongation: float  # median of major over minor axis
    irregularity: float  # relative standard deviation of the radius around an ellipse
    direction_rad: float  # middle of the range of common directions
    direction_turn: float  # width of the range, radians
    direction_sharing: float  # 0: any direction; 1: within the range
    touching_share: float  # share of nuclei that are put beside an earlier nucleus
    margin_um: float  # distance of the label's edge outside the painted edge; < 0: inside it
    in_place_share: float  # share of nuclei put where the reference has a nucleus
    restored_share: float  # share of the nuclei put there that keep size, shape and texture
    mixture: Mixture  # share of each kind of nucleus
    crowds: int  # number of ribbons, glands and sheets of epithelium
    clusters: int  # number of clusters of lymphocytes


def draw_arrangement(
    morphology: Morphology,
    mixture: Mixture,
    rng: np.random.Generator,
    recipe: Recipe = FULL_RECIPE,
    variation: Variation = AS_MEASURED,
) -> Arrangement:
    """Draw the targets of a patch around the measurements of its reference.

    The rough map breaks pale nuclei into pieces, fuses others and misses some. Size, number and
    spread are therefore drawn widely around its measurements, and patches of one reference differ.
    """
    median, weighted = morphology.typical_area_um2
    smallest, largest = np.clip([0.9 * median, 1.2 * weighted], 14, 150)
    typical = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    # fewer crowds in sparse tissue, where segmenters gained without (docs/research/ablation.md)
    crowding = 0.15 + 1.5 * morphology.nuclear_fraction + 0.4 * morphology.touching_share
    inhabited = recipe.crowds and morphology.n_nuclei >= 3
    crowded = inhabited and rng.random() < np.clip(crowding, 0.2, 0.85)
    infiltrated = inhabited and rng.random() < np.clip(1.5 * mixture[Kind.LYMPHOCYTE], 0.04, 0.35)
    covered = variation.coverage * morphology.nuclear_fraction
    return Arrangement(
        coverage=float(np.clip(covered * rng.uniform(0.6, 1.6), 0.02, 0.6)),
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
        # 0 to 0.2 um: labels further out than annotators' outlines (docs/research/label_margin.md)
        margin_um=float(rng.uniform(-0.2, 0.1)),
        in_place_share=float(rng.uniform(0.2, 0.9)),
        restored_share=float(rng.uniform(0, 1)),
        mixture=_vary(mixture, rng) if recipe.chromatin else ALL_DENSE,
        crowds=int(crowded) * int(rng.integers(1, 4)),
        clusters=int(infiltrated),
    )


def _vary(mixture: Mixture, rng: np.random.Generator) -> Mixture:
    """Draw the mixture of one patch around the mixture of its reference.

    The Dirichlet distribution is wide, because a gland or a nodule is mostly of one kind.
    """
    shares = rng.gamma(np.maximum(np.asarray(mixture) * 2.5, 1e-3))
    shares /= max(float(shares.sum()), 1e-9)
    if rng.random() < 0.4:
        # the rough map misses most vesicular nuclei: add some in 40 % of patches of any reference
        vesicular = float(rng.uniform(0, 0.8))
        shares *= 1 - vesicular
        shares[Kind.VESICULAR] += vesicular
    return tuple(shares.tolist())
