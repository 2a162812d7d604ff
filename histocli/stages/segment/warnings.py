"""Warnings about a segmented slide, each with what to do."""

from __future__ import annotations

import logging
from pathlib import Path

from histocli.stages.segment.results import SlideFacts

logger = logging.getLogger(__name__)


def warn_of(path: Path, found: SlideFacts, roi: Path | None) -> None:
    """Warn of all that may make the result of a slide wrong."""
    warn_of_nothing(path, found, roi)
    if found.far:
        logger.warning(
            "%s: the model has seen no stain like this (distance %.2g); look at an overlay before "
            "you trust the nuclei, or train on such tissue",
            path,
            found.stain_distance,
        )
    if "out of focus" in found.flags:
        logger.warning(
            "%s: %.0f %% of its tissue is out of focus, where nuclei are missed or merged; look at "
            "an overlay, or scan it again",
            path,
            100 * (found.blurred_share or 0.0),
        )
    if "pen" in found.flags:
        logger.warning(
            "%s: shows %.2g mm2 of pen, where no nuclei are looked for; --format qc shows it",
            path,
            found.ink_mm2,
        )
    if found.n_cut:
        logger.warning(
            "%s: %d nuclei reach further than 40 um from the border of their window and may be cut",
            path,
            found.n_cut,
        )


def warn_of_nothing(path: Path, found: SlideFacts, roi: Path | None) -> None:
    """Warn if no part of a slide was looked at, or if tissue was and shows no nucleus."""
    if found.empty == "nothing looked at" and roi is not None:
        text = "%s: the regions of %s lie off its tissue, so nothing was looked at; are they of "
        logger.warning(text + "this slide, in pixels of its full resolution?", path, roi)
    elif found.empty == "nothing looked at":
        text = "%s: no tissue was found on it, so nothing was looked at; --tissue none looks "
        logger.warning(text + "everywhere (an image of 12 bits in 16 is nearly black)", path)
    elif found.empty is not None:
        text = "%s: no nucleus was found on %.3g mm2; is the pixel size right, and does the model "
        logger.warning(text + "suit this stain?", path, found.mm2)
