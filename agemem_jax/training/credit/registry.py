"""The table of credit rules; what one is stands in `rule.py`."""

from collections.abc import Callable, Mapping
from typing import Any

from agemem_jax.plugins.registry import Registry, split
from agemem_jax.training.credit.rule import CreditRule

_HERE = "agemem_jax.training.credit"
RULES = Registry(
    "credit rule",
    {
        "broadcast": f"{_HERE}.broadcast:Broadcast",
        "gigpo": f"{_HERE}.gigpo:GiGPO",
        "local": f"{_HERE}.local:LocalRerollouts",
        "utility": f"{_HERE}.utility:MemoryUtility",
        "without_summaries": f"{_HERE}.without_summaries:WithoutSummaries",
    },
)


def complete(
    rule: str | Callable[..., CreditRule], options: Mapping[str, Any]
) -> tuple[str | Callable[..., CreditRule], dict[str, Any]]:
    """A rule without the options in its name, and all its options.

    Raises:
      ValueError: there is no such rule, it lacks a hook, or an option is unknown or has a wrong
        value.
    """
    try:
        if isinstance(rule, str):
            rule, own = split(rule)
            options = {**own, **options}
        options = RULES.complete(rule, options, "grpo.credit_options")
        build(rule, options)
    except ValueError as error:
        told = str(error)
        raise ValueError(told if "grpo.credit" in told else f"grpo.credit: {told}") from error
    return rule, options


def build(rule: str | Callable[..., CreditRule], options: Mapping[str, Any]) -> CreditRule:
    """The rule with its options.

    Raises:
      ValueError: as `complete` does.
    """
    built = RULES.build(rule, options, "grpo.credit_options")
    missing = [name for name in ("score_episode", "score_group") if not hasattr(built, name)]
    if missing:
        raise ValueError(
            f"grpo.credit is {rule!r}, which has no {missing[0]}; a credit rule has score_episode "
            "and score_group (agemem_jax/training/credit/rule.py)."
        )
    return built
