"""What is no policy at all, for the two ends of a scale: chance, and someone who knows."""

import dataclasses
import random
import re
from collections.abc import Generator
from typing import Any, Literal

from agemem_jax.environments.protocol import Outcome
from agemem_jax.protocol.events import OutcomeEvent, RoundLimitEvent
from agemem_jax.rollout.episode import Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.requests import EnvironmentRequest, Request
from agemem_jax.rollout.trajectory import Trajectory, TranscriptEntry
from agemem_jax.tasks.task import Task

_NAME = re.compile(r"[A-Z][\w'-]*|\d[\w.,-]*\d|\d")


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Plays Stage 3 alone, without a model and without memory.

    Attributes:
      title: as it appears in tables.
      plays: "random" takes any of the actions that the environment lists, and answers a question
        by any name or number of its messages; "expert" does what the environment demonstrates,
        and gives the expected answer.
      seed: of the choices.
      trained: never.
    """

    title: str
    plays: Literal["random", "expert"]
    seed: int = 0
    trained: bool = False

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        del player
        return _Rules(self, episode)


RANDOM = Scripted("Random", "random")
EXPERT = Scripted("Expert", "expert")


class _Rules:
    """Rules that ask for no generation."""

    shared_prefix = ()

    def __init__(self, method: Scripted, episode: EpisodeConfig):
        self._method, self._episode = method, episode

    def play(self, task: Task) -> Generator[Request, Any, Trajectory]:
        rng = random.Random(f"{self._method.seed} {task.task_id}")
        trajectory = Trajectory(task, [], [], [], [], {})
        if task.is_question:
            answer = task.answer if self._method.plays == "expert" else _any_name(task, rng)
            self._end(trajectory, answer=answer)
        else:
            yield from self._act(task, rng, trajectory)
        return trajectory

    def _act(self, task: Task, rng: random.Random, trajectory: Trajectory):
        goal = task.goal
        seen = yield EnvironmentRequest("reset", goal, (goal.seed,))
        _tell(trajectory, "observation", "\n".join(filter(None, (seen.instruction, seen.text))))
        plan = []
        if self._method.plays == "expert":
            plan = list((yield EnvironmentRequest("demonstration")) or ())[::-1]
        outcome, tried, valid = Outcome(""), 0, 0
        while not outcome.done and tried < goal.max_steps:
            if self._method.plays == "expert":
                action = plan.pop() if plan else None
            else:
                known = (yield EnvironmentRequest("actions")) or ()
                action = rng.choice(known) if known else None
            if action is None:
                break
            outcome = yield EnvironmentRequest("step", arguments=(action,))
            tried, valid = tried + 1, valid + outcome.valid
            _tell(trajectory, "act", action)
            _tell(trajectory, "observation", outcome.text)
        if not outcome.done:
            trajectory.events.append(RoundLimitEvent(stage=3, step=tried, rounds=tried))
        self._end(
            trajectory, score=float(outcome.won), actions=tried, valid_actions=valid,
            progress=1.0 if outcome.won else outcome.progress,
        )  # fmt: skip

    def _end(self, trajectory: Trajectory, **how: Any) -> None:
        budget = self._episode.max_context_tokens
        trajectory.events.append(
            OutcomeEvent(
                stage=3, step=0, context_tokens=0, context_text="", max_context_tokens=budget, **how
            )
        )


def _tell(trajectory: Trajectory, role: str, text: str) -> None:
    trajectory.transcript.append(TranscriptEntry(3, len(trajectory.transcript), role, text))


def _any_name(task: Task, rng: random.Random) -> str:
    names = sorted({name for text in task.messages for name in _NAME.findall(text)})
    return rng.choice(names) if names else "unknown"
