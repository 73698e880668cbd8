#!/usr/bin/env bash
# Makes the virtual environment .venv in the repository root and installs the pinned
# requirements and this package into it. Sourced by the other scripts; safe to repeat.
#
#   bash launch/setup.sh [requirements file ...] && source .venv/bin/activate
#   AGEMEM_EXTRA=cuda bash launch/setup.sh     # with JAX for GPUs; AGEMEM_EXTRA=tpu for TPUs
#   AGEMEM_EXTRA="cuda benchmarks" bash launch/setup.sh     # and with the benchmarks' simulators
#
# Python is the one that PYTHON names, or a python3, python3.12, python3.13 or python3.14 on PATH
# that is new enough, or one that uv brings; uv itself is taken from PATH or from PyPI.
# Installs again only when a requirements file changed since the last time.
# AGEMEM_VENV names another folder; AGEMEM_VENV=none takes the Python on PATH as it is.
set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "${repository}"
requirements=("${@:-requirements.txt}")
for extra in ${AGEMEM_EXTRA:-}; do
  if [[ ! -f "requirements-${extra}.txt" ]]; then
    echo "Error: AGEMEM_EXTRA=${AGEMEM_EXTRA} must be some of tpu, cuda, benchmarks, openenv, serve, wandb." >&2
    exit 2
  fi
  requirements+=("requirements-${extra}.txt")
done
venv="${AGEMEM_VENV:-${repository}/.venv}"
wanted_python="$(cat .python-version)"  # the oldest one; pyenv and uv read the file, too

no_python() {
  echo "Error: agemem_jax needs Python ${wanted_python} or newer; $*" >&2
  exit 1
}

is_new_enough() {
  "$1" -c "import sys; sys.exit(sys.version_info < (${wanted_python/./, }))" 2>/dev/null
}

version_of() {  # such as 3.10
  "$1" -c "import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null || echo "not there"
}

# By a Python of this machine; false if none will do. Debian may leave ensurepip out of one.
make_venv() {
  local python
  for python in python3 python3.12 python3.13 python3.14; do
    if is_new_enough "${python}" && "${python}" -c "import ensurepip" 2>/dev/null; then
      "${python}" -m venv "${venv}"
      return
    fi
  done
  return 1
}

# By a Python that uv finds or fetches; false where it cannot. An older Python brings uv itself.
make_venv_by_uv() {
  local folder python uv status=0
  folder="$(mktemp -d)"
  uv="$(command -v uv || echo "${folder}/bin/uv")"
  for python in python3 /usr/bin/python3; do
    if [[ -x "${uv}" ]]; then break; fi
    if "${python}" -m venv "${folder}/venv"; then python="${folder}/venv/bin/python"; fi
    "${python}" -m pip install --quiet --disable-pip-version-check --target="${folder}" uv
  done > /dev/null 2>&1
  if [[ -x "${uv}" ]]; then
    echo "Making ${venv} by uv, which may fetch Python ${wanted_python} ..."
    "${uv}" venv --quiet --seed --python="${wanted_python}" "${venv}" || status=$?
  else
    status=1
  fi
  rm -rf "${folder}"
  return "${status}"
}

if [[ "${venv}" == none ]]; then
  is_new_enough python || no_python "the one on PATH is $(version_of python)."
else
  if [[ -x "${venv}/bin/python" ]] && ! is_new_enough "${venv}/bin/python"; then
    if [[ ! -f "${venv}/.installed" ]]; then  # not made here
      no_python "that of ${venv} is $(version_of "${venv}/bin/python"): remove the folder, or" \
        "name another one by AGEMEM_VENV."
    fi
    echo "Making ${venv} anew: its Python is $(version_of "${venv}/bin/python")."
    rm -rf "${venv}"
  fi
  if [[ ! -x "${venv}/bin/python" ]]; then
    if [[ -n "${PYTHON:-}" ]]; then
      is_new_enough "${PYTHON}" || no_python "PYTHON=${PYTHON} is $(version_of "${PYTHON}")."
      "${PYTHON}" -m venv "${venv}"
    elif ! make_venv && ! make_venv_by_uv; then
      no_python "python3 is $(version_of python3), no other one is on PATH, and uv could not" \
        "bring one: install Python ${wanted_python} with its venv, or name one by PYTHON=..."
    fi
  fi
  wanted="$({ "${venv}/bin/python" -VV; cat "${requirements[@]}" setup.cfg pyproject.toml; } |
    cksum)"
  if [[ "$(cat "${venv}/.installed" 2>/dev/null || true)" != "${wanted}" ]]; then
    echo "Installing ${requirements[*]} into ${venv} ..."
    arguments=()
    for file in "${requirements[@]}"; do arguments+=(-r "${file}"); done
    "${venv}/bin/pip" install --quiet --disable-pip-version-check "${arguments[@]}"
    "${venv}/bin/pip" install --quiet --disable-pip-version-check --no-deps --editable .
    echo "${wanted}" > "${venv}/.installed"
  fi
  export PATH="${venv}/bin:${PATH}"
fi
export TRANSFORMERS_NO_ADVISORY_WARNINGS=1  # it misses PyTorch, which nothing here needs
