"""Segment a patch store, a batch of patches at a time, into one label store."""

from __future__ import annotations

from typing import Any

import numpy as np

from histocli.base.types import InstanceLabels, RGBImage
from histocli.config.common import as_dict
from histocli.inference.pipeline import PendingBlock, collect, whole_image
from histocli.instances.anchors import renumber_by_anchor
from histocli.model.adaptation import adapt_stain
from histocli.model.normalisation import contrast_of, glass_to_white
from histocli.slides.resampling import resample, resample_labels
from histocli.stages.segment.job import Job
from histocli.stages.segment.loaded import LoadedModel
from histocli.stages.segment.results import Expected, SlideFacts
from histocli.stages.segment.view import SAME_MPP
from histocli.stages.shared.references import patch_glass_levels
from histocli.stages.shared.results import Stopwatch
from histocli.stores import labels, patches
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import Action


class PatchJob(Job):
    """A patch store to be segmented; each patch is segmented by itself."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.store = self.outputs["ome-zarr"]

    def decide(self) -> Action:
        """Open the store and apply the rerun rule to the output."""
        self._store = patches.PatchStore.open(self.input.path)
        self._hash = self.fingerprint_of(self._store.content_hash())
        return self.decide_about(self.outputs["ome-zarr"], "ome-zarr", self._hash)

    def check(self, model: LoadedModel) -> Expected:
        """Count the patches."""
        self._loaded = model
        grid = model.pipelines[0].block_grid(self._shape)
        pixels = len(self._store) * self._store.patch_px**2
        plan = {
            "tiles": len(self._store) * len(grid.tiles),
            "memory_mb": round(model.expected_bytes / 1e6),
            "disk_mb": round(pixels * 0.1 / 1e6, 1),
        }
        return Expected(self._mpp, self._mpp_source, pixels, plan)

    def parts(self, model: LoadedModel) -> list[range]:
        """Begin the output, or resume it; return the batches of patches that are to be done."""
        self.watch = Stopwatch()
        self._loaded = model
        self._writer = labels.PatchLabelsWriter(
            self.outputs["ome-zarr"],
            n=len(self._store),
            shape=self._shape,
            mpp=self._mpp,
            source={"name": self.input.path.name, "sha256": self._store.content_hash()},
            model=self.model | {"backend": model.backend},
            provenance=Provenance(
                contract=labels.CONTRACT,
                command="segment",
                config=as_dict(self.config),
                config_hash=self._hash,
            ),
        )
        self.held.callback(self._writer.close)
        return self._writer.pending()

    def tiles_of(self, part: range) -> int:
        """Return the number of network tiles of a batch: as if each patch were one."""
        return len(part)

    def load(self, part: range) -> list[PendingBlock]:
        """Read a batch of patches."""
        images, _ = self._store.read(part)
        levels = patch_glass_levels(self._store, part, images)
        seen = [
            self._seen(glass_to_white(image, level))
            for image, level in zip(images, levels, strict=True)
        ]
        grid = self._loaded.pipelines[0].block_grid((seen[0].shape[0], seen[0].shape[1]))
        return [whole_image(image, grid) for image in seen]

    def _seen(self, white: RGBImage) -> RGBImage:
        """Bring a patch with white glass to the model's stain and pixel size."""
        adaptation = self._loaded.adaptation
        if adaptation is not None:
            white = adapt_stain(white, contrast_of([white]), adaptation)
        return white if self._same_mpp else resample(white, self._mpp, self._loaded.mpp)

    def write(self, part: range, pending: list[PendingBlock]) -> None:
        """Write the labels of a batch."""
        found = [self._own_pixels(collect(one, self._loaded.mpp)) for one in pending]
        self._writer.write(part, np.stack(found))

    def _own_pixels(self, found: InstanceLabels) -> InstanceLabels:
        """Resample labels to the patch's own pixel size, and number them anew."""
        if self._same_mpp:
            return found
        # nuclei smaller than a pixel vanish; anchors, which decide the numbers, move a little
        return renumber_by_anchor(resample_labels(found, self._loaded.mpp, self._mpp, self._shape))

    def finish(self) -> SlideFacts:
        """Complete the store and move it to its final path."""
        return self._known(self._writer.finish())

    def facts(self) -> SlideFacts | None:
        """Read the number of nuclei from the existing store."""
        return self._known(labels.open_labels(self.outputs["ome-zarr"]).n_nuclei)

    @property
    def _mpp(self) -> float:
        return self._store.mpp if self.given_mpp is None else self.given_mpp

    @property
    def _mpp_source(self) -> str:
        return "store" if self.given_mpp is None else "given"

    @property
    def _same_mpp(self) -> bool:
        """Whether the pixel sizes of patches and model differ by at most ``SAME_MPP``."""
        return abs(self._mpp / self._loaded.mpp - 1) <= SAME_MPP

    @property
    def _shape(self) -> tuple[int, int]:
        return self._store.patch_px, self._store.patch_px

    def _known(self, nuclei: int) -> SlideFacts:
        mm2 = len(self._store) * (self._store.patch_px * self._mpp) ** 2 / 1e6
        return SlideFacts(nuclei, mm2, self._mpp, self._mpp_source)
