"""transformers and TRL on the same device, in processes of their own and by random weights."""

import ast
import dataclasses
import json
import pathlib
import subprocess
import sys

from experiments.benchmarks import grpo
from experiments.benchmarks.accelerator import generation, start, training
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Timing, run_script

_REPEATS = 5
_FEWER_TOKENS = 4  # times fewer than ours decode: they are slow, and time is short
Found = dict[str, dict[str, Timing]]  # by case, by peer


def transformers(sizes: Sizes, options: Options, timeout: float) -> Found:
    """Decoding and prefill of every number of slots.

    Raises:
      FileNotFoundError: it is not installed.
      RuntimeError, subprocess.TimeoutExpired: see `timing.run_script`.
    """
    shape = {"slots": sizes.slots, "prompt": sizes.prompt, "new": sizes.new // _FEWER_TOKENS}
    printed = run_script(
        _python(options, "transformers", "torch"), "transformers_accelerator.py",
        str(_backbone(sizes, options)), json.dumps(shape), str(_REPEATS), timeout=timeout,
    )  # fmt: skip
    found = {}
    for slots, rates in printed.items():
        names = {"decode": generation.decode_name, "prefill": generation.prefill_name}
        for kind, name in names.items():
            timing = Timing(tuple(rates[kind]), "tokens/s")
            found[name(sizes, int(slots))] = {generation.PEER: timing}
    return found


def trl(sizes: Sizes, options: Options, timeout: float) -> Found:
    """GRPO steps with transformers' generation; raises as `transformers`."""
    return _trl(sizes, options, timeout, "TRL", "accelerator")


def trl_with_vllm(sizes: Sizes, options: Options, timeout: float) -> Found:
    """GRPO steps with vLLM's generation on the same card; raises as `transformers`."""
    return _trl(sizes, options, timeout, "TRL with vLLM", "vllm", "vllm")


def _trl(
    sizes: Sizes, options: Options, timeout: float, peer: str, where: str, *modules: str
) -> Found:
    shape = training.shape_of_step(sizes)
    settings = json.dumps(dataclasses.asdict(shape) | {"group": grpo.GRPO.group_size})
    printed = run_script(
        _python(options, "trl", "datasets", *modules), "trl_grpo.py",
        str(_backbone(sizes, options)), settings, str(_REPEATS), "bfloat16", where,
        timeout=timeout,
    )  # fmt: skip
    name = training.step_name(sizes)
    return {
        name: {peer: Timing(tuple(printed["step"]))},
        f"{name}: rollout": {peer: Timing(tuple(printed["rollout"]))},
    }


def _backbone(sizes: Sizes, options: Options) -> pathlib.Path:
    folder = options.folder / "backbone"
    if not folder.exists():
        start.write_backbone(folder, sizes.model)
    return folder


def _python(options: Options, *modules: str) -> pathlib.Path:
    """The peers' environment where it was made, else this one; whichever has what is needed."""
    made = options.environments / "trl" / "bin" / "python"
    python = made if made.exists() else pathlib.Path(sys.executable)
    code = f"import importlib.util as u; print([m for m in {modules} if not u.find_spec(m)])"
    command = [str(python), "-c", code]
    missing = ast.literal_eval(subprocess.run(command, capture_output=True, text=True).stdout)
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is not installed in {python.parent.parent} (bash launch/peers.sh)."
        )
    return python
