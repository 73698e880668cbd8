"""The flags of the programs that play held-out tasks: PLAYED, SOURCES and TASKS."""

from absl import flags

from agemem_jax.methods.registry import COMPARED, METHODS
from agemem_jax.tasks.registry import SOURCES as KNOWN_SOURCES

PLAYED = flags.DEFINE_list(
    "methods", None, "Methods to compare, in this order, each by name or package.module:attribute, "
    "with +rl behind it to have the weights after RL; default: all that there are weights for, of "
    f"{', '.join(COMPARED)}; there are also "
    f"{', '.join(name for name in METHODS.names if name not in COMPARED)}.",
)  # fmt: skip
SOURCES = flags.DEFINE_multi_string(
    "task_source", [], "Where tasks come from instead of the run's source: by name or "
    "package.module:attribute, with options as in 'babyai(data_dir=\"data\")'; may be repeated. "
    f"There are {', '.join(KNOWN_SOURCES.names)}.",
)  # fmt: skip
TASKS = flags.DEFINE_integer("tasks", None, "Held-out tasks; default: the run's.", 1)
