"""Kinds of nuclei, as pathologists tell them apart by shape and chromatin."""

from enum import IntEnum


class Kind(IntEnum):
    """What a nucleus looks like."""

    DENSE = 0
    """Evenly dark: resting cells, most tumours."""
    VESICULAR = 1
    """Pale inside, chromatin at the rim and in clumps, nucleoli: active cells, high grades."""
    SPINDLE = 2
    """Long and thin, along the fibres: fibroblasts, smooth muscle, endothelium."""
    BLURRED = 3
    """Out of focus: above or below the plane that is sharp."""
    LYMPHOCYTE = 4
    """Small, round, dark."""
    APOPTOTIC = 5
    """Shrunken, round, homogeneous and very dark."""
    MITOTIC = 6
    """Condensed chromosomes without a membrane: dark, ragged, often a plate."""


N_KINDS = len(Kind)
