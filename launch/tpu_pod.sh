#!/usr/bin/env bash
# Runs experiments/train.py on all workers of a Cloud TPU pod: asks for the pod (a queued
# resource) unless it is there, copies this repository to the workers, installs it, starts the
# program and follows worker 0's log. It runs on when this script is interrupted; the same
# command follows it again, or starts it again on the pod that is there.
#
#   bash launch/tpu_pod.sh --name=NAME --zone=ZONE --accelerator=TYPE [--project=PROJECT]
#       [--runtime=VERSION] [--spot] [--dry_run] -- [arguments of experiments/train.py]
#   bash launch/tpu_pod.sh --name=NAME --zone=ZONE --delete     # stops, saves, gives the pod back
#
#   bash launch/tpu_pod.sh --name=agemem --zone=us-west4-a --accelerator=v5litepod-16 --spot -- \
#       --config=experiments/configs/smollm2_hotpotqa.py --workdir=gs://BUCKET/runs/a
#
# --dry_run prints every command and runs none. A preempted pod is asked for again; if a process
# is preempted (status 75) or killed, all start again, at most MAX_RESTARTS times (default 10).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/rules.sh

name="" zone="" accelerator="" project="" runtime="" spot="" dry_run="" delete="" created=""
while (($#)) && [[ "$1" != -- ]]; do
  case "$1" in
    --name=* | --zone=* | --accelerator=* | --project=* | --runtime=*)
      option="${1%%=*}"
      printf -v "${option#--}" %s "${1#*=}" ;;
    --spot | --dry_run | --delete) printf -v "${1#--}" yes ;;
    *) fail "unknown option $1; the arguments of experiments/train.py come after --" ;;
  esac
  shift
done
if [[ -z "${name}" || -z "${zone}" ]]; then fail "--name and --zone are needed"; fi
if [[ -z "${delete}" && (-z "${accelerator}" || $# == 0) ]]; then
  fail "--accelerator is needed, and -- before the arguments of experiments/train.py"
fi
if (($#)); then shift; fi
if [[ -z "${runtime}" ]]; then
  case "${accelerator}" in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
fi
where=(--zone="${zone}" ${project:+--project="${project}"} --quiet)

quoted() {  # the words as a shell reads them
  local word
  for word in "$@"; do
    if [[ ! "${word}" =~ ^[a-zA-Z0-9_./:=,@%+-]+$ ]]; then word="${word@Q}"; fi
    printf ' %s' "${word}"
  done
}
exec 3>&1  # commands are printed here even where their output is read
run() {
  echo "+$(quoted "$@")" >&3
  if [[ -z "${dry_run}" ]]; then "$@"; fi
}
resource() { run gcloud compute tpus queued-resources "$1" "${name}" "${where[@]}" "${@:2}"; }
vm() { run gcloud compute tpus tpu-vm "$1" "${@:2}" "${where[@]}"; }
worker() {  # worker NUMBER|all ACTION [argument ...]; see tpu_worker.sh
  vm ssh "${name}" --worker="$1" --command="bash agemem/launch/tpu_worker.sh$(quoted "${@:2}")"
}

# READY, or why not: empty where nothing was asked for yet.
find_state() {
  state="$(resource describe --format='value(state.state)' 2>/dev/null || true)"
  if [[ -n "${dry_run}" ]]; then state="${created:+ACTIVE}"; fi
  if [[ "${state}" != ACTIVE ]]; then return; fi
  # A preempted machine shows before its queued resource does.
  state="$(vm describe "${name}" --format='value(state)' || echo UNKNOWN)"
  if [[ -n "${dry_run}" ]]; then state=READY; fi
}

make_ready() {
  while find_state && [[ "${state}" != READY ]]; do
    case "${state}" in
      "") resource create --node-id="${name}" --accelerator-type="${accelerator}" \
            --runtime-version="${runtime}" ${spot:+--spot}
          created=yes ;;
      SUSPENDING | SUSPENDED | PREEMPTED | TERMINATED) resource delete --force ;;
      FAILED) fail "the queued resource ${name} failed; --delete gives it back" ;;
      *) echo "${name} is ${state}; waiting." >&2; sleep "${POLL:-30}" ;;
    esac
  done
}

install() {
  local archive="${TMPDIR:-/tmp}/${name}.tar.gz"
  # What git knows or could know: no environments, runs or caches.
  local pack="git ls-files -z --cached --others --exclude-standard"
  run bash -c "${pack} | tar --create --gzip --null --files-from=- --file=${archive@Q}"
  vm scp "${archive}" "${name}:agemem.tar.gz" --worker=all
  vm ssh "${name}" --worker=all --command="mkdir -p agemem && tar -xzf agemem.tar.gz -C agemem"
  worker all install
}

if [[ -n "${delete}" ]]; then
  worker all stop || true  # there may be no machine any more
  resource delete --force
  exit
fi
restarts=0
while :; do
  make_ready
  if [[ "$(worker 0 state || true)" != *"agemem: running"* ]]; then
    install
    worker all start "$@"
  fi
  # This ends with the program, or with the connection.
  worker 0 follow || true
  if [[ "$(worker 0 state || true)" == *"agemem: running"* ]]; then continue; fi
  find_state
  if [[ "${state}" != READY ]]; then continue; fi  # preempted: no fault of the job
  failure=0 again=0
  statuses="$(worker all finish "$(patience "$@")" | sed -n 's/.*agemem: status //p' || true)"
  if [[ -n "${dry_run}" ]]; then statuses=0; fi
  for status in ${statuses:-${PREEMPTED}}; do  # no answer: the machines have just gone
    if ((status)); then echo "tpu_pod.sh: a worker ended with status ${status}." >&2; fi
    if asks_for_restart "${status}"; then again="${status}"
    elif ((failure == 0)); then failure="${status}"; fi
  done
  if ((again == 0)); then exit "${failure}"; fi
  if ((restarts++ == MAX_RESTARTS)); then
    echo "tpu_pod.sh: gave up after ${MAX_RESTARTS} restarts." >&2
    exit "${again}"
  fi
  echo "tpu_pod.sh: starting all workers again (${restarts} of ${MAX_RESTARTS})." >&2
done
