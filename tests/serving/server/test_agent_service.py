"""The agent over HTTP. What the policy writes is played by a script where it matters."""

import httpx
import openai
import pytest

from agemem_jax.memory.operations import Add
from agemem_jax.serving.server.scheduler import Update

STORES = (
    '<think>a fact</think><tool_call>[{"name": "Add_memory", "arguments": {"content": "%s"}}]'
    "</tool_call>"
)
LOOKS = (
    '<think>look</think><tool_call>[{"name": "Retrieve_memory", "arguments": {"query": "live"}}]'
    "</tool_call>"
)
ANSWERS = "<think>known</think><answer>%s</answer>"


@pytest.fixture(scope="module")
def served(serve):
    with serve(memory=True) as served:
        yield served


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture
def script(served, chat, monkeypatch):
    """Makes the policy write these texts, one after the other; gives the prompts it was shown."""
    scheduler, prompts = served[1].scheduler, []

    def plays(*texts):
        left = list(texts)

        def submit(prompt, sampling, listener):
            prompts.append(chat.decode(prompt))
            ids = (*chat.encode_plain(left.pop(0)), chat.stop_id)
            listener(Update(ids, (0.0,) * len(ids), done=True))

        monkeypatch.setattr(scheduler, "submit", submit)
        return prompts

    return plays


def say(client, text, user="ana", history=(), **fields):
    messages = [*history, {"role": "user", "content": text}]
    return client.chat.completions.create(model="agent", messages=messages, user=user, **fields)


def test_what_one_request_stores_another_of_the_same_user_finds(client, served, script):
    script(STORES % "Ana lives in Oslo.", ANSWERS % "Noted.")
    told = say(client, "I live in Oslo.").choices[0].message
    assert told.memory[0]["name"] == "Add_memory" and told.memory[0]["ok"]
    prompts = script(LOOKS, ANSWERS % "Oslo")
    assert say(client, "Where do I live?").choices[0].message.content == "Oslo"
    assert "Ana lives in Oslo." in prompts[-1] and "Ana lives in Oslo." not in prompts[-2]
    prompts = script(LOOKS, ANSWERS % "Nobody knows")
    say(client, "Where do I live?", user="ben")
    assert "No memories." in prompts[-1] and "Ana lives in Oslo." not in prompts[-1]
    store = served[1].agent.store
    assert list(store.contents("ana").values()) == ["Ana lives in Oslo."]
    assert not store.contents("ben")


def test_the_conversation_so_far_is_in_the_prompt(client, script):
    prompts = script(ANSWERS % "Blue")
    history = [
        {"role": "user", "content": "My colour is blue."},
        {"role": "assistant", "content": "Nice."},
    ]
    say(client, "Which one?", user="cara", history=history)
    at = [prompts[-1].index(text) for text in ("My colour is blue.", "Nice.", "Which one?")]
    assert at == sorted(at)


def test_a_streamed_answer_is_the_whole_one(client, script):
    script(ANSWERS % "Rome", ANSWERS % "Rome")
    whole = say(client, "Where?")
    chunks = list(say(client, "Where?", stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content == "Rome"
    assert chunks[-1].usage == whole.usage


def test_a_random_policy_is_answered_by_the_engine(client):
    answer = say(client, "Who is there?", user="dora", temperature=1, seed=3)
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens > 0


def test_the_agent_is_listed_and_asks_for_a_user(client):
    assert "agent" in [model.id for model in client.models.list()]
    for fields, said in (
        ({"user": openai.omit}, "user"),
        ({"user": ""}, "user"),
        ({"n": 2}, "leave it out"),
        ({"history": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, "tools of its own"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            say(client, "Hello", **fields)
    with pytest.raises(openai.BadRequestError, match="say it in parts"):
        say(client, "long " * 3000)


def test_anthropics_tool_runs_on_the_same_memories(served):
    url, service = served
    service.agent.store.execute({"eve": Add("Eve has a cat.")}, time=1)
    body = {"user": "eve", "input": {"command": "view", "path": "/memories"}}
    (name,) = service.agent.store.contents("eve")
    told = httpx.post(f"{url}/v1/memory_tool", json=body).json()
    assert not told["is_error"] and f"/memories/{name}.txt" in told["content"]
    body["input"] = {"command": "view", "path": "/memories/../../etc/passwd"}
    assert httpx.post(f"{url}/v1/memory_tool", json=body).json()["is_error"]
