#!/usr/bin/env bash
# Proves that what is declared is enough: in an environment of requirements.txt alone, without
# what the tests bring along, every module is imported and every program runs on a small backbone
# that has a chat template; first those of this clone, then the console commands of a wheel, in
# an empty folder with an empty home. Takes some minutes and leaves nothing behind.
#
#   bash launch/check_install.sh
set -euo pipefail
scratch="$(mktemp -d)"
trap 'rm -rf "${scratch}"' EXIT
export JAX_PLATFORMS=cpu AGEMEM_VENV="${scratch}/venv" AGEMEM_EXTRA="" PYTHONPATH=""
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt

one_iteration=(
  --config.backbone="${scratch}/backbone" --config.model.lora_rank=2 --config.warmup.steps=0
  --config.curriculum.iterations="(1,)" --config.curriculum.tasks_per_iteration=1
  --config.grpo.group_size=2 --config.tasks.options.max_messages=3 --config.tasks.eval_size=2
  --config.episode.max_context_tokens=544
  --config.episode.max_response_tokens=16 --config.episode.max_summary_tokens=8
  --config.episode.max_rounds=1 --config.engine.slots=2 --config.engine.max_length=560
  --config.engine.prefill_buckets="(64,)" --config.engine.attend_buckets="()"
  --config.engine.decode_rows="()" --config.packing.row_lengths="(560,)" --config.packing.rows=1
  --config.evaluation.bootstrap_samples=100
)

# What one of them has compiled, the others find there.
export JAX_COMPILATION_CACHE_DIR="${scratch}/compiled"

of_clone() { python "experiments/$1.py" "${@:2}"; }
of_wheel() {
  env -i HOME="${scratch}/home" PATH="${PATH}" JAX_PLATFORMS="${JAX_PLATFORMS}" \
    JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR}" "agemem-${1%_weights}" "${@:2}"
}

# run_all PROGRAM CONFIGURATION WORKDIR: where PROGRAM is one of the two above.
run_all() {
  local file
  "$1" train --config="$2" --workdir="$3" "${one_iteration[@]}"
  "$1" evaluate --workdir="$3" --methods=no_memory,agemem
  "$1" export --workdir="$3" --output="$3/merged"
  "$1" export --workdir="$3" --output="$3/adapter" --adapter
  "$1" backbones > "$3/backbones"
  "$1" fetch_weights --help > "$3/help"
  for file in config.json metrics.jsonl evaluation.json trajectories.md learning_curve.png \
    merged/model.safetensors merged/chat_template.jinja adapter/adapter_model.safetensors \
    backbones help; do
    if [[ ! -s "$3/${file}" ]]; then
      echo "Error: ${file} is missing of what ${1#of_}'s programs should have written." >&2
      exit 1
    fi
  done
}

# Programs define flags of the same names, so each is imported by a process of its own. With -P the
# clone is not where Python looks for modules: as for a program that is started by its path.
grep --files-with-matches --null --fixed-strings '__name__ == "__main__"' experiments/*.py \
  experiments/checks/*.py launch/*.py |
  xargs -0 -n 1 -P 2 python -P -c 'import runpy, sys; runpy.run_path(sys.argv[1])'
python - <<'END'
import importlib
import pkgutil

import agemem_jax
import experiments.benchmarks

# Module, and what it needs beside requirements.txt.
EXTRA = {
    "agemem_jax.commands.serve_setup": "requirements-serve.txt",
    "agemem_jax.serving.server": "requirements-serve.txt",
    "experiments.benchmarks.peers": "each the environment of its peer, by launch/peers.sh",
}
names = [
    module.name
    for package in (agemem_jax, experiments.benchmarks)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.startswith(tuple(EXTRA))
]
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules were imported; left out, with what they need: {EXTRA}")
END
python -c "from tests.small_models import write_model; write_model('${scratch}/backbone', 'llama')"
run_all of_clone experiments/configs/quickstart.py "${scratch}/of_clone"

# Built from a copy of what git knows or could know, since an older build's files stay in the next.
mkdir "${scratch}/source" "${scratch}/home" "${scratch}/empty"
git ls-files -z --cached --others --exclude-standard |
  xargs -0 cp --parents --no-dereference --target-directory="${scratch}/source"
pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir="${scratch}" "${scratch}/source"
pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "${scratch}"/*.whl
pip check  # what the wheel asks for is there
python - "${scratch}"/*.whl <<'END'
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
if tops != {"agemem_jax"}:
    sys.exit(f"Error: the wheel puts {', '.join(sorted(tops))} into site-packages.")
print(f"The wheel holds {len(names)} files, all of agemem_jax.")
END
cd "${scratch}/empty"
run_all of_wheel quickstart run
echo "All modules were imported and all programs ran, of the clone and of the wheel."
