#!/usr/bin/env bash
# Train on all hosts of a TPU pod slice; start it again and it goes on.
#
#   launch/tpu_pod.sh NAME ZONE gs://BUCKET
#
# NAME is a TPU VM that exists (gcloud compute tpus tpu-vm create). Its hosts share no
# disk, so the bucket is mounted on each of them by gcsfuse, and the run lies there; it
# must be in the same region. The data are prepared in BUCKET/data. The command is the
# same on every host: on a pod, --distributed detects the rest.
set -euo pipefail

if [ $# -ne 3 ]; then
    echo "usage: $0 NAME ZONE gs://BUCKET" >&2
    exit 2
fi
name=$1 zone=$2 bucket=${3#gs://}
config=${CONFIG:-configs/cifar.py}
fsdp=${FSDP:-1}
repository=${REPOSITORY:?the address of the repository, for git clone}

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

# What is there already is left as it is.
on_all_hosts "set -e
    [ -d ddpm_jax ] || git clone --depth=1 '$repository' ddpm_jax
    cd ddpm_jax
    [ -d .venv ] || python3 -m venv .venv
    .venv/bin/pip install --quiet -r requirements.txt 'jax[tpu]'
    command -v gcsfuse > /dev/null ||
        { echo 'install gcsfuse on the hosts first' >&2; exit 2; }
    mkdir -p ~/shared
    # A checkpoint is committed by renaming its folder.
    mountpoint -q ~/shared ||
        gcsfuse --implicit-dirs --rename-dir-limit=1000000 '$bucket' ~/shared"

# Status 3, or SIGABRT, is a host that was lost: all of them are started again. The
# others are errors, whose messages name the fix. A preempted slice must be created again first.
until on_all_hosts "cd ddpm_jax && TFDS_DATA_DIR=~/shared/data \
    .venv/bin/python main.py --config='$config' --workdir=\"\$HOME/shared/run\" \
    --distributed --config.devices.fsdp='$fsdp' --config.network.dtype=bfloat16"; do
    status=$?
    case $status in
    3 | 134) echo "a host was lost; starting again" >&2 ;;
    *) exit "$status" ;;
    esac
done
