"""What memory systems share: their own calls, cut to fit, and operations on the store."""

import dataclasses
from typing import ClassVar

import jax
import pytest

from agemem_jax.methods.mem0 import Mem0
from agemem_jax.methods.memory_system import MemorySystem, Pipeline
from agemem_jax.methods.registry import find_method
from agemem_jax.protocol.events import DroppedMessagesEvent, TrimmedPromptEvent
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.tasks.task import Question, Task
from tests.methods.playing import CONFIG, NOTED, TASK, Player, answer, calls, play
from tests.rollout.scripted import Replies


@dataclasses.dataclass(frozen=True)
class Echo(MemorySystem):
    """Asks with the parts that `asked` gives, and stores the reply."""

    title: ClassVar[str] = "Echo"

    parts: tuple[str, ...] = ()

    def instructions(self, style):
        return ("Repeat.",)

    def begin(self, episode):
        return EchoPipeline(episode, self.parts)


class EchoPipeline(Pipeline):
    def __init__(self, episode, parts):
        super().__init__(episode)
        self._parts = parts

    def remember(self, message):
        reply = yield from self.episode.ask("echo", "Repeat.", (message, *self._parts), "End.")
        yield from self.episode.add(reply)


def lengths(requests):
    return [len(request.prompt) for request in requests]


def test_a_prompt_beyond_the_budget_loses_whole_parts_from_the_end(chat, store):
    config = dataclasses.replace(CONFIG, max_context_tokens=150)
    parts = tuple(f"{number} is a number." for number in range(100, 150))
    trajectory, requests = play(
        Echo(parts=parts), chat, store, "a", "b", NOTED, answer("x"), config=config
    )
    events = [e for e in trajectory.events if isinstance(e, TrimmedPromptEvent)]
    assert [event.step for event in events] == [0, 1] and min(e.tokens for e in events) > 150
    assert 140 < max(lengths(requests[:2])) <= 150
    text = requests[0].context.messages[-1].text.splitlines()
    assert text[0] == TASK.messages[0] and text[-1] == "End."
    assert text[1:-1] == list(parts[: len(text) - 2]) and len(text) > 4


def test_a_message_beyond_the_budget_loses_its_end(chat, store):
    config = dataclasses.replace(CONFIG, max_context_tokens=150)
    task = dataclasses.replace(TASK, messages=("Ana lives in Oslo. " * 100,), distractors=())
    trajectory, requests = play(
        Echo(), chat, store, "Ana", answer("Oslo"), task=task, config=config
    )
    assert lengths(requests)[0] in (149, 150)
    text = requests[0].context.messages[-1].text
    assert text.startswith("Ana lives in Oslo. Ana") and text.endswith("\nEnd.")
    assert trajectory.outcome.answer == "Oslo"


def test_instructions_beyond_the_budget_are_refused_before_anything_is_played(chat):
    config = dataclasses.replace(CONFIG, max_context_tokens=120)
    with pytest.raises(ValueError, match="max_context_tokens is 120.*of Mem0 in compact style"):
        Mem0().rules(Player(chat), config)


def test_a_full_store_and_text_that_is_none_are_failed_calls(chat, store):
    task = dataclasses.replace(TASK, messages=("m",) * 9, distractors=())
    replies = [f"fact {number}" for number in range(9)]
    trajectory, _ = play(Echo(), chat, store, *replies, answer("x"), task=task)
    assert [call.ok for call in calls(trajectory)] == [True] * 8 + [False]
    assert "full" in calls(trajectory)[-1].error
    assert len(trajectory.memory) == 8 and trajectory.tools == (
        "Add_memory", "Update_memory", "Delete_memory",
    )  # fmt: skip


def test_messages_beyond_the_limit_of_stage_1_are_left_out_and_counted(chat, store):
    config = dataclasses.replace(CONFIG, max_messages=1)
    trajectory, requests = play(Echo(), chat, store, "a", NOTED, answer("x"), config=config)
    dropped = [e for e in trajectory.events if isinstance(e, DroppedMessagesEvent)]
    assert [event.dropped for event in dropped] == [1] and requests[1].stage == 2


class Loud(EchoPipeline):
    def remember(self, message):
        yield from self.episode.ask("echo", "Repeat.", ("half \ud83d of a pair",))
        result = yield from self.episode.add("Half \ud83d")
        assert result.ok
        yield from self.episode.update(["no id"], "x")


def test_halves_of_character_pairs_neither_stop_a_prompt_nor_a_record(chat, store):
    class Method(Echo):
        def begin(self, episode):
            return Loud(episode, ())

    task = dataclasses.replace(TASK, messages=("m",), distractors=())
    trajectory, _ = play(Method(), chat, store, "a", answer("x"), task=task)
    assert list(trajectory.memory.values()) == ["Half ?"]
    assert [call.ok for call in calls(trajectory)] == [True, False]
    repr(trajectory.events).encode()


class OfTask(Replies):
    """Replies that name the task and the step, for several episodes at once."""

    slots = 3

    def __init__(self, chat):
        super().__init__(chat)
        self._tasks, self._waiting = {}, []

    def begin(self, slot, rollout):
        self._tasks[slot] = rollout.task.task_id

    def submit(self, slot, request):
        self._waiting.append((slot, request))

    def step(self):
        slot, request = self._waiting.pop()
        text = f"{self._tasks[slot]} says {request.step}"
        self._replies.append(answer("x") if request.purpose == "act" else text)
        ((_, generated),) = super_step(self, request)
        return [(slot, generated)]


def super_step(backend, request):
    backend.requests.append(request)
    return Replies.step(backend)


def test_episodes_side_by_side_do_not_mix(chat, store):
    tasks = [Task(f"t{n}", Question("q", "a"), ("m1", "m2")) for n in range(5)]
    rollouts = [Rollout(task, jax.random.key(n)) for n, task in enumerate(tasks)]
    rules = Echo().rules(Player(chat), CONFIG)
    for trajectory in run_episodes(rollouts, rules, store, OfTask(chat)):
        name = trajectory.task.task_id
        assert list(trajectory.memory.values()) == [f"{name} says 0", f"{name} says 1"]
        assert [sum(s.action_mask) > 0 for s in trajectory.segments] == [True] * 3
        steps = sorted({int(i) for s in trajectory.segments for i in s.step_index if i >= 0})
        assert steps == [0, 1, 2]


def test_the_row_with_equal_rl_has_a_title_of_its_own():
    method = find_method("mem0+rl")
    assert method.trained and method.title == "Mem0 + RL"
    assert find_method("mem0").title == "Mem0" and not find_method("mem0").trained
