"""Measures the library against its peers and against the machine's limits.

    bash launch/peers.sh                                   # once: the peers' environments
    python experiments/benchmark.py --suites=decode,memory --peers
    python experiments/benchmark.py                        # all suites for CPUs, ours alone
    python experiments/benchmark.py --suites=accelerator --peers       # on a GPU, ten minutes

Peers run one after the other in the same run as ours. Absolute figures move from machine to
machine, ratios less. Writes benchmark.json and benchmark.md into --output.
"""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

import jax
import rich
from absl import app, flags, logging

from agemem_jax.commands import cli
from experiments.benchmarks import agemem, decode, growth, grpo, memory, reports, startup, timing
from experiments.benchmarks.accelerator import suite as accelerator
from experiments.benchmarks.options import Options

# What a run measures that names no suite, and what wants to be named.
_BY_DEFAULT = {
    "decode": decode.run,
    "episodes": agemem.run_episodes,
    "update": agemem.run_update,
    "grpo_step": grpo.run,
    "memory": memory.run,
    "startup": startup.run,
    "growth": growth.run,
}
SUITES = _BY_DEFAULT | {"accelerator": accelerator.run}
_SUITES = flags.DEFINE_list(
    "suites", list(_BY_DEFAULT), "What to measure; accelerator, which is for GPUs, as well."
)
_PEERS = flags.DEFINE_bool("peers", False, "Measure the peers as well.")
_ENVIRONMENTS = flags.DEFINE_string("environments", ".peers", "What launch/peers.sh made.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each thing.", 1)
_STEPS = flags.DEFINE_list(
    "steps", [], "What `grpo_step` measures of: SmolLM2-135M, small, 4 turns, 8 turns; or all."
)
_HOTPOTQA = flags.DEFINE_string(
    "hotpotqa", None, "A JSON file of HotpotQA's rows: `episodes` then plays SmolLM2 on them, too."
)
_PARTS = flags.DEFINE_list(
    "parts", [], f"What `accelerator` measures of: {', '.join(accelerator.PARTS)}; or all."
)
_BUDGET = flags.DEFINE_integer(
    "budget", 600, "Seconds that `accelerator` takes at most; what no longer fits is left out.", 1
)
_OUTPUT = flags.DEFINE_string("output", "runs/benchmark", "Where the report goes.")
_TRACE = flags.DEFINE_string("trace", None, "Write a profile here, for Perfetto or XProf.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    unknown = [name for name in _SUITES.value if name not in SUITES]
    if unknown:
        raise ValueError(f"No suite is called {unknown[0]!r}; known: {', '.join(SUITES)}.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    if "accelerator" in _SUITES.value:
        accelerator.leave_memory()
    report = {"machine": timing.machine(), "suites": {}}
    report["machine"]["memory_bandwidth"] = str(timing.memory_bandwidth(_REPEATS.value))
    with tempfile.TemporaryDirectory() as folder:
        options = Options(
            repeats=_REPEATS.value,
            peers=_PEERS.value,
            environments=pathlib.Path(_ENVIRONMENTS.value).resolve(),
            folder=pathlib.Path(folder),
            output=output,
            steps=_STEPS.value,
            hotpotqa=pathlib.Path(_HOTPOTQA.value).resolve() if _HOTPOTQA.value else None,
            parts=_PARTS.value,
            budget=_BUDGET.value,
        )
        if _TRACE.value:
            quiet = jax.profiler.ProfileOptions()
            quiet.python_tracer_level = 0  # every call of Python's would crowd out the device's
            jax.profiler.start_trace(_TRACE.value, profiler_options=quiet)
        failed = []
        for name in _SUITES.value:
            logging.info("Suite %s", name)
            try:
                report["suites"][name] = SUITES[name](options)
            except RuntimeError as error:  # a peer's; the other suites are worth having
                logging.error("Suite %s: %s", name, error)
                failed.append(name)
            (output / "benchmark.json").write_text(
                json.dumps(reports.plain(report), indent=2) + "\n"
            )
            (output / "benchmark.md").write_text(reports.markdown(report))
        if _TRACE.value:
            jax.profiler.stop_trace()
    rich.print(reports.markdown(report))
    rich.print(f"Wrote benchmark.json and benchmark.md to {output}")
    if failed:
        raise ValueError(f"These suites failed, see above: {', '.join(failed)}.")


if __name__ == "__main__":
    cli.run(main)
