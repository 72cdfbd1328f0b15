#!/usr/bin/env bash
# A team of two leaves W&B in four phases, offline: ana and ben have runs in their wandb folders.
#
#     bash examples/migration.sh
#
# The same with your projects on W&B's service: docs/migration.md.
set -euo pipefail
export WANDB_MODE=offline MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-sqlite:///$PWD/mlflow.db}"
export MLFLOW_WANDB_FINISH_TIMEOUT=180
unset WANDB_DIR
team=$(mktemp -d)

cat >"$team/train.py" <<'PYTHON'
import sys

import wandb

with wandb.init(project="team", name=sys.argv[1], config={"learning_rate": 0.1}) as run:
    for step in range(20):
        run.log({"loss": 0.9**step})
PYTHON

# train PERSON NAME [COMMAND…]: run the script in that person's folder, behind a command
train() {
    person=$1 name=$2
    shift 2
    mkdir -p "$team/$person"
    (cd "$team/$person" && "$@" python "$team/train.py" "$name")
}

echo "=== before: W&B alone"
train ana ana-1
train ben ben-1

echo "=== 1. dual-write: the script stays as it is"
train ana ana-2 mlflow-wandb run --

echo "=== 2. migrate the history; what was dual-written is skipped"
mlflow-wandb backfill "$team/ana" "$team/ben" --plan
mlflow-wandb backfill "$team/ana" "$team/ben"

echo "=== 3. compare value by value: may the W&B folders go?"
mlflow-wandb verify "$team/ana" "$team/ben" --can-delete

echo "=== 4. cut over: MLflow alone, still the same script"
MLFLOW_WANDB_HOMES=mlflow train ben ben-2 mlflow-wandb run --

echo "=== back, if the team changes its mind: without the setting, both homes have the next run"
train ben ben-3 mlflow-wandb run --
