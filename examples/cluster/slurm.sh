#!/bin/bash
# A folder of slides on a Slurm cluster: each task of the array takes its share, and a task that is run again goes on where it stopped.
#
#   sbatch --array=1-8 examples/cluster/slurm.sh slides/ nuclei.safetensors out/
#
#SBATCH --job-name=histosynth
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
# To give each task a GPU, add  #SBATCH --gres=gpu:1
set -euo pipefail
slides=$1 model=$2 out=$3

# The share comes from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, the number of workers from SLURM_CPUS_PER_TASK.
histosynth segment "$slides" --model "$model" -o "$out" --max-memory 7G --on-error continue --json &
child=$!
# Slurm sends TERM a minute before the time is over; segment then keeps what it has found.
trap 'kill -TERM "$child"' TERM
status=0
wait "$child" || status=$?
if [ "$status" -gt 128 ]; then # The trap interrupted the wait.
    status=0
    wait "$child" || status=$?
fi
# Exit code 75 means stopped: queue the task again, and it goes on where it stopped.
if [ "$status" -eq 75 ] && command -v scontrol > /dev/null; then
    scontrol requeue "${SLURM_JOB_ID}"
fi
exit "$status"
