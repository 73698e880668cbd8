#!/usr/bin/env bash
# Makes the virtual environments of the programs that experiments/benchmark.py compares with:
# .peers/{trl,tunix,llama_cpp,faiss}. llama.cpp is compiled, which takes some minutes.
#
#   bash launch/peers.sh [folder]
set -euo pipefail
folder="${1:-.peers}"
declare -A requirements=(
  [trl]="trl==1.16.0 transformers==5.23.0 datasets accelerate"
  [tunix]="google-tunix==0.1.7 jax==0.10.2"
  [llama_cpp]="llama-cpp-python==0.3.36"
  [faiss]="faiss-cpu==1.15.1 numpy"
)
for name in "${!requirements[@]}"; do
  if [[ -f "${folder}/${name}/.installed" ]]; then continue; fi
  echo "Making ${folder}/${name} ..."
  "${PYTHON:-python3}" -m venv "${folder}/${name}"
  pip="${folder}/${name}/bin/pip"
  # A CPU build first, or pip takes one with gigabytes of CUDA.
  if [[ "${name}" == trl ]]; then "${pip}" install --quiet torch==2.13.0; fi
  # shellcheck disable=SC2086  # several requirements in one string
  "${pip}" install --quiet ${requirements[${name}]}
  touch "${folder}/${name}/.installed"
done
