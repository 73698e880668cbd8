"""The task record: what one episode is about, whichever data set it came from.

A task is the paper's specification T = (q, I_q, A_q) of section 3.1, plus the
distractors of Stage 2 and the gold facts that the offline judge needs. What Stage 3 asks
is its goal: a question to answer, or an environment to act in.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Question:
    """A goal that one `<answer>` ends.

    Attributes:
      query: the question of Stage 3 (q).
      answer: the expected answer (A_q); seen by judges only.
      f1: how the F1 of an answer is counted, by name in `rewards.answer_f1`.
    """

    query: str
    answer: str
    f1: str = "hotpotqa"


@dataclasses.dataclass(frozen=True)
class EnvironmentGoal:
    """A goal that is reached, or not, by acting in an environment.

    Attributes:
      environment: name of one in `environments.registry`, or `package.module:attribute`.
      options: what it is built with, as JSON values.
      instruction: what is to be reached and how actions are written. It is always in sight.
        What the environment says itself when it is reset (`Observation.instruction`) comes
        behind it.
      seed: that the environment is reset with.
      max_steps: actions in the environment until the episode ends (30 in AgentBoard).
    """

    environment: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    instruction: str = ""
    seed: int = 0
    max_steps: int = 30

    def __post_init__(self):
        if self.max_steps < 1:
            raise ValueError(f"max_steps of a goal is {self.max_steps}; it must be at least 1.")


Goal = Question | EnvironmentGoal


@dataclasses.dataclass(frozen=True)
class Task:
    """One goal, the conversation that helps to reach it, and its distractors.

    Attributes:
      task_id: unique within the data set, stable across runs.
      goal: what Stage 3 asks for.
      messages: the Stage 1 messages (I_q), in the order they are said: facts that a question
        needs, or what is known of an environment and what was done in such ones before.
      distractors: the Stage 2 messages: near the goal in meaning, useless to it.
      supporting_facts: the gold facts, one sentence each, as they hold when the goal is
        given; without any, the memory is not judged by facts.
      stale_facts: facts said in Stage 1 that a later message made untrue.
      category: what results are told apart by: the type of question, a difficulty, a level.
      data_set: the name of the source.
    """

    task_id: str
    goal: Goal
    messages: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()
    supporting_facts: tuple[str, ...] = ()
    stale_facts: tuple[str, ...] = ()
    category: str = ""
    data_set: str = ""

    @property
    def is_question(self) -> bool:
        """Whether an answer ends it; otherwise an environment does."""
        return isinstance(self.goal, Question)

    @property
    def query(self) -> str:
        """The goal in words."""
        return self.goal.query if self.is_question else self.goal.instruction

    @property
    def answer(self) -> str:
        """What judges are told to expect; "" where an environment judges."""
        return self.goal.answer if self.is_question else ""
