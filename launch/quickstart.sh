#!/usr/bin/env bash
# From a fresh machine to a trained policy: sets up .venv, trains the embedded default
# (tiny backbone, multi-hop tasks) and compares the policy before and after.
#
#   bash launch/quickstart.sh [workdir] [options of experiments/train.py]
#   AGEMEM_EXTRA=cuda bash launch/quickstart.sh         # on an NVIDIA GPU
#
# Everything lands in the work directory (default runs/quickstart): checkpoints,
# metrics.jsonl, TensorBoard events, evaluation.json and .csv, learning_curve.png,
# trajectories.md, and report.html, which shows it all in a browser. A run that was interrupted
# continues where it stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
workdir="${1:-runs/quickstart}"
options=()
if [[ " ${AGEMEM_EXTRA:-} " == *" cuda "* ]]; then  # few shapes: XLA tries kernels out for every one
  options=(
    --config.engine.prefill_buckets="(128,)" --config.engine.prefill_fewer_rows="()"
    --config.engine.attend_buckets="()" --config.engine.decode_rows="()"
    --config.engine.weights=stacked --config.engine.idle_slots=0 --config.engine.overlap=true
  )
fi
python experiments/train.py --config=experiments/configs/quickstart.py --workdir="${workdir}" \
  "${options[@]}" "${@:2}"
python experiments/evaluate.py --workdir="${workdir}" --methods=agemem_norl,agemem
