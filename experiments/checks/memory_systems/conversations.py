"""The twenty conversations that are told to a library and to our method.

Messages of three embedded multi-hop tasks each, in turn, so that facts are told, change and are
near each other; one of them is said twice.
"""

import itertools

from agemem_jax.tasks.multihop import MultihopSource
from agemem_jax.tasks.task import Question, Task

_TASKS = 3  # in one conversation


def conversations(count: int = 20) -> list[Task]:
    """The first conversations; each ends with the question of its first task."""
    source = MultihopSource("test", count * _TASKS, seed=23)
    return [_conversation(source, number) for number in range(count)]


def _conversation(source: MultihopSource, number: int) -> Task:
    tasks = [source[number * _TASKS + place] for place in range(_TASKS)]
    turns = itertools.zip_longest(*(task.messages for task in tasks))
    messages = [message for turn in turns for message in turn if message is not None]
    messages.insert(len(messages) * 2 // 3, messages[number % len(messages) // 2])
    return Task(
        task_id=f"conversation-{number}",
        goal=Question(tasks[0].query, tasks[0].answer),
        messages=tuple(messages),
        data_set="multihop",
    )
