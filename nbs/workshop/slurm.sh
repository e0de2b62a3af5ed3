#!/usr/bin/env bash
# Train under Slurm, on one node or on several, and go on after the time limit until the run is finished.
# usage: sbatch [--nodes N] slurm.sh [options of edm_train], as in
#   sbatch slurm.sh --data /shared/pictures --run /shared/runs/pictures
#   sbatch --nodes 2 slurm.sh imagenet64 --data /path/to/pictures --run /shared/runs/imagenet64
# Change --ntasks-per-node and --gpus-per-node together. The batch (256 for a folder) must be a multiple of all tasks.
#SBATCH --job-name=edm
#SBATCH --nodes=1                 # any number; the run does not depend on it
#SBATCH --ntasks-per-node=8       # a process for each card
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120       # two minutes before the end, USR1 comes to this script
#SBATCH --requeue                 # after the failure of a node, too
#SBATCH --open-mode=append        # the log goes on as the run does
#SBATCH --output=%x-%j.log
set -u

# Where the processes meet: the first node, and a port that other jobs there do not take.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# srun starts the same command once for each card and hands signals on to all of them. When one process has left, the
# first one may still be saving, or drawing at the end; after ten minutes srun takes those that are left for stuck.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 --wait=600 bash -c '
  export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
  exec edm_train "$@"' edm_train "$@" &
step=$!

# The time is nearly up: have every process save and stop, then wait for the next turn.
stopped=0
trap 'stopped=1; kill -USR1 "$step"' USR1
wait "$step"; status=$?
while kill -0 "$step" 2>/dev/null; do wait "$step"; status=$?; done  # a signal has ended the wait, not the work
if [ "$stopped" = 1 ] && [ "$status" != 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"                                    # the same command goes on from there
  exit 0
fi
exit "$status"
