"""From the start of `train.py` to its first token, and to the end of its first GRPO iteration."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from agemem_jax.models import hf_config, loading, tokenizers
from agemem_jax.models.config import DecoderConfig
from agemem_jax.protocol.chat_formats import CHAT_FORMATS
from experiments.benchmarks.accelerator import episodes
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.timing import Case, Timing

_ROOT = pathlib.Path(__file__).parents[3]
_WANTED = {"cold": (40.0, 120.0), "warm": (15.0, 30.0)}
_TOLD = (re.compile(r"First token sampled"), re.compile(r"joint 1/1 "))


def run(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Cases of a start with an empty folder of compiled programs, and of one with a full one.

    Both happen once: the cold one cannot be repeated in the time there is.
    """
    del repeats
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_backbone(folder / "backbone", sizes.model)
        for state, wanted in _WANTED.items():
            name = f"train.py, {sizes.model_name}, LoRA, {state}"
            seconds = _start(sizes, folder, state)
            for place, most in zip(("first token", "first iteration"), wanted, strict=True):
                yield Case(
                    f"{name}: to the {place}", Timing((next(seconds),)),
                    {"at most": Timing((most,))}, wanted={"at most": 1.0},
                    note="with an empty folder of compiled programs" if state == "cold" else "",
                )  # fmt: skip
            seconds.close()  # and with it the process, before the next one needs the device


def write_backbone(folder: pathlib.Path, model: DecoderConfig) -> None:
    """A model's directory without weights, of the tokenizer that ships with the package."""
    folder.mkdir()
    chat = CHAT_FORMATS["chatml"]
    tokenizer = tokenizers.from_file(loading.assets("tiny") / "tokenizer.json")
    tokenizer.chat_template = chat.template
    tokenizer.eos_token = tokenizer.pad_token = chat.stop
    tokenizer.save_pretrained(folder)
    stop = tokenizer.get_vocab()[chat.stop]
    values = hf_config.to_values(model, eos_token_id=stop, bos_token_id=None, pad_token_id=stop)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def _start(sizes: Sizes, folder: pathlib.Path, state: str) -> Iterator[float]:
    """Seconds to each of `_TOLD`, as soon as it is told; then the process ends."""
    options = {
        "backbone": folder / "backbone", "model.init": "random",
        "model.compute_dtype": "bfloat16", "model.param_dtype": "bfloat16",
        "model.lora_rank": sizes.lora_rank, "curriculum.iterations": (1,),
        "curriculum.tasks_per_iteration": sizes.tasks_of_run,
        "grpo.group_size": sizes.group_of_run,
        "packing.row_lengths": (1024,), "packing.max_targets": 1024,
    }  # fmt: skip
    options |= {f"engine.{name}": each for name, each in episodes.engine_options(sizes).items()}
    command = [
        sys.executable, str(_ROOT / "experiments" / "train.py"),
        f"--config={_ROOT / 'experiments' / 'configs' / 'quickstart.py'}",
        f"--workdir={folder / state}",
        *(f"--config.{name}={value}" for name, value in options.items()),
    ]  # fmt: skip
    environment = os.environ | {"AGEMEM_CACHE": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    begun = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    told, lines = iter(_TOLD), []
    waiting_for = next(told)
    try:
        for line in process.stderr:
            lines.append(line)
            if waiting_for.search(line):
                yield time.perf_counter() - begun
                waiting_for = next(told, None)
                if waiting_for is None:
                    return
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    raise RuntimeError(f"train.py ended too early: {''.join(lines[-3:]).strip()}")
