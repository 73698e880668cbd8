"""What an episode yields and what it is sent back.

An episode never touches a device: it asks, and the driver, which sees all episodes
at once, answers many of them with one call.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from agemem_jax.memory.operations import Operation
from agemem_jax.protocol.messages import Context
from agemem_jax.tasks.task import EnvironmentGoal


@dataclasses.dataclass(frozen=True)
class Generate:
    """Asks the policy for one response; answered with `Generated`.

    Attributes:
      context: the messages; their ids plus the generation prompt are the prompt.
      prompt: the exact prompt tokens.
      max_tokens: limit of the response, the stop token included.
      stage: 1, 2 or 3.
      step: index of this action in the trajectory.
      purpose: "act", an action of the agent; "summary", one that it asked for itself; or what a
        memory system calls its own call of the model.
    """

    context: Context
    prompt: tuple[int, ...]
    max_tokens: int
    stage: int
    step: int
    purpose: str = "act"


@dataclasses.dataclass(frozen=True)
class Generated:
    """Sampled tokens (stop token included if it came) and their log-probabilities."""

    token_ids: tuple[int, ...]
    log_probs: Float[np.ndarray, " token"]


@dataclasses.dataclass(frozen=True)
class MemoryRequest:
    """Asks for one long-term memory operation; answered with `memory.store.Result`."""

    operation: Operation


@dataclasses.dataclass(frozen=True)
class SimilarityRequest:
    """Asks for the cosine similarity of each text to `criteria`; answered with floats."""

    texts: tuple[str, ...]
    criteria: str


@dataclasses.dataclass(frozen=True)
class HostCall:
    """Asks for work on the host that may take long, or fail; answered with its result.

    Attributes:
      function: is called in a thread.
      timeout: seconds until it counts as hung. Then, or when it raises, the episode gets a
        `host_calls.ToolFault` instead of an answer.
      name: of what is called, for messages.
    """

    function: Callable[[], Any]
    timeout: float
    name: str


@dataclasses.dataclass(frozen=True)
class EnvironmentRequest:
    """Asks for something of the episode's environment; answered with what it returns.

    Like a `HostCall`, it may fail; then the episode gets a `host_calls.ToolFault`.

    Attributes:
      do: "reset", which opens it, or another method of `environments.protocol.Environment`.
      goal: which environment it is, for "reset".
      arguments: of the method.
    """

    do: str
    goal: EnvironmentGoal | None = None
    arguments: tuple[Any, ...] = ()


Request = Generate | MemoryRequest | SimilarityRequest | HostCall | EnvironmentRequest
