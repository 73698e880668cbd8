"""Runs many episodes at once on one engine and one memory store.

The driver gathers what the episodes yielded, answers all memory requests of a tick
with one batched call, hands generations to the backend, and sends results back as
they come. Episodes move through slots: one slot, one row of the memory bank and one
KV cache for an episode's whole life.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, Key, UInt32

from agemem_jax.environments.pool import EnvironmentFault, EnvironmentPool
from agemem_jax.memory import operations
from agemem_jax.memory.store import MemoryStore
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import Rules
from agemem_jax.rollout.generation import GenerationRequest
from agemem_jax.rollout.host_calls import HostCalls, ToolFault
from agemem_jax.rollout.replay import RecordedStep, ReplayBackend
from agemem_jax.rollout.requests import (
    EnvironmentRequest,
    Generate,
    Generated,
    HostCall,
    MemoryRequest,
    Request,
    SimilarityRequest,
)
from agemem_jax.rollout.trajectory import Cost, Trajectory
from agemem_jax.tasks.task import Task

_PATIENCE = 0.1  # seconds between two looks where nothing but the host works


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One episode to play: a task and the typed key of the trajectory.

    `replay` holds the first steps, which are not sampled but taken from another rollout's record.
    """

    task: Task
    key: Key[Array, ""]
    replay: Sequence[RecordedStep] = ()


class Backend(Protocol):
    """What answers generations: the engine, or a script."""

    slots: int

    def begin(self, slot: int, rollout: Rollout) -> None:
        """A new episode takes `slot`."""

    def submit(self, slot: int, request: Generate) -> None:
        """Queues a generation of the episode in `slot`."""

    def step(self) -> Sequence[tuple[int, Generated]]:
        """Works for a while; returns what finished, by slot."""


class PolicyBackend:
    """Answers generations with the policy. Keys are folded per step, on the device."""

    def __init__(self, engine: Engine, temperature: float = 1.0):
        self.slots = engine.config.slots
        self._engine = engine
        self._temperature = temperature
        self._keys: dict[int, UInt32[np.ndarray, " word"]] = {}

    def begin(self, slot: int, rollout: Rollout) -> None:
        self._keys[slot] = np.asarray(jax.random.key_data(rollout.key))

    def submit(self, slot: int, request: Generate) -> None:
        self._engine.submit(
            GenerationRequest(
                slot=slot,
                prompt=request.prompt,
                max_tokens=request.max_tokens,
                key=self._keys[slot],
                temperature=self._temperature,
                step=request.step,
            )
        )

    def step(self) -> list[tuple[int, Generated]]:
        return [
            (done.slot, Generated(done.token_ids, done.log_probs)) for done in self._engine.step()
        ]


@dataclasses.dataclass
class _Active:
    """An episode in a slot, and what it waits for."""

    index: int
    episode: Generator[Request, Any, Trajectory]
    waiting_for: Request | None = None
    ticks: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    seconds: float = 0.0

    @property
    def cost(self) -> Cost:
        return Cost(self.calls, self.prompt_tokens, self.sampled_tokens, round(self.seconds, 4))

    def count(self, generated: Generated | ToolFault) -> None:
        """The generation that it waited for has come, or will not."""
        if isinstance(generated, ToolFault):
            return
        self.calls += 1
        self.prompt_tokens += len(self.waiting_for.prompt)
        self.sampled_tokens += len(generated.token_ids)


def run_episodes(
    rollouts: Sequence[Rollout],
    rules: Rules,
    store: MemoryStore,
    backend: Backend,
    environments: EnvironmentPool | None = None,
    check: Callable[[], None] = lambda: None,
    on_end: Callable[[int, Trajectory], None] = lambda index, trajectory: None,
) -> list[Trajectory]:
    """Plays all rollouts and returns their trajectories in the same order.

    A trajectory depends on its task, its key and the weights, not on its slot nor on
    what ran beside it. An episode that something on the host failed has a `fault`.

    Args:
      rollouts: what to play.
      rules: of the episodes.
      store: long-term memory, one row for each slot.
      backend: what answers generations.
      environments: where tasks have environments to act in; by default a pool of this call.
      check: called between ticks; an exception that it raises ends everything.
      on_end: called with each trajectory as soon as its episode has ended, and its place among
        the rollouts.
    """
    trajectories: list[Trajectory | None] = [None] * len(rollouts)
    queue = list(range(len(rollouts)))[::-1]
    active: dict[int, _Active] = {}
    generating: set[int] = set()
    calls = HostCalls()
    began = shared = time.monotonic()
    if any(rollout.replay for rollout in rollouts):
        backend = ReplayBackend(backend)
    own = environments is None
    environments = EnvironmentPool() if own else environments

    def share_time() -> None:
        """What has passed since the last time belongs to all that are under way."""
        nonlocal shared
        passed, shared = time.monotonic() - shared, time.monotonic()
        for entry in active.values():
            entry.seconds += passed / len(active)

    def start(slot: int, index: int) -> None:
        """A new episode takes the slot, unless it ends without a request."""
        backend.begin(slot, rollouts[index])
        active[slot] = _Active(index, rules.play(rollouts[index].task))
        advance(slot, None)

    def resume(slot: int, result: Any) -> None:
        active[slot].ticks += 1
        advance(slot, result)

    def advance(slot: int, result: Any) -> None:
        """Sends a result; afterwards the slot waits for something else or is free."""
        entry = active[slot]
        ended = None
        try:
            if isinstance(result, ToolFault):
                entry.waiting_for = entry.episode.throw(result)
            else:
                entry.waiting_for = entry.episode.send(result)
        except StopIteration as finished:
            ended = finished.value
        except ToolFault as fault:
            task = rollouts[entry.index].task
            ended = Trajectory.failed(task, f"An episode of task {task.task_id} failed: {fault}")
        if ended is not None:
            share_time()
            ended.cost = entry.cost
            trajectories[entry.index] = ended
            del active[slot]
            environments.release(slot, broken=ended.fault is not None)
            on_end(entry.index, ended)
            done = len(rollouts) - len(queue) - len(active)
            left = (time.monotonic() - began) / done * (len(rollouts) - done) / 60
            logging.log_every_n_seconds(
                logging.INFO, "Played %d of %d episodes, %.1f min left", 30, done, len(rollouts),
                left,
            )  # fmt: skip

    try:
        while queue or active:
            check()
            clears = {}
            for slot in range(backend.slots):
                while slot not in active and queue:
                    index = queue.pop()
                    share_time()
                    start(slot, index)
                    clears[slot] = operations.Clear(key=rollouts[index].task.task_id)
            if clears:
                store.execute(clears, time=0)
            _answer_memory(active, store, resume)
            for slot in sorted(active):
                request = active[slot].waiting_for
                if isinstance(request, Generate) and slot not in generating:
                    backend.submit(slot, request)
                    generating.add(slot)
                if slot not in calls and isinstance(request, HostCall):
                    calls.start(slot, request)
                elif slot not in calls and isinstance(request, EnvironmentRequest):
                    calls.start(slot, _environment_call(environments, slot, request))
            for slot, generated in backend.step() if generating else ():
                generating.discard(slot)
                active[slot].count(generated)
                resume(slot, generated)
            for slot, result in calls.finished(patience=0.0 if generating else _PATIENCE):
                resume(slot, result)
    finally:
        for slot in active:
            environments.release(slot, broken=True)
        if own:
            environments.close()
    return trajectories


def _answer_memory(active: dict[int, _Active], store: MemoryStore, resume) -> None:
    """Answers memory and similarity requests, tick by tick, until none is left."""
    while True:
        waiting = {slot: entry.waiting_for for slot, entry in active.items()}
        memory = {s: r for s, r in waiting.items() if isinstance(r, MemoryRequest)}
        similarity = {s: r for s, r in waiting.items() if isinstance(r, SimilarityRequest)}
        if not memory and not similarity:
            return
        if memory:
            times = {slot: active[slot].ticks for slot in memory}
            results = store.execute({s: r.operation for s, r in memory.items()}, time=times)
            for slot in sorted(memory):
                resume(slot, results[slot])
        if similarity:
            pairs = [(t, r.criteria) for _, r in sorted(similarity.items()) for t in r.texts]
            scores = iter(store.similarities(pairs))
            for slot, request in sorted(similarity.items()):
                resume(slot, [next(scores) for _ in request.texts])


def _environment_call(
    environments: EnvironmentPool, slot: int, request: EnvironmentRequest
) -> HostCall:
    """The pool looks after the time by itself: the wait for a free environment is no hanging."""
    return HostCall(
        functools.partial(_ask_environment, environments, slot, request), math.inf, "environment"
    )


def _ask_environment(environments: EnvironmentPool, slot: int, request: EnvironmentRequest) -> Any:
    try:
        return environments.ask(slot, request.do, request.goal, request.arguments)
    except EnvironmentFault as fault:
        raise ToolFault(str(fault)) from fault
