"""Say how much of what patches teach as background is a true nucleus.

    python benchmarks/negatives.py --data DATA [--sets tnbc,...]

Patches take their background from references from which nuclei were removed. What was neither
removed nor marked as doubtful is taught as background; where it holds a true nucleus, patches teach
a wrong thing. Printed is that share, in percent of the negative pixels, and the share of true
nuclear pixels that are so lost, if nuclei come from the rough map, and if they come from the model
of the package, with the rough map as doubt. Labels are read for scoring only.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rows import RESULTS, append_rows, commit
from yardstick import AT, MPP, SETS, Model, images_of

from histocli.base.device import prepare_process
from histocli.base.rng import rng_for
from histocli.base.types import InstanceLabels, RGBImage
from histocli.optics.density import rgb_to_optical_density, white_level
from histocli.reference.statistics import analyse_reference
from histocli.stores.box import find_box_model


def wrong_negatives(
    image: RGBImage, truth: InstanceLabels, predicted: InstanceLabels | None
) -> tuple[int, int, int]:
    """Return negative pixels, those of them in a true nucleus, and pixels of true nuclei."""
    reference = analyse_reference(image, MPP, "x", rng_for(0, "negatives"), predicted=predicted)
    before = rgb_to_optical_density(image, white_level(image))
    kept = np.abs(before - reference.background).max(axis=-1) < 1e-3
    negative = kept & reference.tissue & ~reference.ignored & (truth >= 0)
    return int(negative.sum()), int((negative & (truth > 0)).sum()), int((truth > 0).sum())


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with dev/")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--images", type=int, help="largest number of images of a set")
    parser.add_argument("--results", type=Path, default=RESULTS / "negatives.jsonl")
    options = parser.parse_args(words)
    prepare_process()
    model = Model(find_box_model("S").path, "stain", 1)
    print("wrong negatives in % of negatives, and in % of true nuclear pixels")
    for name in options.sets.split(","):
        sums = {"rough map": np.zeros(3), "box:S": np.zeros(3)}
        for image, truth in images_of(options.data, name, options.images):
            labels, confidence = model.found(image)
            kept = confidence >= AT
            kept[0] = False
            predicted = np.where(kept[labels], labels, 0).astype(np.int32)
            sums["rough map"] += wrong_negatives(image, truth, None)
            sums["box:S"] += wrong_negatives(image, truth, predicted)
        for source, (negative, wrong, nuclear) in sums.items():
            shares = {"of_negatives": wrong / max(negative, 1), "of_nuclei": wrong / nuclear}
            print(f"{name:10s} {source:10s}", *(f"{100 * each:.1f}" for each in shares.values()),
                  flush=True)  # fmt: skip
            about = {"set": name, "nuclei_from": source, "commit": commit()}
            append_rows(options.results, about | {k: round(v, 5) for k, v in shares.items()})


if __name__ == "__main__":
    main()
