#!/usr/bin/env bash
# Whether the kernels compute the right thing on this machine's GPU, and how fast it goes: tests
# of numerics, then `experiments/benchmark.py --suites=accelerator`. Needs no network, and no
# weights: models are random. Everything is written into FOLDER.
#
#   bash launch/gpu_check.sh FOLDER [SECONDS [FLAGS_OF_THE_BENCHMARK]]
#
# SECONDS is the limit of everything, 780 by default: 13 of 15 minutes. A FOLDER that was used
# before holds compiled programs, and a second run begins with them.
# PYTHON names the interpreter with jax (CUDA), pytest and what requirements.txt has; transformers
# and TRL are measured beside where it has torch, or .peers/trl (launch/peers.sh) is there. Compiled
# programs are kept in AGEMEM_CACHE, by default FOLDER/cache.
set -euo pipefail
if (($# < 1)); then
  echo "Error: no folder is named; use bash launch/gpu_check.sh FOLDER [SECONDS]." >&2
  exit 2
fi
mkdir -p "$1"
folder="$(cd "$1" && pwd)"
limit="${2:-780}"
python="${PYTHON:-python3}"
cd "$(dirname "$0")/.."
# The CPU beside the GPU: memories of ordinary size are searched there.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}" PYTHONPATH="${PWD}"
export AGEMEM_CACHE="${AGEMEM_CACHE:-${folder}/cache}"

# Better told now than after minutes of a card's time.
"${python}" - <<'END'
import importlib.metadata
import pathlib
import re
import sys

missing = []
for line in [*pathlib.Path("requirements.txt").read_text().splitlines(), "pytest"]:
    if name := re.match(r"[\w.-]+", line):
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(name[0])
if missing:
    lacks = f"{sys.executable} lacks {', '.join(missing)}"
    print(f"Warning: {lacks} of requirements.txt; what needs them fails.", file=sys.stderr)
END

remaining() { echo $((limit - SECONDS > 10 ? limit - SECONDS : 10)); }

"${python}" - <<'END' > "${folder}/machine.txt" 2>&1 || true
import jax
print("jax", jax.__version__)
for device in jax.devices():
    print(device.device_kind, getattr(device, "compute_capability", ""), device.memory_stats())
END
nvidia-smi >> "${folder}/machine.txt" 2>&1 || true
cat "${folder}/machine.txt"

status=0
tests=$((limit / 4))
timeout --kill-after=5 "${tests}" "${python}" -m pytest -q -rs -p no:cacheprovider \
  tests/models/test_cuda_on_device.py > "${folder}/tests.txt" 2>&1 || status=$?
tail -n 15 "${folder}/tests.txt"
echo "Tests of numerics ended with ${status} after ${SECONDS} s."

# The suite ends itself in time, so that its table is written; `timeout` is for what hangs.
budget=$(($(remaining) - 30))
timeout --kill-after=5 "$(remaining)" "${python}" experiments/benchmark.py --suites=accelerator \
  --peers --budget="$((budget > 1 ? budget : 1))" --output="${folder}" "${@:3}" \
  > "${folder}/benchmark.txt" 2>&1 || status=$?
tail -n 5 "${folder}/benchmark.txt"
if [[ -f "${folder}/benchmark.md" ]]; then cat "${folder}/benchmark.md"; fi
echo "All was written to ${folder} within ${SECONDS} s."
exit "${status}"
