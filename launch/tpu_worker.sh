#!/usr/bin/env bash
# What launch/tpu_pod.sh calls on each worker of the pod. The program outlives the connection;
# its log, process id and exit status are in ~/agemem-run.
#
#   bash launch/tpu_worker.sh install | start [arguments of experiments/train.py] | follow
#   bash launch/tpu_worker.sh state | stop | finish SECONDS
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/rules.sh
folder="${HOME}/agemem-run"
mkdir -p "${folder}"
action="${1:-}"
shift || true
export AGEMEM_EXTRA=tpu

is_running() { kill -0 "$(cat "${folder}/pid" 2>/dev/null)" 2>/dev/null; }

# Waits until the program ended; false if it had to be killed after so many seconds.
finish() {
  local deadline=$((SECONDS + $1))
  while is_running && ((SECONDS < deadline)); do sleep 0.2; done
  if ! is_running; then return; fi
  kill -KILL -- "-$(cat "${folder}/pid")" || true
  return 1
}

case "${action}" in
  install)  # TPU machines may come with an older Python, by which setup.sh gets a newer one
    if ! python3 -m pip --version > /dev/null 2>&1 && ! python3 -c "import ensurepip"; then
      sudo apt-get update --quiet
      sudo apt-get install --quiet --yes -o DPkg::Lock::Timeout=300 python3-venv
    fi
    source launch/setup.sh requirements.txt ;;
  start)
    finish 0 || true  # left over from a start that was not seen to its end
    rm -f "${folder}/status"
    nohup setsid bash launch/tpu_worker.sh run "$@" > "${folder}/log" 2>&1 < /dev/null &
    echo "$!" > "${folder}/pid" ;;
  run)
    source launch/setup.sh requirements.txt
    # An error instead of a quiet fall back to the CPU.
    export JAX_PLATFORMS="${JAX_PLATFORMS:-tpu,cpu}"
    trap : TERM  # "stop" tells the whole process group; this shell waits for the status
    status=0
    python "${program}" --distributed "$@" || status=$?
    echo "${status}" > "${folder}/status" ;;
  follow)
    tail --lines=100 --follow --sleep-interval=0.2 --pid="$(cat "${folder}/pid")" \
      "${folder}/log" ;;
  state) if is_running; then echo "agemem: running"; fi ;;
  stop)
    kill -TERM -- "-$(cat "${folder}/pid")" || true
    finish 300 || true ;;
  finish)
    # One that had to be killed says nothing about why the others ended; without a status where
    # nothing was killed, the machine was started anew.
    if finish "$1"; then
      echo "agemem: status $(cat "${folder}/status" 2>/dev/null || echo "${PREEMPTED}")"
    fi ;;
  *) fail "unknown action '${action}'; see launch/tpu_worker.sh" ;;
esac
