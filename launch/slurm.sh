#!/usr/bin/env bash
# Train on several nodes of a SLURM cluster; start it again and it goes on.
#
#   sbatch launch/slurm.sh                       configs/cifar.py, in runs/cifar
#   CONFIG=configs/mnist.py WORKDIR=/shared/runs/mnist sbatch --nodes=4 launch/slurm.sh
#
# One task for each GPU. The folder of the repository, its .venv, the data and WORKDIR
# must be visible to all nodes under the same path.
#SBATCH --job-name=ddpm-jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ddpm-jax-%j.log
# SIGTERM to every task two minutes before the time is up: they save once, and end.
#SBATCH --signal=TERM@120
set -euo pipefail

CONFIG=${CONFIG:-configs/cifar.py}
WORKDIR=${WORKDIR:-runs/cifar}
FSDP=${FSDP:-1}

cd "${SLURM_SUBMIT_DIR:?to be started by sbatch}"
export PYTHONUNBUFFERED=1
# Proxies of the site do not lead to the other nodes.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

status=0
# --kill-on-bad-exit: when one task ends with an error, so do the others, at once.
srun --kill-on-bad-exit=1 --gpu-bind=none \
    .venv/bin/python main.py --config="$CONFIG" --workdir="$WORKDIR" \
    --distributed --config.devices.fsdp="$FSDP" --config.network.dtype=bfloat16 ||
    status=$?

# 143: stopped by SIGTERM and saved; 3 and 134 (SIGABRT), 137 (SIGKILL): a task was lost.
# Those go on in a new start. 0 is done, and 1 and 2 are errors, whose messages name the fix.
case $status in
3 | 134 | 137 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
