#!/usr/bin/env bash
# From a folder of unlabelled H&E images to labelled nuclei.
#
#   examples/pipeline.sh IMAGES OUT
#
# Every option of the commands can be set through its variable, for example
#   HISTOSYNTH_MPP=0.5 HISTOSYNTH_TIME_BUDGET=10m examples/pipeline.sh slides/ out/
#   (HISTOSYNTH_MPP is the pixel size of the patches for generate, and overrides that of the slides for segment)
# After an interruption, run it again: complete outputs are skipped, and partial ones are gone on with.
set -euo pipefail

if [ $# -ne 2 ]; then
    echo "usage: $0 IMAGES OUT" >&2
    exit 2
fi
images=$1
out=$2
mkdir -p "$out"

# Each command prints the path of what it made, and the next one reads it.
histosynth generate "$images" -o "$out/synthetic.zarr" |
    histosynth train - -o "$out/model.safetensors" >&2

# One JSON object is printed for each slide, for scripts that go on from here.
histosynth segment "$images" --model "$out/model.safetensors" -o "$out/nuclei" --format ome-zarr,overlay --json |
    tee "$out/nuclei.jsonl"
