"""The table of reward components, and what of it a run takes, in which of two variants.

A component is a function of (trajectory, judge) that returns a number or a `Score`, with its
options as keyword arguments, or a dataclass that is called like one. It may have a method
`questions(trajectory)` that says what it will ask the judge, so that all questions of a batch
can be asked at once.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from agemem_jax.plugins.registry import Registry

COMPONENTS = Registry(
    "reward component",
    {
        "task": "agemem_jax.rewards.task_reward:TaskReward",
        "context": "agemem_jax.rewards.context_reward:ContextReward",
        "memory": "agemem_jax.rewards.memory_reward:MemoryReward",
        "penalty": "agemem_jax.rewards.penalty:Penalty",
        "guarded_context": "agemem_jax.rewards.guarded_context:GuardedContext",
        "guarded_memory": "agemem_jax.rewards.guarded_memory:GuardedMemory",
        "overlong": "agemem_jax.rewards.overlong:Overlong",
    },
)
# What the variant "guarded" has in place of the paper's functions.
_GUARDED = {"context": "guarded_context", "memory": "guarded_memory"}
_ON_FAILURE = {"literal": 1.0, "guarded": 0.1}


def in_variant(function: str | Callable[..., Any], variant: str) -> str | Callable[..., Any]:
    """What stands for a component's function in a variant; one of a user's own stays."""
    guarded = variant == "guarded" and isinstance(function, str)
    return _GUARDED.get(function, function) if guarded else function


@dataclasses.dataclass(frozen=True)
class ComponentConfig:
    """One term of the reward.

    Attributes:
      function: a component by name, as `package.module:attribute`, or itself.
      weight: that its value is multiplied by, at least 0; with 0 it is measured only.
      options: of the component.
    """

    function: str | Callable[..., Any]
    weight: float = 1.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _papers() -> dict[str, ComponentConfig]:
    """A third for each component (appendix C.4; version 1 of the paper says 1.0 each)."""
    thirds = {name: ComponentConfig(name, 1 / 3) for name in ("task", "context", "memory")}
    return {**thirds, "penalty": ComponentConfig("penalty")}


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """How a trajectory is rewarded (appendices A.2 and C.4).

    Attributes:
      components: the terms of the sum by name, in the order of metrics and reports: the
        library's first, then others in alphabetical order.
      variant: "literal" has the paper's formulas, which pay for calls that help nothing;
        "guarded" has `guarded_context` and `guarded_memory` in place of `context` and `memory`,
        and pays for all components but the task's by what the task came to.
      on_failure: the share of those components that is paid where R_task is 0 or less, in [0, 1];
        it rises linearly to 1 with R_task. What is below 0, as penalties are, counts in full.
        None is 1.0 in "literal", as in the paper, and 0.1 in "guarded", which leaves groups of
        failures something to differ in.
    """

    components: Mapping[str, ComponentConfig] = dataclasses.field(default_factory=_papers)
    variant: Literal["literal", "guarded"] = "literal"
    on_failure: float | None = None

    def __post_init__(self):
        if self.variant not in _ON_FAILURE:
            raise ValueError(
                f"rewards.variant is {self.variant!r}; it must be 'literal' or 'guarded'."
            )
        order = {name: index for index, name in enumerate(COMPONENTS.names)}
        names = sorted(self.components, key=lambda name: (order.get(name, len(order)), name))
        components = {name: self._complete(name) for name in names}
        object.__setattr__(self, "components", components)
        for name, component in components.items():
            where, weight = f"rewards.components.{name}", component.weight
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"{where}.weight is {weight}; it must be a number of 0 or more.")
        if not any(self.components[n].weight for n in self.components if n != "penalty"):
            raise ValueError(
                f"The weights of rewards.components ({', '.join(self.components)}) are all 0; one "
                "of them, penalty aside, must be above 0."
            )
        if not 0 <= self.paid_on_failure <= 1:
            raise ValueError(f"rewards.on_failure is {self.on_failure}; it must lie in [0, 1].")
        if self.paid_on_failure < 1 and "task" not in self.components:
            raise ValueError(
                f"rewards.on_failure is {self.paid_on_failure}, but rewards.components has no task "
                "to tell a failure by; add it, or set rewards.on_failure to 1."
            )

    @property
    def paid_on_failure(self) -> float:
        """`on_failure`, or what the variant has for it."""
        return _ON_FAILURE[self.variant] if self.on_failure is None else self.on_failure

    def paid(self, name: str, value: float, task: float) -> float:
        """The share of the component `name` that is paid where it is `value` and R_task `task`."""
        if name == "task" or value <= 0:
            return 1.0
        failed = 1.0 - min(1.0, max(0.0, task))
        return 1.0 - failed * (1.0 - self.paid_on_failure)

    def _complete(self, name: str) -> ComponentConfig:
        """The component `name` with the function of the variant and all its options."""
        component, where = self.components[name], f"rewards.components.{name}"
        function = in_variant(component.function, self.variant)
        component = dataclasses.replace(component, function=function)
        try:
            options = COMPONENTS.complete(component.function, component.options, f"{where}.options")
        except ValueError as error:
            told = str(error)
            raise ValueError(told if where in told else f"{where}.function: {told}") from error
        if not callable(COMPONENTS.build(component.function, options)):
            raise ValueError(f"{where}.function is {component.function!r}; it is no function.")
        return dataclasses.replace(component, options=options)

    def build(self) -> dict[str, Callable[..., Any]]:
        """The components with their options, by name."""
        return {
            name: COMPONENTS.build(component.function, component.options)
            for name, component in self.components.items()
        }

    def reweighted(self, **weights: float) -> "RewardConfig":
        """With other weights for those of the components that there are."""
        components = {
            name: dataclasses.replace(component, weight=weights.get(name, component.weight))
            for name, component in self.components.items()
        }
        return dataclasses.replace(self, components=components)
