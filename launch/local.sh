#!/usr/bin/env bash
# Runs experiments/train.py in N processes on this machine, which are one JAX job.
#
#   bash launch/local.sh N -- [arguments of experiments/train.py]
#
#   JAX_NUM_CPU_DEVICES=4 bash launch/local.sh 2 -- \
#       --config=experiments/configs/quickstart.py --workdir=runs/two
#
# On NVIDIA GPUs each process gets one of its own: with AGEMEM_EXTRA=cuda, N of them are used.
# If a process is preempted (status 75) or killed, all start again and continue from the newest
# checkpoint, at most MAX_RESTARTS times (default 10). SIGTERM and SIGINT go to all processes:
# they save, and this script ends with 75. docs/launching.md has the rules.
set -euo pipefail
launch="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "${launch}/rules.sh"
if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ && "${2:-}" == -- ]]; then
  fail "use: bash launch/local.sh N -- [arguments of experiments/train.py]"
fi
processes="$1"
shift 2
source "${launch}/setup.sh" requirements.txt

gpus=(/dev/nvidia[0-9]*)
by_gpu=""
if [[ -e "${gpus[0]}" && " ${AGEMEM_EXTRA:-} " == *" cuda "* && -z "${JAX_CUDA_VISIBLE_DEVICES:-}" ]]; then
  by_gpu=yes
  if ((processes > ${#gpus[@]})); then
    fail "${processes} processes want a GPU each, and this machine has ${#gpus[@]}"
  fi
fi

running=()
stopping=""
pass_on() {
  stopping=yes
  kill -TERM "${running[@]}" 2>/dev/null || true
}
trap pass_on TERM INT

start() {
  local port i
  # A port of its own for each start: the last one may still be taken by what was killed.
  port="$(python -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])')"
  set -m  # process groups: Ctrl-C reaches this script alone, SIGKILL also children
  for ((i = 0; i < processes; i++)); do
    if [[ -n "${by_gpu}" ]]; then export JAX_CUDA_VISIBLE_DEVICES="${i}"; fi
    python "${program}" "$@" --coordinator="127.0.0.1:${port}" --num_processes="${processes}" \
      --process_id="${i}" &
    running+=("$!")
  done
  set +m
  if [[ -n "${stopping}" ]]; then pass_on; fi  # it came before there was anyone to tell
}

# Sets again to a status that asks for a restart, and failure to the first other one.
wait_for_all() {
  local pid status deadline="" left
  again=0 failure=0
  while ((${#running[@]})); do
    sleep 0.2 || true  # Ctrl-C ends it, too
    left=()
    for pid in "${running[@]}"; do
      if kill -0 "${pid}" 2>/dev/null; then left+=("${pid}"); continue; fi
      status=0
      wait "${pid}" || status=$?
      if ((status == 0)); then continue; fi
      echo "local.sh: a process ended with status ${status}." >&2
      deadline="${deadline:-$((SECONDS + $(patience "$@")))}"
      if asks_for_restart "${status}"; then again="${status}"
      elif ((failure == 0)); then failure="${status}"; fi
    done
    running=("${left[@]}")
    if [[ -n "${deadline}" ]] && ((SECONDS >= deadline)); then
      for pid in "${running[@]}"; do kill -KILL -- "-${pid}" || true; done
      wait "${running[@]}" || true
      running=()
    fi
  done
}

for ((restarts = 0; ; restarts++)); do
  start "$@"
  wait_for_all "$@"
  if ((again == 0)); then exit "${failure}"; fi
  if [[ -n "${stopping}" ]]; then exit "${PREEMPTED}"; fi
  if ((restarts == MAX_RESTARTS)); then
    echo "local.sh: gave up after ${restarts} restarts." >&2
    exit "${again}"
  fi
  echo "local.sh: starting all processes again ($((restarts + 1)) of ${MAX_RESTARTS})." >&2
done
