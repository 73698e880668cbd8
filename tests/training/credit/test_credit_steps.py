"""What is read of the steps of an episode: memories over time, and the tokens of calls."""

import numpy as np
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.events import ToolEvent
from agemem_jax.protocol.prompts import tool_call_text
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.training.credit.rule import Episode
from agemem_jax.training.credit.steps import (
    memories,
    memory_operations,
    steps_of_stage_1,
    tokens_of_calls,
)
from tests.rollout.scripted import NOTED, answer, call, play
from tests.training.credit.builders import stored, trajectory


@pytest.fixture(scope="module")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


@pytest.fixture
def store():
    return MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=1, entries=4)


def test_memories_are_those_before_a_step_in_one_order():
    events = [
        stored(0, "m1", "b"), stored(0, "m2", "a"),
        ToolEvent(1, 1, "Add_memory", {}, ok=False, error="It is full."),
        ToolEvent(1, 1, "Update_memory", {}, ok=True, memory_id="m1", content="b"),  # no change
        stored(2, "m1", None, "deleted"),
    ]  # fmt: skip
    played = trajectory(*[(1, n, "x") for n in range(4)], events=events)
    assert memories(played) == [(), ("a", "b"), ("a", "b"), ("a",)]
    assert [each.after for each in memory_operations(played)] == [("b",), ("b", "a"), ("a",)]


def test_stage_1_ends_with_the_first_response_behind_the_reset():
    assert steps_of_stage_1(trajectory((1, 1, "a"), (1, 1, "b"), (2, 1, "c"), (3, 1, "d"))) == 2
    assert steps_of_stage_1(trajectory((1, 1, "a"), (3, 1, "b"))) == 1
    assert steps_of_stage_1(trajectory((2, 1, "a"))) == 0
    assert steps_of_stage_1(trajectory((1, 1, "a"))) == 1
    assert steps_of_stage_1(trajectory()) == 0


def test_tokens_of_calls_spell_the_calls_in_a_played_episode(chat, store):
    config = EpisodeConfig(stages=(1, 3), prompt_style="compact", max_calls=2)
    several = [
        ("Add_memory", {"content": "Zoë lives in Łódź, \"up\" there. 🦊"}),
        ("Add_memory", {"contents": "a wrong name"}),
        ("Delete_memory", {"memory_id": "mem_00000000", "confirmation": True}),
    ]  # fmt: skip
    reply = "<think>Two [of] {them}.</think>" + tool_call_text(several)
    played, _ = play(chat, store, config, reply, NOTED, call("Retrieve_memory", query="Zoë"),
                     answer("Oslo"))  # fmt: skip
    spans = tokens_of_calls(Episode(played, Reward(0.0, {}, {}), 0, chat.decode))
    sampled = {
        step: [int(t) for each in played.segments for t in each.token_ids[each.step_index == step]]
        for step in range(played.num_steps)
    }
    found = [
        chat.decode(sampled[event.step][slice(*spans[place])])
        for place, event in enumerate(played.events)
        if isinstance(event, ToolEvent)
    ]
    wanted = [tool_call_text([each]).split(">[")[1].split("]<")[0] for each in several]
    wanted.append(tool_call_text([("Retrieve_memory", {"query": "Zoë"})])[12:-13])
    assert len(found) == 4
    for text, inside in zip(found, wanted, strict=True):
        assert inside in text and len(text) <= len(inside) + 4
    ends = [spans[place] for place in sorted(spans)]
    assert all(0 < start < end for start, end in ends)
    assert np.all(np.diff([start for start, _ in ends[:3]]) > 0)
