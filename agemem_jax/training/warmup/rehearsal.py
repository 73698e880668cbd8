"""A second copy of a task's environment, in which a scripted agent finds out what to do.

It says which actions reach the goal, what else could be done, and whether a change of plan
would still work. It begins anew for each question, so that one worker process serves all
episodes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from agemem_jax.environments.pool import EnvironmentConfig, EnvironmentFault, EnvironmentPool
from agemem_jax.tasks.task import EnvironmentGoal

# A wrong action can be made up for by one of so many that could follow.
_MOST_TRIED = 12


class Rehearsals:
    """The environments of a scripted agent's tasks, one at a time. Close it.

    It has a worker process of its own: those of the episodes are taken while these wait for
    what the agent says. Where an environment fails it knows nothing; the episode, which plays in
    the same, says what is wrong.
    """

    def __init__(self):
        self._pool = EnvironmentPool(EnvironmentConfig(workers=1))

    def plan(self, goal: EnvironmentGoal) -> list[str]:
        """Actions from the start to the goal; none where the environment shows none."""
        return self._asked(goal, (), "demonstration")

    def actions(self, goal: EnvironmentGoal, done: Sequence[str]) -> list[str]:
        """What can be done after `done`; nothing where the environment does not list it."""
        return self._asked(goal, done, "actions")

    def mended(
        self, goal: EnvironmentGoal, done: Sequence[str], plan: Sequence[str]
    ) -> list[str] | None:
        """`plan` changed so that it reaches the goal after a wrong action.

        Args:
          goal: of the task.
          done: all actions so far; the last one was not the plan's.
          plan: what was left of it before that.

        Returns:
          It as it is, or without its first action, or behind one action that makes up for the
          wrong one: the first of these that reaches the goal in the steps that are left, if one
          does.
        """
        tried = [list(plan), list(plan[1:])]
        tried += [[first, *plan] for first in self.actions(goal, done)[:_MOST_TRIED]]
        left = goal.max_steps - len(done)
        return next((p for p in tried if len(p) <= left and self._wins(goal, (*done, *p))), None)

    def close(self) -> None:
        """Ends the process."""
        self._pool.close()

    def _asked(self, goal: EnvironmentGoal, done: Iterable[str], what: str) -> list[str]:
        try:
            self._play(goal, done)
            return list(self._pool.ask(0, what) or ())
        except EnvironmentFault:
            return []

    def _wins(self, goal: EnvironmentGoal, actions: Iterable[str]) -> bool:
        try:
            outcome = self._play(goal, actions)
        except EnvironmentFault:
            return False
        return outcome is not None and outcome.won

    def _play(self, goal: EnvironmentGoal, actions: Iterable[str]) -> Any:
        """The outcome of the last action; None without any."""
        self._pool.ask(0, "reset", goal, (goal.seed,))
        outcome = None
        for action in actions:
            if outcome is not None and outcome.done:
                break
            outcome = self._pool.ask(0, "step", arguments=(action,))
        return outcome
