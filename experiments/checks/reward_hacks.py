"""What policies earn that do not do the task, under the literal and the guarded rewards.

    python experiments/checks/reward_hacks.py --tasks=200

Plays the policies of `scripted_policies.py` on held-out embedded tasks with the quickstart's
budgets, and prints a table for each variant of the rewards. A part that was at stake in some
episodes only is the mean over these, with their share in brackets.
"""

import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # this clone, installed or not

import numpy as np
from absl import app, flags

from agemem_jax.rewards.judges import OfflineJudge, memory_quality
from agemem_jax.rewards.total import RewardConfig, compute_rewards
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.multihop import MultihopSource
from experiments.checks import scripted_policies

_PARTS = (
    "compression", "preventive", "preservation", "storage", "maintenance", "relevance",
)  # fmt: skip
COLUMNS = ("total", "task", "context", "memory", "penalty", *_PARTS)


def row(played: Sequence[Trajectory], variant: str) -> dict[str, float]:
    """Means of the reward and all that it is made of, MQ, and `NAME at stake`, a share.

    A part that was at stake in no episode has no mean.
    """
    rewards = compute_rewards(played, RewardConfig(variant=variant), OfflineJudge())
    values: dict[str, float] = {}
    for name in COLUMNS:
        known = [reward.values[name] for reward in rewards if name in reward.values]
        values |= {name: float(np.mean(known))} if known else {}
        values[f"{name} at stake"] = len(known) / len(rewards)
    values["MQ"] = float(
        np.mean(
            [memory_quality(t.memory, t.task.supporting_facts, t.task.stale_facts) for t in played]
        )
    )
    return values


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows by policy, as Markdown."""
    names = (*COLUMNS, "MQ")
    lines = [f"| policy | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for policy, values in rows.items():
        cells = [_cell(values, name) for name in names]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: dict[str, float], name: str) -> str:
    if name not in values:
        return ""
    share = values.get(f"{name} at stake", 1.0)
    return f"{values[name]:.3f}" + (f" ({100 * share:.0f} %)" if share < 1 else "")


def main(argv: Sequence[str]) -> None:
    del argv
    stage = scripted_policies.Stage()
    source = MultihopSource("test", flags.FLAGS.tasks)
    tasks = [source[index] for index in range(len(source))]
    policies = (*scripted_policies.UNKNOWN, *scripted_policies.ANSWERING)
    played = {policy.__name__: stage.play(tasks, policy) for policy in policies}
    for variant in ("literal", "guarded"):
        print(f"\n{variant}, {len(tasks)} tasks\n")
        print(table({name: row(each, variant) for name, each in played.items()}))


if __name__ == "__main__":
    # Not where it is imported: other programs have a flag of this name.
    flags.DEFINE_integer("tasks", 200, "How many.", 1)
    app.run(main)
