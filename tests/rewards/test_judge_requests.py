"""What is sent to an endpoint, and what a user is told when it will not have it."""

import socket
import threading

import pytest

from tests.rewards.endpoint import RIGHT, SECRET, Endpoint, always, judge_at


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("AGEMEM_JUDGE_API_KEY", SECRET)


def sent(**options):
    with Endpoint(always('{"score": 0.5}')) as endpoint:
        judge_at(endpoint.url, **options).score_answers([RIGHT])
    return endpoint.requests[0][1]


def refused(status, body, **options):
    """What `try_endpoint` says of an endpoint that answers so, and how often it was asked."""
    with Endpoint(always(body, status)) as endpoint:
        said = judge_at(endpoint.url, **options).try_endpoint()
    assert "\n" not in said and said.startswith(f"The judge at {endpoint.url} ")
    return said, len(endpoint.requests)


def test_a_request_carries_the_settings_and_asks_for_a_json_object():
    body = sent()
    assert (body["temperature"], body["max_tokens"]) == (0.0, 1024)
    assert "max_completion_tokens" not in body
    assert body["response_format"] == {"type": "json_object"}


def test_what_an_endpoint_does_not_know_can_be_left_out():
    body = sent(
        temperature=None, max_tokens=99, max_tokens_parameter="max_completion_tokens",
        reply_format="text",
    )  # fmt: skip
    assert set(body) == {"model", "messages", "max_completion_tokens"}
    assert body["max_completion_tokens"] == 99


def test_a_schema_holds_the_reply_to_one_score():
    schema = sent(reply_format="json_schema")["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["required"] == ["score"]
    assert schema["schema"]["properties"] == {"score": {"type": "number"}}


TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."
)


@pytest.mark.parametrize(
    ("options", "said", "advice"),
    [
        ({}, TOKENS, "set judge.max_tokens_parameter to 'max_completion_tokens'"),
        (
            {"max_tokens_parameter": "max_completion_tokens"},
            "body -> max_completion_tokens: Extra inputs are not permitted",
            "set judge.max_tokens_parameter to 'max_tokens'",
        ),
        (
            {},
            "max_tokens is too large: 1024. This model supports at most 512 tokens",
            "set judge.max_tokens, which is 1024, to less",
        ),
        (
            {},
            "This model's maximum context length is 1024 tokens",
            "set judge.max_tokens, which is 1024, to less",
        ),
        (
            {},
            "'temperature' does not support 0.0 with this model",
            "set judge.temperature to None, which sends none",
        ),
        (
            {},
            "'response_format.type' must be 'json_schema' or 'text'",
            "set judge.reply_format to 'json_schema' or 'text'",
        ),
        (
            {"reply_format": "json_schema"},
            "unknown field json_schema",
            "set judge.reply_format to 'json_object' or 'text'",
        ),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_says_which_option_its_message_is_about(status, options, said, advice):
    text, requests = refused(status, said, **options)
    assert f"answered with status {status} ({said.rstrip('.')}); {advice}" in text
    assert text.endswith(advice)  # and no other
    assert requests == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no such thing", "param": None}},
        {"error": "no such thing"},
        {"object": "error", "message": "no such thing"},
        {"detail": "no such thing"},
        {"detail": [{"loc": ["body"], "msg": "no such thing"}]},
        b"<html>no such thing</html>",
    ],
)
def test_a_refusal_that_names_nothing_lists_every_option_and_the_endpoints_own_words(body):
    text, _ = refused(400, body, temperature=0.5)
    for name in ("model ('m')", "max_tokens (1024)", "max_tokens_parameter ('max_tokens')",
                 "temperature (0.5; None", "reply_format ('json_object'; 'text'"):  # fmt: skip
        assert f"judge.{name}" in text
    assert "no such thing" in text


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_by_its_variable_and_not_shown(status, monkeypatch):
    text, requests = refused(status, f"Incorrect API key provided: {SECRET}.")
    assert "(Incorrect API key provided: [key]); the environment variable" in text
    assert "AGEMEM_JUDGE_API_KEY, which holds a key that it does not take" in text
    assert SECRET not in text and requests == 1
    monkeypatch.delenv("AGEMEM_JUDGE_API_KEY")
    assert "AGEMEM_JUDGE_API_KEY, which is not set" in refused(status, "Missing key")[0]


def test_a_path_that_does_not_exist_asks_for_the_one_before_chat_completions():
    text, requests = refused(404, b"404 page not found")
    assert "ends in /v1, and judge.model, which is 'm', one that it serves" in text
    assert "404 page not found" in text and requests == 1


def test_a_server_in_trouble_is_asked_again_and_then_described():
    text, requests = refused(503, "Loading model")
    assert "status 503 (Loading model); it did so 3 times (judge.max_attempts)" in text
    assert requests == 3


def test_too_many_requests_are_told_with_their_number():
    text, requests = refused(429, "slow down", max_concurrency=5)
    assert "lower judge.max_concurrency, which is 5" in text and requests == 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>Welcome</html>", "(<html>Welcome</html>)"),
        ({"error": {"message": "model is loading", "code": 5}}, "(model is loading)"),
        ({"status": "ok"}, ""),
    ],
)
def test_an_answer_that_is_no_completion_is_a_failure_and_points_at_the_path(body, says):
    text, _ = refused(200, body)
    assert "answered, but with no chat completion" in text and says in text
    assert text.endswith("judge.base_url must be the path before /chat/completions, which mostly "
                         "ends in /v1")  # fmt: skip
    with Endpoint(always(body)) as endpoint:
        judge = judge_at(endpoint.url)
        judge.score_answers([RIGHT])
    assert (judge.stats.failures, judge.stats.unknown) == (1, 0)


def test_an_endpoint_that_hangs_is_told_with_its_timeout():
    release = threading.Event()
    with Endpoint(lambda number, body: (release.wait(20), (200, "1"))[1]) as endpoint:
        text = judge_at(endpoint.url, timeout=0.2, max_attempts=1).try_endpoint()
        release.set()
    assert "did not answer within judge.timeout, which is 0.2 seconds" in text


def test_a_port_where_nobody_listens_is_told_in_a_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = judge_at(f"http://127.0.0.1:{port}/v1", max_attempts=1).try_endpoint()
    assert f"The judge at http://127.0.0.1:{port}/v1 cannot be reached (" in text
    assert text.endswith("judge.base_url must be the address of a server that runs")


def test_a_host_that_does_not_exist_is_told_in_a_sentence(monkeypatch):
    def fail(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    text = judge_at("http://nohost.invalid/v1", max_attempts=1).try_endpoint()
    assert "cannot be reached ([Errno -2] Name or service not known); judge.base_url" in text


def test_an_endpoint_that_scores_a_right_answer_is_in_order():
    with Endpoint(always('{"score": 1.0}')) as endpoint:
        judge = judge_at(endpoint.url)
        assert judge.try_endpoint() is None
    assert judge.take_counts()["calls"] == 0  # nothing of a run was scored


def test_a_model_that_thinks_past_the_limit_is_told_to_be_given_more_tokens():
    with Endpoint(always("<think>Score: 0.5, or", 200, "length")) as endpoint:
        text = judge_at(endpoint.url, max_tokens=64).try_endpoint()
    assert "did not come to a score within judge.max_tokens, which is 64; raise it" in text


def test_a_model_that_states_no_score_is_quoted():
    with Endpoint(always("I would rather not.")) as endpoint:
        text = judge_at(endpoint.url).try_endpoint()
    assert "states no score for a right answer, but 'I would rather not'; set" in text
    assert "judge.reply_format to 'json_schema' or 'text'" in text
