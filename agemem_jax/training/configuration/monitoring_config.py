"""Options of how a run is watched: evaluations, held-out tasks on the way, samples, sinks."""

import dataclasses
from collections.abc import Collection

from agemem_jax.training.monitoring.sinks.registry import check_sinks

# What an evaluation can be judged by, besides "reward_NAME" of every component of the reward.
METRICS = ("success", "reward", "progress", "grounding", "answered")
_MOST_SEEDS = 2**32


def check_seed(name: str, seed: int) -> None:
    """Raises ValueError where JAX does not take `seed`, the option `name`."""
    if not 0 <= seed < _MOST_SEEDS:
        raise ValueError(f"{name} is {seed}; it must lie in [0, {_MOST_SEEDS}).")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How `experiments/evaluate.py` plays: each task once at `temperature`.

    Attributes:
      temperature: 0 is greedy.
      seed: draws the trajectories, apart from the seed of training.
      bootstrap_samples: drawn for the intervals.
      wrong_answers: the judge is asked about so many at most that are wrong for sure, by each of
        its prompts, which tells how often it accepts them; 0 asks about none.
    """

    temperature: float = 1.0
    seed: int = 0
    bootstrap_samples: int = 10_000
    wrong_answers: int = 200

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(
                f"evaluation.temperature is {self.temperature}; it must be 0 (greedy) or more."
            )
        check_seed("evaluation.seed", self.seed)
        _at_least(1, self, "evaluation", "bootstrap_samples")
        _at_least(0, self, "evaluation", "wrong_answers")


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Evaluation on held-out tasks while a run trains, between GRPO iterations.

    Attributes:
      every: iterations of a phase between two evaluations; there are also one before its first
        iteration and one after its last. 0 never evaluates.
      tasks: how many are played, each once; fewer where the split has fewer.
      split: they are of this split of the source; None takes one that neither trains nor is
        that of the final evaluation (`tasks.eval_split`), where the source has such a split.
        Where it has none, tasks of the final evaluation are taken last.
      temperature: 0 is greedy; None is `evaluation.temperature`.
      metric: what the best weights are chosen by, the higher the better: "success", "reward",
        "progress", "grounding", "answered", or "reward_NAME" of a component of the reward.
      patience: a phase ends when so many evaluations in a row have not been better than the
        best of the phase before them; 0 never ends one early.
      keep_best: keep the weights of the best evaluation of the run in `checkpoints/best`.
    """

    every: int = 0
    tasks: int = 32
    split: str | None = None
    temperature: float | None = None
    metric: str = "success"
    patience: int = 0
    keep_best: bool = True

    def __post_init__(self):
        _at_least(0, self, "validation", "every", "patience")
        _at_least(1, self, "validation", "tasks")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(
                f"validation.temperature is {self.temperature}; it must be 0 (greedy) or more, or "
                "None for evaluation.temperature."
            )
        if self.patience and not self.every:
            raise ValueError(
                f"validation.patience is {self.patience}, and validation.every is 0: without "
                "evaluations nothing ends early; set validation.every."
            )

    def check(self, components: Collection[str], splits: Collection[str]) -> None:
        """Compares these options with the rest of a run.

        Args:
          components: of the reward.
          splits: of the source of tasks; none where it does not say.

        Raises:
          ValueError: the metric or the split is not known.
        """
        known = (*METRICS, *(f"reward_{name}" for name in components))
        if self.metric not in known:
            raise ValueError(
                f"validation.metric is {self.metric!r}; it must be one of {', '.join(known)}."
            )
        if self.split is not None and splits and self.split not in splits:
            raise ValueError(
                f"validation.split is {self.split!r}; the splits of the tasks are "
                f"{', '.join(splits)}."
            )


@dataclasses.dataclass(frozen=True)
class SamplesConfig:
    """Trajectories of training that are written for people to read.

    Attributes:
      every: iterations between two writings, the first one included; 0 writes none.
      count: trajectories that are written each time, spread over the tasks of the iteration.
      groups: of so many tasks all rollouts are in the JSON lines, to be compared with each other.
      keep: the files of so many writings are kept, the newest ones.
    """

    every: int = 0
    count: int = 4
    groups: int = 1
    keep: int = 20

    def __post_init__(self):
        _at_least(0, self, "samples", "every", "groups")
        _at_least(1, self, "samples", "count", "keep")


@dataclasses.dataclass(frozen=True)
class MetricsConfig:
    """Where metrics go besides `metrics.jsonl`, which is always written.

    Attributes:
      sinks: by name or as package.module:attribute, with options as in 'wandb(project="x")'.
    """

    sinks: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self):
        check_sinks(self.sinks)


def _at_least(least: int, config, group: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < least:
            wanted = f"{least} or more" if not least else f"at least {least}"
            raise ValueError(f"{group}.{name} is {value}; it must be {wanted}.")
