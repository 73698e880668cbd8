#!/usr/bin/env bash
# Starts a Slurm cluster of this one machine, by hand and in a folder of its own, so that
# launch/slurm.sh can be tried. Needs root and "apt-get install slurm-wlm munge".
#
#   bash tests/launch/slurm_on_one_machine.sh start [folder]     # default /tmp/agemem-slurm
#   SLURM_CONF=/tmp/agemem-slurm/slurm.conf sbatch --ntasks=2 launch/slurm.sh -- ...
#   bash tests/launch/slurm_on_one_machine.sh stop [folder]
set -euo pipefail
action="${1:-}"
folder="${2:-/tmp/agemem-slurm}"
export SLURM_CONF="${folder}/slurm.conf"

stop() {
  local name pid
  for name in slurmd slurmctld munged; do
    pid="$(cat "${folder}/${name}.pid" 2>/dev/null || true)"
    if [[ -z "${pid}" ]]; then continue; fi
    kill "${pid}" 2>/dev/null || true
    while kill -0 "${pid}" 2>/dev/null; do sleep 0.1; done
    rm -f "${folder}/${name}.pid"
  done
}

start() {
  local node port
  node="$(hostname -s)"
  # By the folder, so that two such clusters do not meet.
  port=$((20000 + $(cksum <<< "${folder}" | cut -d ' ' -f 1) % 5000 * 2))
  mkdir -p "${folder}/state" "${folder}/spool"
  chmod 755 "${folder}"
  # What both daemons and clients show each other to prove who they are.
  if [[ ! -f "${folder}/munge.key" ]]; then
    (umask 077 && head -c 128 /dev/urandom > "${folder}/munge.key")
  fi
  # config_overrides: more tasks than this machine has cores, as a test may want.
  # linuxproc: no cgroups, which a container may not give.
  cat > "${SLURM_CONF}" <<CONF
ClusterName=one
SlurmctldHost=${node}
SlurmUser=root
SlurmctldPort=${port}
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=${folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=5
StateSaveLocation=${folder}/state
SlurmdSpoolDir=${folder}/spool
SlurmctldPidFile=${folder}/slurmctld.pid
SlurmdPidFile=${folder}/slurmd.pid
SlurmctldLogFile=${folder}/slurmctld.log
SlurmdLogFile=${folder}/slurmd.log
NodeName=${node} CPUs=8 State=UNKNOWN
PartitionName=main Nodes=${node} Default=YES MaxTime=INFINITE State=UP
CONF
  munged --force --key-file="${folder}/munge.key" --socket="${folder}/munge.socket" \
    --pid-file="${folder}/munged.pid" --log-file="${folder}/munged.log" \
    --seed-file="${folder}/munged.seed"
  slurmctld
  slurmd
  for _ in {1..50}; do
    if [[ "$(sinfo --noheader --format=%T 2>/dev/null)" == idle ]]; then
      echo "Slurm runs. Submit with: SLURM_CONF=${SLURM_CONF} sbatch ..."
      return
    fi
    sleep 0.2
  done
  echo "Error: the node does not come up; see ${folder}/slurmctld.log and slurmd.log." >&2
  exit 1
}

case "${action}" in
  start) stop; start ;;
  stop) stop ;;
  *) echo "Error: use: bash tests/launch/slurm_on_one_machine.sh start|stop [folder]" >&2; exit 2 ;;
esac
