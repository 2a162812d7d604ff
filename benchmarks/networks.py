"""Compare designs of the segmenter at equal cost: one store, one seed, as many steps as the time of
the first design's allow.

    python benchmarks/networks.py --data DATA --store synth.zarr [--designs S,contact,...] [--steps
    2400] [--costs]

``--costs`` measures what a training step and a megapixel of a tile cost with each design, in one
thread and in turns, so that a noisy machine is as noisy for all, and writes them to
``networks-costs.json`` beside the results. A training then takes ``steps * cost of S / cost of the
design`` steps. Rows (design, set) are appended to ``--results``; those that are there for the same
design, steps, seed and commit are not done again. Labels are read for scoring only.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import MPP, SETS, commit, predict, run, score

from histocli.model.segmenter import build_segmenter, channels_last
from histocli.stores.models import ModelHeader, write_model
from histocli.training.losses import segmentation_loss

ROOT = Path(__file__).resolve().parent.parent
DESIGNS: dict[str, dict[str, Any]] = {
    "S": {"channels": (16, 32, 64, 128)},
    "contact": {"channels": (16, 32, 64, 128), "targets": "contact"},
    "full": {"channels": (8, 16, 32, 64, 128), "resolution": "full"},
    "deep": {"channels": (16, 32, 64, 128, 128)},
    "M": {"channels": (32, 64, 128, 256)},
    "M contact": {"channels": (32, 64, 128, 256), "targets": "contact"},
}


def costs(rounds: int) -> dict[str, dict[str, float]]:
    """Measure seconds a training step of 8 crops of 128 px, and seconds a megapixel of a tile, each
    the median of turns.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks = {
        name: channels_last(build_segmenter({"family": "unet", **design}), torch.device("cpu"))
        for name, design in DESIGNS.items()
    }
    crops = torch.rand(8, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    tile = torch.rand(1, 3, 512, 512).contiguous(memory_format=torch.channels_last)
    zero, one = torch.zeros(8, 128, 128), torch.ones(8)
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in DESIGNS}
    for _ in range(rounds):
        for name, network in networks.items():
            start = time.perf_counter()
            network.train()
            logits = network(crops)
            contact = zero if logits.shape[1] > 2 else None
            segmentation_loss(logits, zero, zero, 1 - zero, one, contact=contact).backward()
            middle = time.perf_counter()
            with torch.inference_mode():
                network.eval()(tile)
            taken[name][0].append(middle - start)
            taken[name][1].append((time.perf_counter() - middle) / tile[0, 0].numel() * 1e6)
    return {
        name: {
            "step_s": round(float(np.median(steps)), 4),
            "megapixel_s": round(float(np.median(tiles)), 4),
            "parameters": sum(p.numel() for p in networks[name].parameters()),
        }
        for name, (steps, tiles) in taken.items()
    }


def main() -> None:
    """Fill in the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with dev/")
    parser.add_argument("--store", type=Path, help="patch store, made by histosynth generate")
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("--steps", type=int, default=2400, help="of the first design")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--costs", action="store_true", help="measure costs only")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "networks")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "networks.jsonl"
    )
    options = parser.parse_args()
    measured = options.results.with_name("networks-costs.json")
    if options.costs:
        measured.write_text(json.dumps(costs(25), indent=1) + "\n")
        print(measured.read_text())
        return
    cost = json.loads(measured.read_text())
    options.work.mkdir(parents=True, exist_ok=True)
    rows = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    for design in options.designs.split(","):
        steps = round(options.steps * cost["S"]["step_s"] / cost[design]["step_s"])
        key = {"design": design, "steps": steps, "seed": options.seed, "commit": commit()}
        missing = [
            name
            for name in SETS
            if not any(row["set"] == name and key.items() <= row.items() for row in rows)
        ]
        if not missing:
            continue
        stem = f"{design.replace(' ', '-')}-{steps}-{options.seed}-{key['commit']}"
        model = options.work / f"{stem}.safetensors"
        fresh = options.work / f"{stem}-fresh.safetensors"
        torch.manual_seed(options.seed)
        architecture = {"family": "unet", **DESIGNS[design]}
        write_model(
            fresh,
            build_segmenter(architecture).state_dict(),
            ModelHeader(
                architecture=architecture, mpp=MPP, config_hash=f"fresh {design} {options.seed}"
            ),
        )
        # a fresh network of the design is what training goes on from: any design, without an option
        # of its own
        trained = run(
            "train",
            options.store,
            "-o",
            model,
            "--init",
            fresh,
            "--learning-rate",
            3e-3,
            "--steps",
            steps,
            "--seed",
            options.seed,
        )
        for name in missing:
            row = key | {"set": name, "held_out": trained["held_out"]}
            row |= score(
                options.data,
                name,
                predict(options.work / stem, options.data, "networks", name, model),
            )
            rows.append(row)
            with options.results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
    for design in options.designs.split(","):
        for row in rows:
            if row["design"] == design and row["commit"] == commit():
                print(
                    design,
                    row["steps"],
                    row["set"],
                    row["mean"]["aji"],
                    row["mean"]["pq"],
                    row["mean"]["dice"],
                )


if __name__ == "__main__":
    main()
