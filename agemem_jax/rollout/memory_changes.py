"""The memory over the time of an episode, as its events say."""

from collections.abc import Iterator, Sequence

from agemem_jax.protocol.events import Event, ToolEvent


def memory_changes(events: Sequence[Event]) -> Iterator[tuple[ToolEvent, dict[str | None, str]]]:
    """Each call that changed the memory, in order, with the contents by id behind it.

    It is the same dictionary every time; calls that failed or changed nothing are left out.
    """
    memory: dict[str | None, str] = {}
    for event in events:
        if not isinstance(event, ToolEvent) or not event.ok:
            continue
        if event.effect in ("added", "updated"):
            memory[event.memory_id] = event.content
        elif event.effect == "deleted":
            memory.pop(event.memory_id, None)
        else:
            continue
        yield event, memory
