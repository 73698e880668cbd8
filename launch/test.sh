#!/usr/bin/env bash
# Sets up the environment, fetches the real weights that tests compare with (190 MB, once),
# lints, and runs the tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-dev.txt \
  requirements-serve.txt requirements-docs.txt
# Two of the simulators are compiled, for which a machine may lack what it takes.
if ! python -m pip install --quiet --disable-pip-version-check \
  -r requirements-benchmarks.txt -r requirements-openenv.txt; then
  echo "Tests of the benchmarks will be skipped, since these could not be installed." >&2
fi
ruff check .
ruff format --check .
if ! python experiments/fetch_weights.py; then
  echo "Tests of the real weights will be skipped, since they could not be fetched." >&2
fi
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"  # compilers for TPUs and GPUs are there, and find none
workers=2  # most of the time is compilation, on one core: two files at a time
if [[ "${JAX_PLATFORMS}" == *cuda* ]]; then workers=0; fi  # one process has a GPU's memory
python -m pytest -rs -n "${workers}" --dist loadfile --no-loadscope-reorder "$@"
