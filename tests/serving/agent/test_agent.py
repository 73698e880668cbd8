"""An agent in conversation: the prompts of training, memories that outlive it, no room left."""

import jax
import numpy as np
import pytest

from agemem_jax.memory.embedders import HashedNGramEmbedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.events import AnswerEvent, FormatEvent, OverflowEvent, RetrievalEvent
from agemem_jax.protocol.tools import Parameter, ToolSpec
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.generation import Generation
from agemem_jax.rollout.tools.registry import TOOL_NAMES
from agemem_jax.serving.agent.agent import Agent
from agemem_jax.serving.agent.agent_events import ContextCutEvent, ResponseEvent, TextDelta
from agemem_jax.serving.agent.response_stream import ResponseStream
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.tasks.task import Question, Task
from tests.rollout.scripted import NOTED, answer, call, play

CONFIG = EpisodeConfig(
    max_context_tokens=700, max_response_tokens=96, max_summary_tokens=32, max_rounds=3,
    prompt_style="compact",
)  # fmt: skip


@pytest.fixture(scope="module")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


class ScriptedEngine:
    """An engine that gives prepared responses, a few tokens at a time."""

    def __init__(self, chat, *replies):
        self.chat, self.replies, self.requests = chat, list(replies), []
        self.tokens, self.given, self.cancelled = None, 0, 0

    def load(self, weights, shared_prefix=()):
        self.shared_prefix = shared_prefix

    def release(self):
        pass

    def cancel(self, slot):
        self.tokens, self.cancelled = None, self.cancelled + 1

    def submit(self, request):
        assert self.tokens is None, "a slot takes one request at a time"
        assert request.prompt[: len(self.shared_prefix)] == self.shared_prefix
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        self.tokens, self.given = (*self.chat.encode(reply), self.chat.stop_id), 0

    def progress(self, slot):
        return self.tokens[: self.given], [0.0] * self.given

    def step(self):
        self.given += 5
        if self.given < len(self.tokens):
            return []
        tokens, self.tokens = self.tokens, None
        return [Generation(0, tokens, np.zeros(len(tokens), np.float32))]


def start(chat, *replies, path=None, user="ana", config=CONFIG):
    engine = ScriptedEngine(chat, *replies)
    store = SQLiteStore(path, HashedNGramEmbedder(), entries=8)
    return Agent(engine, None, EpisodeRules(config, chat), store, user), engine


def test_a_conversation_has_token_for_token_the_prompts_of_stage_1(chat):
    messages = ("Ana lives in Paris.", "Bo likes tea.", "Ana moved to Oslo.")
    replies = [call("Add_memory", content="Ana lives in Paris."), NOTED, "gibberish"]
    task = Task("ana", Question("Where?", "Oslo"), messages)
    store = MemoryStore.create(HashedNGramEmbedder(), rollouts=1, entries=8)
    config = EpisodeConfig(**{**vars(CONFIG), "stages": (1, 3)})
    _, requests = play(chat, store, config, *replies, answer("Oslo"), task=task)
    agent, engine = start(chat, *replies)
    for message in messages:
        agent.chat(message)
    told = [request.prompt for request in requests[:3]]
    assert [request.prompt for request in engine.requests] == told
    assert "mem_" in chat.decode(told[-1]), "the memory is shown beside a message, by its id"


def test_a_question_is_asked_as_stage_3_asks_it_and_answered_after_its_calls(chat):
    agent, engine = start(
        chat, call("Add_memory", content="Ana lives in Oslo."),
        call("Retrieve_memory", query="Ana"), answer("Oslo"),
    )  # fmt: skip
    told = agent.chat("Ana lives in Oslo.")
    assert (told.text, told.ended) == ("", "acted")
    reply = agent.chat("Where does Ana live?")
    assert (str(reply), reply.ended) == ("Oslo", "answered")
    assert agent.context[-4][1] == "Question: Where does Ana live?"
    assert [event.name for event in reply.calls] == ["Retrieve_memory"]
    assert reply.calls[0].retrieved[0].content == "Ana lives in Oslo."
    assert reply.thoughts == ("So.", "So.")
    assert reply.context_tokens == agent.context_tokens < agent.max_context_tokens == 700
    assert agent.chat is not None and not engine.replies


def test_events_are_told_as_they_happen_and_are_those_of_the_reply(chat):
    agent, _ = start(chat, NOTED)
    seen = []
    reply = agent.chat("Hello!", seen.append)
    whole = [event for event in seen if not isinstance(event, TextDelta)]
    assert tuple(whole) == reply.events
    assert [type(event) for event in whole] == [RetrievalEvent, ResponseEvent, AnswerEvent]
    parts = {}
    for event in seen:
        if isinstance(event, TextDelta):
            parts[event.part] = parts.get(event.part, "") + event.text
    assert parts == {"think": "Fine.", "answer": "Noted."}
    assert seen.index(whole[1]) > max(i for i, e in enumerate(seen) if isinstance(e, TextDelta))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_a_response_is_split_by_its_tags_wherever_its_tokens_break(chat, size):
    text = 'a < b<think>x <y> </thin</think> <tool_call>[{"a": "<b>"}]</tool_call><answer>z'
    ids = chat.encode(text)
    stream, parts = ResponseStream(chat.decode, chat.stop_ids), []
    for end in range(size, len(ids) + size, size):
        parts += stream.push(ids[:end], done=end >= len(ids))
    joined = {}
    for delta in parts:
        joined[delta.part] = joined.get(delta.part, "") + delta.text
    wanted = {"other": "a < b ", "think": "x <y> </thin", "call": '[{"a": "<b>"}]', "answer": "z"}
    assert joined == wanted


def test_memories_outlive_the_agent_and_belong_to_their_user(chat, tmp_path):
    path = tmp_path / "memory.db"
    agent, _ = start(chat, call("Add_memory", content="Ana lives in Oslo."), path=path)
    with agent:
        agent.chat("I am Ana and live in Oslo.")
    agent, engine = start(chat, NOTED, NOTED, path=path)
    with agent:
        assert [entry.content for entry in agent.memory] == ["Ana lives in Oslo."]
        agent.chat("I live in Oslo.")
        assert "Ana lives in Oslo." in chat.decode(engine.requests[0].prompt)
        agent.user = "bo"
        agent.chat("I live in Oslo.")
        assert "Ana lives in Oslo" not in chat.decode(engine.requests[1].prompt), (
            "nothing is carried over"
        )
        assert len(agent.memory) == 0


def test_what_the_agent_deletes_at_the_end_of_a_turn_is_in_no_file(chat, tmp_path):
    path = tmp_path / "memory.db"
    agent, engine = start(chat, call("Add_memory", content="The PIN is 7351."), path=path)
    agent.chat("My PIN is 7351.")
    (entry,) = agent.memory
    engine.replies = [call("Delete_memory", memory_id=entry.memory_id, confirmation=True)]
    reply = agent.chat("Forget my PIN.")
    assert reply.calls[0].previous == "The PIN is 7351."
    for file in tmp_path.iterdir():
        assert b"7351" not in file.read_bytes(), file
    agent.close()


def test_what_was_deleted_before_a_turn_was_ended_is_in_no_file(chat, tmp_path):
    add = call("Add_memory", content="The PIN is 7351.")
    agent, engine = start(chat, add, path=tmp_path / "memory.db")
    agent.chat("My PIN is 7351.")
    (entry,) = agent.memory
    delete = call("Delete_memory", memory_id=entry.memory_id, confirmation=True)
    engine.replies = [delete, KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        agent.chat("Would you forget my PIN?")
    assert len(agent.memory) == 0
    for file in tmp_path.iterdir():
        assert b"7351" not in file.read_bytes(), file
    agent.close()


def test_a_conversation_without_room_loses_its_oldest_messages_and_says_so(chat):
    config = EpisodeConfig(**{**vars(CONFIG), "max_context_tokens": 420, "auto_retrieve": 0})
    agent, engine = start(chat, *[NOTED] * 12, config=config)
    cuts = []
    for number in range(12):
        reply = agent.chat(f"Message {number}: it rains here, and there, and there.")
        assert reply.ended == "answered"
        assert len(engine.requests[-1].prompt) <= 420
        cuts += [event for event in reply.events if isinstance(event, ContextCutEvent)]
        assert agent.context[0][0] == "system"
        assert agent.context[-2][1].startswith(f"Message {number}:")
    assert cuts and cuts[0].removed[0].startswith("Message 0:")
    assert all(cut.tokens_after <= 420 < cut.tokens_before for cut in cuts)
    assert len(cuts) < 6, "it drops to half, not a message at a time"


def test_a_turn_that_outgrows_the_context_alone_ends_and_the_next_one_goes_on(chat):
    config = EpisodeConfig(**{**vars(CONFIG), "max_context_tokens": 260, "max_rounds": 9})
    agent, engine = start(chat, *["no protocol at all " * 4] * 9, config=config)
    reply = agent.chat("And now?")
    assert reply.ended == "overflowed"
    assert isinstance(reply.events[-1], OverflowEvent)
    assert any(isinstance(event, FormatEvent) for event in reply.events)
    engine.replies = [answer("Yes.")]
    assert str(agent.chat("Are you there?")) == "Yes."


def test_a_message_that_is_too_long_or_empty_is_refused_and_changes_nothing(chat):
    agent, engine = start(chat)
    before = agent.context
    with pytest.raises(ValueError, match=r"prompt of \d+ tokens by itself, and the context holds"):
        agent.chat("word " * 2000)
    with pytest.raises(ValueError, match="The message is empty"):
        agent.chat("  \n")
    assert agent.context == before and not engine.requests


def test_an_interrupted_turn_leaves_the_conversation_as_it_was_and_keeps_what_was_stored(chat):
    agent, engine = start(
        chat, NOTED, call("Add_memory", content="Ana likes tea."), KeyboardInterrupt(), NOTED
    )
    agent.chat("Hello.")
    before = agent.context
    with pytest.raises(KeyboardInterrupt):
        agent.chat("I like tea. Do I?")
    assert agent.context == before and engine.cancelled == 1
    assert [entry.content for entry in agent.memory] == ["Ana likes tea."]
    assert str(agent.chat("Hello again.")) == "Noted."

    def stop(event):
        if isinstance(event, TextDelta):
            raise KeyboardInterrupt

    engine.replies = [NOTED, NOTED]
    with pytest.raises(KeyboardInterrupt):
        agent.chat("Stop while it is written.", stop)
    assert str(agent.chat("Go on.")) == "Noted."


def test_an_edit_by_the_user_between_two_turns_is_what_the_agent_sees(chat):
    agent, engine = start(chat, call("Add_memory", content="Ana lives in Rome."))
    agent.chat("I live in Rome.")
    (entry,) = agent.memory
    agent.memory.edit(entry.memory_id, "Ana lives in Oslo.")
    engine.replies = [call("Update_memory", memory_id=entry.memory_id, content="Ana: Bergen.")]
    reply = agent.chat("I moved.")
    assert "Oslo" in chat.decode(engine.requests[-1].prompt)
    assert reply.calls[0].previous == "Ana lives in Oslo."


def test_a_tool_that_crashes_is_told_to_the_agent_and_ends_nothing(chat):
    def crash(what):
        raise RuntimeError("no line")

    phone = ToolSpec(
        "Phone", "other", (Parameter("what", str, True, "Whom."),), "Calls.", "call somebody",
        {"what": "Bo"}, crash,
    )  # fmt: skip
    config = EpisodeConfig(**{**vars(CONFIG), "tools": (*TOOL_NAMES, phone)})
    agent, engine = start(chat, call("Phone", what="Bo"), answer("He is away."), config=config)
    reply = agent.chat("Will you phone Bo?")
    assert str(reply) == "He is away."
    assert reply.calls[0].error == "The tool Phone crashed with RuntimeError: no line."


def test_what_is_sampled_depends_on_the_seed_and_on_the_step(chat):
    agent, engine = start(chat, NOTED, NOTED)
    agent.chat("One.")
    agent.chat("Two.")
    first, second = engine.requests
    assert (first.step, second.step, first.temperature) == (0, 1, 0.0)
    np.testing.assert_array_equal(first.key, jax.random.key_data(jax.random.key(0)))
