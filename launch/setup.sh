#!/usr/bin/env bash
# Makes the virtual environment .venv in the repository root and installs the pinned
# requirements and this package into it. Sourced by the other scripts; safe to repeat.
#
#   bash launch/setup.sh [requirements file ...] && source .venv/bin/activate
#   AGEMEM_EXTRA=cuda bash launch/setup.sh     # with JAX for GPUs; AGEMEM_EXTRA=tpu for TPUs
#
# Installs again only when a requirements file changed since the last time.
# AGEMEM_VENV names another folder; AGEMEM_VENV=none takes the Python on PATH as it is.
set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "${repository}"
requirements=("${@:-requirements.txt}")
if [[ -n "${AGEMEM_EXTRA:-}" ]]; then
  requirements+=("requirements-${AGEMEM_EXTRA}.txt")
  if [[ ! -f "requirements-${AGEMEM_EXTRA}.txt" ]]; then
    echo "Error: AGEMEM_EXTRA=${AGEMEM_EXTRA} must be tpu or cuda." >&2
    exit 2
  fi
fi
venv="${AGEMEM_VENV:-${repository}/.venv}"

if [[ "${venv}" != none ]]; then
  if [[ ! -x "${venv}/bin/python" ]]; then
    "${PYTHON:-python3}" -m venv "${venv}"
  fi
  wanted="$(cat "${requirements[@]}" setup.cfg pyproject.toml | cksum)"
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
