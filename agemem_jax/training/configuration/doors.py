"""Options of parts that a configuration names: they appear in it with the name.

Config files use `use_tasks`, `use_credit` and `add_reward`, which take a part by its name or
itself, and keep its name; on a command line the names come first in effect, wherever they stand,
and their options after them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from agemem_jax.plugins.registry import Registry, name_of, split
from agemem_jax.rewards.registry import COMPONENTS, in_variant
from agemem_jax.tasks.registry import SOURCES
from agemem_jax.training.configuration.run_config import to_option
from agemem_jax.training.credit.registry import RULES


def use_tasks(config: ml_collections.ConfigDict, source: str | Callable, **options: Any) -> None:
    """Has `config` take its tasks from `source`, with these options and its defaults.

    Raises:
      ValueError: the source or an option is not known, or has a wrong value.
    """
    with config.unlocked():
        config.tasks.source = name_of(source)
        config.tasks.options = _options(SOURCES, source, options, "tasks.options")


def use_credit(config: ml_collections.ConfigDict, rule: str | Callable, **options: Any) -> None:
    """Has `config` give advantages by `rule`, with these options and its defaults.

    Raises:
      ValueError: the rule or an option is not known, or has a wrong value.
    """
    with config.unlocked():
        config.grpo.credit = name_of(rule)
        config.grpo.credit_options = _options(RULES, rule, options, "grpo.credit_options")


def add_reward(
    config: ml_collections.ConfigDict,
    name: str,
    function: str | Callable,
    weight: float = 1.0,
    **options: Any,
) -> None:
    """Adds a component to the rewards of `config`, or replaces one.

    Args:
      config: to change.
      name: of the component, in metrics and reports.
      function: a component by name, as `package.module:attribute`, or itself.
      weight: that its value is multiplied by.
      **options: of the component.

    Raises:
      ValueError: the function or an option is not known, or has a wrong value.
    """
    where = f"rewards.components.{name}.options"
    with config.unlocked():
        config.rewards.components[name] = {
            "function": name_of(function),
            "weight": float(weight),
            "options": _options(COMPONENTS, function, options, where),
        }


def _options(registry: Registry, part: Any, options: Mapping[str, Any], where: str) -> Any:
    if isinstance(part, str):
        part, own = split(part)
        options = {**own, **options}
    return to_option(registry.complete(part, options, where), Mapping)


def follow_names(config: ml_collections.ConfigDict, given: Mapping[str, str]) -> None:
    """Makes room in `config` for the options of parts that a command line names.

    Args:
      config: as a config file left it.
      given: the options of the command line with their texts, such as
        `{"tasks.source": "hotpotqa", "tasks.options.manual_dir": "data"}`.

    Raises:
      ValueError: a part is not known.
    """
    source = given.get("tasks.source")
    if source is not None and split(source)[0] != config.tasks.source:
        use_tasks(config, source)
    for name, component in list(config.rewards.components.items()):
        function = in_variant(component.function, given.get("rewards.variant", ""))
        if function != component.function:
            options = component.options.to_dict()
            add_reward(config, name, function, component.weight, **options)
    rule = given.get("grpo.credit")
    if rule is not None and split(rule)[0] != config.grpo.credit:
        use_credit(config, rule)
    for option, text in given.items():
        match = re.fullmatch(r"rewards\.components\.(\w+)\.function", option)
        if match:
            known = config.rewards.components.get(match[1])
            if known is None or known.function != text:
                add_reward(config, match[1], text, 1.0 if known is None else known.weight)
