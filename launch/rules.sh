# shellcheck shell=bash disable=SC2034  # sourced by local.sh, slurm.sh and tpu_pod.sh
# What the launchers agree on: when a job starts again, and how long its processes get to end.
# docs/launching.md has the whole.
PREEMPTED=75                           # EX_TEMPFAIL: saved, the same command goes on
MAX_RESTARTS="${MAX_RESTARTS:-10}"
program="${AGEMEM_PROGRAM:-experiments/train.py}"

fail() {
  echo "Error: $*" >&2
  exit 2
}

# 75 or the end by a signal, which is the death of a machine or what other processes do when
# they miss it. Any other failure would come again.
asks_for_restart() {
  (($1 == PREEMPTED || $1 >= 128))
}

# Seconds after the first failure until the processes that are left are killed: they notice it
# by themselves after --heartbeat_timeout, so a little longer.
patience() {
  local heartbeat=60
  if [[ " $* " =~ \ --?heartbeat_timeout[=\ ]([0-9]+)\  ]]; then heartbeat="${BASH_REMATCH[1]}"; fi
  echo $((heartbeat + ${GRACE:-30}))
}
