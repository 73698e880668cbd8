#!/usr/bin/env bash
# Makes the virtual environment .venv in the repository root and installs the pinned
# requirements and this package into it. Sourced by the other scripts; safe to repeat.
#
#   source launch/setup.sh [requirements file ...]
#
# Installs again only when a requirements file changed since the last time.
set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "${repository}"
requirements=("${@:-requirements.txt}")
venv="${AGEMEM_VENV:-${repository}/.venv}"

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
# Compiled programs are kept between runs, so that a second start is quick.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${HOME}/.cache/agemem_jax/compiled}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.5}"
