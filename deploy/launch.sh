#!/usr/bin/env bash
# One node's share of a training run under torchrun; the same line on SLURM, on Kubernetes and by hand.
#
#   NODES=2 HEAD=node0:29500 RUN_ID=photos deploy/launch.sh DATA --out RUNS/photos [jepack train options]
#
# NODES       how many nodes take part (default 1)
# HEAD        host:port that all of them reach; the host is one of them (default localhost:29500)
# RUN_ID      any word, the same on all nodes and another for every other run on the same HEAD
# PROCESSES   processes per node (default: one per GPU, 1 without a GPU)
# RESTARTS    how often the ranks are started again after one of them has died (default 10)
#
# A rank that dies, or a node that goes and comes back, makes torchrun start all ranks again; they continue
# from the newest checkpoint. So --out must lie on storage that all nodes share. SIGTERM to this process
# reaches every rank: the step is finished, a checkpoint written, and all end.
set -euo pipefail

cd "$(dirname "$0")/.."
PROCESSES=${PROCESSES:-auto}
# How long torchrun waits after SIGTERM before it kills: a step and a checkpoint must fit into it.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-150}
# Each start of the ranks gets a store of its own. In the one that torchrun would share, ranks read the
# addresses of those that died ("Connection refused"), which costs a restart and half a minute.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

python=${PYTHON:-python}
if [ "$PROCESSES" = auto ]; then
  PROCESSES=$("$python" -c 'import torch; print(max(1, torch.cuda.device_count()))')
fi
exec "$python" -m torch.distributed.run \
  --nnodes="${NODES:-1}" \
  --nproc-per-node="$PROCESSES" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="${HEAD:-localhost:29500}" \
  --rdzv-id="${RUN_ID:-jepack}" \
  --max-restarts="${RESTARTS:-10}" \
  -m jepack train "$@"
