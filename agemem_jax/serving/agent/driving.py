"""Drives a turn of a conversation, as the driver of rollouts does with episodes.

Memory and the host answer alike wherever an agent lives; only generations differ, between an engine
of its own and the scheduler of a server.
"""

from collections.abc import Callable, Generator
from typing import Any

from agemem_jax.memory.operations import Delete, Update
from agemem_jax.rollout.host_calls import HostCalls, ToolFault
from agemem_jax.rollout.requests import (
    Generate,
    Generated,
    HostCall,
    MemoryRequest,
    Request,
    SimilarityRequest,
)
from agemem_jax.serving.agent.agent_events import Reply
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.memory.user_memory import seconds_now

_SLOT = 0
_PATIENCE = 1.0  # seconds between two looks at a call on the host


def drive(
    turn: Generator[Request, Any, Reply],
    store: SQLiteStore,
    user: str,
    generate: Callable[[Generate], Generated],
    look: Callable[[], None] = lambda: None,
) -> Reply:
    """Plays a turn to its end.

    What it had replaced or deleted is in no file afterwards, however the turn ends.

    Args:
      turn: of `Session.turn`.
      store: of memories.
      user: whose memories it reads and writes.
      generate: answers what it asks of the policy.
      look: called when the turn has come to its next request, and at its end.

    Raises:
      TypeError: it asks for something that no conversation has.
    """
    answer, fault, replaced = None, None, False
    try:
        while True:
            try:
                request = turn.send(answer) if fault is None else turn.throw(fault)
            except StopIteration as ended:
                look()
                return ended.value
            look()
            answer, fault = None, None
            try:
                answer = _answer(request, store, user, generate)
            except ToolFault as error:
                fault = error
            if isinstance(request, MemoryRequest):
                replaced |= answer.ok and isinstance(request.operation, Update | Delete)
    finally:
        if replaced:
            store.purge()


def _answer(
    request: Request, store: SQLiteStore, user: str, generate: Callable[[Generate], Generated]
) -> Any:
    match request:
        case Generate():
            return generate(request)
        case MemoryRequest(operation=operation):
            return store.execute({user: operation}, seconds_now())[user]
        case SimilarityRequest(texts=texts, criteria=criteria):
            return store.similarities([(text, criteria) for text in texts])
        case HostCall():
            return _call(request)
    raise TypeError(f"A conversation has no answer to {type(request).__name__}.")


def _call(request: HostCall) -> Any:
    calls = HostCalls()
    calls.start(_SLOT, request)
    while not (finished := calls.finished(_PATIENCE)):
        pass
    ((_, result),) = finished
    if isinstance(result, ToolFault):
        raise result
    return result
