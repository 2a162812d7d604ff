#!/bin/bash
# A folder of slides on a Slurm cluster: each task of the array takes its share, and a task that is run again goes on where it was.
#
#   sbatch --array=1-8 examples/cluster/slurm.sh slides/ nuclei.safetensors out/
#
#SBATCH --job-name=histosynth
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
# For a GPU each: add  #SBATCH --gres=gpu:1
set -euo pipefail
slides=$1 model=$2 out=$3

# The share comes from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, the number of workers from SLURM_CPUS_PER_TASK.
histosynth segment "$slides" --model "$model" -o "$out" --max-memory 7G --on-error continue --json &
child=$!
trap 'kill -TERM "$child"' TERM # a minute before the time is over: what was found is kept
status=0
wait "$child" || status=$?
if [ "$status" -gt 128 ]; then # the trap interrupted the wait
    status=0
    wait "$child" || status=$?
fi
if [ "$status" -eq 75 ] && command -v scontrol > /dev/null; then # stopped: queue it again, it goes on where it was
    scontrol requeue "${SLURM_JOB_ID}"
fi
exit "$status"
