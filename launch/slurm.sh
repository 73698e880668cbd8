#!/usr/bin/env bash
#SBATCH --job-name=agemem
#SBATCH --requeue            # Slurm itself queues it again after a preemption or a dead node
#SBATCH --open-mode=append   # so that one log holds all starts
#SBATCH --signal=B:TERM@300  # five minutes before the time limit: save, and queue again
# Runs experiments/train.py on a Slurm cluster, one process per task, as one JAX job. Submit it
# from the repository's root, which all nodes must see.
#
#   sbatch [options of sbatch] launch/slurm.sh -- [arguments of experiments/train.py]
#
#   sbatch --nodes=4 --ntasks-per-node=1 launch/slurm.sh -- \
#       --config=experiments/configs/quickstart.py --workdir=runs/four
#   AGEMEM_EXTRA=cuda sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh -- ...
#
# JAX gives a task the GPU of its number on the node, so ask for --gpus-per-node, with as many
# tasks; with --gpus-per-task each would see only one, which then is not of that number.
#
# If a process is preempted (status 75) or killed, all start again in the same allocation, at
# most MAX_RESTARTS times (default 10). docs/launching.md has the rules.
set -euo pipefail
# Slurm runs a copy of this file in a folder of its own, where the others are not beside it.
if ! cd "${SLURM_SUBMIT_DIR:-/}" || [[ ! -f launch/rules.sh ]]; then
  echo "Error: submit it from the repository's root: sbatch launch/slurm.sh -- ..." >&2
  exit 2
fi
source launch/rules.sh
if [[ "${1:-}" != -- ]]; then
  fail "use: sbatch [options of sbatch] launch/slurm.sh -- [arguments of experiments/train.py]"
fi
shift
source launch/setup.sh requirements.txt
# srun does not take this over from sbatch any more.
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK}"; fi

stopping=""
# shellcheck disable=SC2317,SC2329  # the trap calls it
pass_on() {
  stopping=yes
  scancel --signal=TERM "${SLURM_JOB_ID}" || true  # to the tasks; srun itself would kill them
}
trap pass_on TERM

for ((restarts = 0; ; restarts++)); do
  # A port of its own for each start: the last one may still be taken by what was killed.
  export JAX_COORDINATOR_PORT=$((61440 + (SLURM_JOB_ID + 97 * restarts) % 4096))
  srun --kill-on-bad-exit=0 --wait="$(patience "$@")" python "${program}" --distributed "$@" &
  srun=$!
  status=0
  wait "${srun}" || status=$?
  while kill -0 "${srun}" 2>/dev/null; do  # only the signal ended that wait
    status=0
    wait "${srun}" || status=$?
  done
  # srun's status is the highest of all tasks.
  if ! asks_for_restart "${status}"; then exit "${status}"; fi
  if [[ -n "${stopping}" ]]; then break; fi
  if ((restarts == MAX_RESTARTS)); then
    echo "slurm.sh: gave up after ${restarts} restarts." >&2
    exit "${status}"
  fi
  echo "slurm.sh: starting all tasks again ($((restarts + 1)) of ${MAX_RESTARTS})." >&2
done

# Told to stop: by the time limit, while the job still counts as running, or by scancel.
if [[ "$(squeue --noheader --format=%T --jobs="${SLURM_JOB_ID}")" == RUNNING ]]; then
  echo "slurm.sh: saved; queued again." >&2
  scontrol requeue "${SLURM_JOB_ID}"
fi
exit "${PREEMPTED}"
