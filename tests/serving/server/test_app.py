"""The server over HTTP, asked by the official client where it can be."""

import asyncio
import json
import threading
import time

import httpx
import openai
import pytest

from agemem_jax.serving.server.service import Limits
from experiments.checks.server import fuzz

HELLO = [{"role": "user", "content": "Hello there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="-", max_retries=0) as client:
        yield client


def ask(client, messages=HELLO, **fields):
    return client.chat.completions.create(
        model="small", messages=messages, **{"temperature": 0, "max_tokens": 12} | fields
    )


def until_idle(service):
    for _ in range(1000):
        load = service.scheduler.load
        if not load.running and not load.waiting:
            return
        time.sleep(0.01)
    raise AssertionError(load)


def test_models_are_listed_and_found_by_name(client):
    assert [model.id for model in client.models.list()] == ["small", "hashed_ngrams"]
    assert client.models.retrieve("small").owned_by == "agemem_jax"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/one")


def test_a_streamed_answer_is_the_whole_one_piece_by_piece(client):
    whole = ask(client, max_tokens=30)
    chunks = list(ask(client, max_tokens=30, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 30
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 1


def test_usage_tells_how_much_of_a_prompt_was_held_already(client):
    system = {"role": "system", "content": "Everything about usage. " * 8}
    first = ask(client, [system, *HELLO])
    answer = {"role": "assistant", "content": first.choices[0].message.content}
    second = ask(client, [system, *HELLO, answer, {"role": "user", "content": "And then?"}])
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 1
    assert second.usage.total_tokens == second.usage.prompt_tokens + 12


def test_several_answers_have_their_own_seeds_and_log_probabilities(client):
    answer = ask(client, n=3, temperature=1.0, seed=5, logprobs=True, top_p=0.9)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    for choice in answer.choices:
        told = choice.logprobs.content
        assert len(told) == 12 and all(each.logprob <= 0.0 for each in told)
    again = ask(client, n=3, temperature=1.0, seed=5, top_p=0.9)
    assert [choice.message.content for choice in again.choices] == texts


def test_a_text_ends_an_answer_and_is_not_part_of_it(client):
    text = ask(client).choices[0].message.content
    stop = text[3:6]
    stopped = ask(client, stop=[stop, "never"]).choices[0]
    assert stopped.message.content == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_demanded_call_keeps_to_the_functions_schema(client, choice):
    fields = {"tools": [WEATHER], "tool_choice": choice, "temperature": 1.0, "max_tokens": 60}
    answer = ask(client, **fields, seed=1).choices[0]
    (call,) = answer.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    assert call.function.name == "weather" and arguments["city"] in ("Rome", "Oslo")
    assert isinstance(arguments["days"], int)
    chunks = [c.choices[0] for c in ask(client, **fields, seed=1, stream=True)]
    (streamed,) = [call for c in chunks for call in c.delta.tool_calls or ()]
    assert streamed.function.arguments == call.function.arguments
    assert not any(c.delta.content for c in chunks)
    assert chunks[-1].finish_reason == "tool_calls"


def test_results_of_calls_go_back_to_the_model(client, server):
    _, service = server
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    assert ask(client, messages, tools=[WEATHER], tool_choice="none").choices[0].message.content


def test_an_answer_keeps_to_a_schema(client):
    schema = WEATHER["function"]["parameters"]
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": schema, "strict": True}}
    answer = ask(client, response_format=form, temperature=1.0, max_tokens=60, seed=2)
    assert json.loads(answer.choices[0].message.content).keys() == {"city", "days"}
    loose = ask(client, response_format={"type": "json_object"}, max_tokens=60)
    assert isinstance(json.loads(loose.choices[0].message.content), dict)


def test_texts_are_embedded(client, server):
    _, service = server
    told = client.embeddings.create(model="hashed_ngrams", input=["Rome", "rain"]).data
    wanted = service.embedder.embed(["Rome", "rain"])
    assert [each.embedding for each in told] == wanted.tolist()
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="hashed_ngrams", input="x", dimensions=3)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"extra_body": {"beam_width": 3}}, "beam_width", "no field that this server knows"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "two functions have one name"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, "messages", "holds 624"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            None,
            "messages.0",
        ),
        (
            {"response_format": {
                "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "frob"}}
            }},
            "response_format",
            "Invalid type: frob",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence(client, fields, param, said):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    assert said in caught.value.body["message"]
    assert param in (None, caught.value.body["param"])
    assert caught.value.body["type"] == "invalid_request_error"


def test_another_models_name_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="there is 'small'"):
        client.chat.completions.create(model="gpt", messages=HELLO)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(server, client, stream):
    url, service = server
    asked = {"max_tokens": 64, "n": 4, "temperature": 1}
    for asked["seed"] in range(100):  # until none of the four is at its end before the client goes
        if {each.finish_reason for each in ask(client, **asked).choices} == {"length"}:
            break
    body = {"model": "small", "messages": HELLO, "stream": stream, **asked}
    cancelled = []
    cancel, service.scheduler.cancel = service.scheduler.cancel, lambda t: cancelled.append(t)
    try:
        step = service.scheduler.engine.step
        service.scheduler.engine.step = lambda: time.sleep(0.4) or step()
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.1)
            raise httpx.TimeoutException("a stream's head came in time")
        for _ in range(500):
            if len(cancelled) == 4:
                break
            time.sleep(0.01)
        assert len(cancelled) == 4
        for ticket in cancelled:
            cancel(ticket)
    finally:
        service.scheduler.cancel, service.scheduler.engine.step = cancel, step
    until_idle(service)


def test_the_key_is_asked_for_but_for_health(serve):
    with serve(api_key="secret") as (url, _):
        assert httpx.get(f"{url}/healthz").status_code == 200
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert httpx.get(url + path).status_code == 401
        wrong = openai.OpenAI(base_url=f"{url}/v1", api_key="secre", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="Bearer KEY"):
            wrong.models.list()
        assert openai.OpenAI(base_url=f"{url}/v1", api_key="secret").models.list().data


def test_without_a_key_only_local_names_are_answered(server):
    url, _ = server
    assert httpx.get(f"{url}/v1/models", headers={"host": "evil.example"}).status_code == 400


def test_bodies_have_limits(serve):
    limits = Limits(body_bytes=1000, body_seconds=0.3)
    with serve(limits=limits) as (url, _):
        path = f"{url}/v1/chat/completions"
        json_type = {"content-type": "application/json"}
        assert httpx.post(path, content="x" * 1001, headers=json_type).status_code == 413
        assert httpx.post(path, content="{}").status_code == 415

        def slow():
            yield b"{"
            time.sleep(1)
            yield b"}"

        assert httpx.post(path, content=slow(), headers=json_type).status_code == 408


def test_a_full_queue_says_when_to_come_again(serve):
    with serve(max_waiting=0) as (url, service):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
        step = service.scheduler.engine.step
        service.scheduler.engine.step = lambda: time.sleep(0.4) or step()
        held = threading.Thread(target=lambda: ask(client, n=4, max_tokens=64, temperature=1))
        held.start()
        while service.scheduler.load.running < 4:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert caught.value.body["code"] == "queue_full"
        service.scheduler.engine.step = step
        held.join()


def test_what_happened_is_counted(client, server):
    url, _ = server
    ask(client)
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    counts = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    asked = 'agemem_requests_total{path="/v1/chat/completions",status="200"}'
    assert float(counts[asked]) >= 1
    assert float(counts["agemem_sampled_tokens_total"]) >= 12
    assert float(counts["agemem_slots"]) == 4


def test_wrong_requests_get_4xx_and_leak_no_slot(server):
    url, service = server
    told = asyncio.run(fuzz.fuzz(url, 300, 8, seed=1))
    assert told["health"] == 200 and not any(told["busy"].values())
    wrong = {status for status in told["statuses"] if not status.startswith(("2", "4"))}
    assert wrong <= {"hung up", "answered before"}
    assert sum(n for status, n in told["statuses"].items() if status.startswith("4")) > 150
    until_idle(service)
