"""Stage 3 (algorithm 5) by what the task's goal is: a question, or an environment.

A strategy is a generator of the episode, like a stage; it leaves an `OutcomeEvent`.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agemem_jax.environments.protocol import Outcome
from agemem_jax.protocol import prompts
from agemem_jax.protocol.events import OutcomeEvent, RoundLimitEvent
from agemem_jax.protocol.messages import Kind
from agemem_jax.protocol.tools import ToolResult, ToolSpec
from agemem_jax.rollout.requests import EnvironmentRequest
from agemem_jax.rollout.tool_use import Play
from agemem_jax.rollout.tools.environment import ACT, declared_tools
from agemem_jax.tasks.task import EnvironmentGoal, Question

if TYPE_CHECKING:
    from agemem_jax.rollout.episode import Episode

_LIST_ACTIONS = ("check available actions", "check valid actions")


@functools.singledispatch
def pursue(goal: Any, episode: "Episode") -> Play:
    """Plays Stage 3 for `goal`."""
    raise TypeError(f"A goal is a Question or an EnvironmentGoal, not a {type(goal).__name__}.")


@functools.singledispatch
def tools_for(goal: Any) -> tuple[ToolSpec, ...]:
    """The tools that a goal brings, beside those of the episode."""
    return ()


@pursue.register(Question)
def answer_question(goal: Question, episode: "Episode") -> Play:
    """The query, up to N_max rounds, one answer."""
    text = yield from episode.with_step_retrieval(prompts.query_text(goal.query))
    episode.show("user", text, Kind.QUERY)
    rounds = episode.config.max_rounds
    for left in reversed(range(rounds)):
        answer = yield from episode.act(again=left > 0)
        if answer is not None:
            episode.events.append(OutcomeEvent(**episode.at_last_action(), answer=answer))
            return
    episode.events.append(RoundLimitEvent(stage=3, step=episode.step - 1, rounds=rounds))


@pursue.register(EnvironmentGoal)
def act_in_environment(goal: EnvironmentGoal, episode: "Episode") -> Play:
    """The goal, then actions until the environment ends or has seen `goal.max_steps` of them.

    It ends, too, with `max_rounds` responses in a row that hold no action, as calls of the
    memory do.
    """
    seen = yield EnvironmentRequest("reset", goal, (goal.seed,))
    text = yield from episode.with_step_retrieval(
        prompts.goal_text(goal.instruction, seen.instruction)
    )
    episode.show("user", text, Kind.QUERY)
    episode.show("user", seen.text, Kind.OBSERVATION)
    episode.interaction = interaction = Interaction(goal)
    idle = 0
    while not interaction.ended and idle < episode.config.max_rounds:
        before = interaction.actions
        last = interaction.actions + 1 == goal.max_steps
        answer = yield from episode.act(again=not last)
        if answer is not None:
            episode.show("user", prompts.error_text(_NO_END), Kind.TOOL_RESULT)
        idle = idle + 1 if interaction.actions == before else 0
    if not interaction.outcome.done:
        rounds = interaction.actions
        episode.events.append(RoundLimitEvent(stage=3, step=episode.step - 1, rounds=rounds))
    interaction.close(episode)


_NO_END = "An answer does not end this; act for the goal."


@tools_for.register(EnvironmentGoal)
def environment_tools(goal: EnvironmentGoal) -> tuple[ToolSpec, ...]:
    """`Act`, or what the environment declares in its place.

    Raises:
      ValueError: there is no such environment, or its tools are none (`declared_tools`).
    """
    return declared_tools(goal.environment, goal.options) or (ACT,)


class Interaction:
    """An environment in which an episode acts.

    Attributes:
      actions, valid_actions: that were tried so far, and that could be done.
      outcome: of the last one.
    """

    def __init__(self, goal: EnvironmentGoal):
        self._goal = goal
        self.actions = self.valid_actions = 0
        self.outcome = Outcome("")

    @property
    def ended(self) -> bool:
        return self.outcome.done or self.actions >= self._goal.max_steps

    def act(self, action: str) -> Play:
        """The result of one action of the policy."""
        if action.lower().strip(" .") in _LIST_ACTIONS:
            actions = yield EnvironmentRequest("actions")
            if actions is not None:
                return ToolResult(prompts.actions_text(actions))
        return (yield from self._do("step", action))

    def call(self, name: str, arguments: Mapping[str, Any]) -> Play:
        """The result of a call of a tool that the environment declares."""
        return (yield from self._do("call", name, dict(arguments)))

    def _do(self, method: str, *arguments: Any) -> Play:
        if self.ended:
            return ToolResult("It has ended.", ok=False)
        outcome = yield EnvironmentRequest(method, arguments=arguments)
        self.actions += 1
        self.valid_actions += outcome.valid
        self.outcome = outcome
        return ToolResult(outcome.text)

    def close(self, episode: "Episode") -> None:
        """Records how it ended; nothing can be done any more."""
        outcome = self.outcome
        episode.interaction = None
        episode.events.append(
            OutcomeEvent(
                **episode.at_last_action(),
                score=float(outcome.won),
                progress=1.0 if outcome.won else outcome.progress,
                actions=self.actions,
                valid_actions=self.valid_actions,
            )
        )
