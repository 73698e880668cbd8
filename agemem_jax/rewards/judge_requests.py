"""One question to an OpenAI-compatible endpoint, and what its failures tell a user to change.

Nothing here adapts to an endpoint by itself: a parameter that it refuses is named, with
the option that changes it.
"""

import asyncio
import dataclasses
import os
from typing import Any

import openai
import tenacity

from agemem_jax.rewards.judge_config import REPLY_FORMATS, TOKEN_PARAMETERS, LLMJudgeConfig

_SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "number"}},
    "required": ["score"],
    "additionalProperties": False,
}
_RESPONSE_FORMATS = {
    "json_object": {"type": "json_object"},
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "score", "strict": True, "schema": _SCHEMA},
    },
}
# Ends of a reply that its model did not choose.
_CUT = ("length", "content_filter")
# Words of a refusal that is about the size of a limit and not about its name.
_TOO_MUCH = ("context", "too large", "at most", "exceed", "maximum")
_RETRIED = (408, 409, 425, 429)
_LONGEST_MESSAGE = 300
_SHORTEST_KEY = 6  # what is shorter stands in many a word
_PATH = "judge.base_url must be the path before /chat/completions, which mostly ends in /v1"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model wrote, and whether the endpoint cut it off."""

    text: str
    cut: bool


class NoCompletion(Exception):
    """An endpoint answered, but with something else than a chat completion."""


def open_client(config: LLMJudgeConfig) -> openai.AsyncOpenAI:
    """A client for `ask`; the key is read now. Use it with `async with`."""
    return openai.AsyncOpenAI(
        base_url=config.base_url,
        # Without an explicit key the client would send that of another service.
        api_key=_key(config) or "none",
        timeout=config.timeout,
        max_retries=0,
    )


async def ask(client: openai.AsyncOpenAI, config: LLMJudgeConfig, prompt: str) -> Reply:
    """The reply to one prompt; failures that may pass are tried again.

    Raises:
      Exception: whatever the last attempt met with; `explain` says it to a user.
    """
    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(config.max_attempts),
        wait=tenacity.wait_random_exponential(
            multiplier=config.first_pause, max=config.longest_pause
        ),
        retry=tenacity.retry_if_exception(_is_transient),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            # The client's own limit is per read; this one is for the whole attempt.
            async with asyncio.timeout(config.timeout):
                completion = await client.chat.completions.create(
                    model=config.model,
                    messages=[{"role": "user", "content": prompt}],
                    **_settings(config),
                )
            return _read(completion)
    raise AssertionError("unreachable: the last attempt returns or raises")


def explain(error: BaseException, config: LLMJudgeConfig) -> str:
    """What went wrong and what to change, as a sentence without its end."""
    judge = f"The judge at {config.base_url}"
    status = getattr(error, "status_code", None)
    said = _message(error)
    if isinstance(error, NoCompletion):
        text = f"{judge} answered, but with no chat completion ({said}); {_PATH}"
    elif isinstance(status, int):
        text = f"{judge} answered with status {status} ({said}); {_advice(status, said, config)}"
    elif isinstance(error, TimeoutError | openai.APITimeoutError):
        text = (
            f"{judge} did not answer within judge.timeout, which is {config.timeout:g} seconds; "
            "raise it, or lower judge.max_concurrency"
        )
    elif isinstance(error, openai.APIConnectionError):
        text = (
            f"{judge} cannot be reached ({_innermost(error)}); judge.base_url must be the address "
            "of a server that runs"
        )
    else:
        text = f"{judge} cannot be asked ({type(error).__name__}: {said})"
    return _without_key(text, config)


def explain_unknown(reply: Reply, config: LLMJudgeConfig) -> str:
    """Why the reply to a question with a known answer is of no use, likewise."""
    judge = f"The judge at {config.base_url}"
    if reply.cut:
        text = (
            f"{judge} did not come to a score within judge.max_tokens, which is "
            f"{config.max_tokens}; raise it, or turn off its model's thinking"
        )
    else:
        others = " or ".join(repr(each) for each in REPLY_FORMATS if each != config.reply_format)
        text = (
            f"{judge} states no score for a right answer, but {_shortened(reply.text)!r}; set "
            f"judge.reply_format to {others}, or take another judge.model"
        )
    return _without_key(text, config)


def _settings(config: LLMJudgeConfig) -> dict[str, Any]:
    """What a request says beside model and prompt."""
    settings: dict[str, Any] = {config.max_tokens_parameter: config.max_tokens}
    if config.temperature is not None:
        settings["temperature"] = config.temperature
    if config.reply_format in _RESPONSE_FORMATS:
        settings["response_format"] = _RESPONSE_FORMATS[config.reply_format]
    return settings


def _read(completion: Any) -> Reply:
    """The text of a completion; "" for one without, as endpoints of all kinds send."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):  # a web page, or an error under status 200
        raise NoCompletion(_message_of(getattr(completion, "error", None) or completion))
    if not choices:
        return Reply("", cut=False)
    content = getattr(getattr(choices[0], "message", None), "content", None)
    cut = getattr(choices[0], "finish_reason", None) in _CUT
    return Reply(content if isinstance(content, str) else "", cut)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIConnectionError | TimeoutError):
        return True
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and (status in _RETRIED or status >= 500)


def _advice(status: int, said: str, config: LLMJudgeConfig) -> str:
    """Which options a refusal is about: those that its message names, else all of them."""
    if status in (401, 403):
        state = "holds a key that it does not take" if _key(config) else "is not set"
        return (
            f"the environment variable {config.api_key_variable}, which {state}, must hold a key "
            "of this endpoint"
        )
    if status == 429:
        return f"lower judge.max_concurrency, which is {config.max_concurrency}, or raise the quota"
    if status in _RETRIED or status >= 500:
        return f"it did so {config.max_attempts} times (judge.max_attempts); its own log says more"
    hints = _hints(said.lower(), config)
    if hints:
        return f"set {', or '.join(hints)}"
    if status == 404:
        return f"{_PATH}, and judge.model, which is {config.model!r}, one that it serves"
    return (
        f"what is sent to it are judge.model ({config.model!r}), judge.max_tokens "
        f"({config.max_tokens}) as judge.max_tokens_parameter ({config.max_tokens_parameter!r}), "
        f"judge.temperature ({config.temperature}; None sends none) and judge.reply_format "
        f"({config.reply_format!r}; 'text' sends none)"
    )


def _hints(said: str, config: LLMJudgeConfig) -> list[str]:
    hints = []
    too_much = any(word in said for word in _TOO_MUCH)
    if any(name in said for name in TOKEN_PARAMETERS) and not too_much:
        (other,) = set(TOKEN_PARAMETERS) - {config.max_tokens_parameter}
        hints.append(f"judge.max_tokens_parameter to {other!r}")
    elif "token" in said and too_much:
        hints.append(f"judge.max_tokens, which is {config.max_tokens}, to less")
    if "temperature" in said and config.temperature is not None:
        hints.append("judge.temperature to None, which sends none")
    asks_format = config.reply_format in _RESPONSE_FORMATS
    if asks_format and any(word in said for word in ("response_format", "json", "schema")):
        others = " or ".join(repr(each) for each in REPLY_FORMATS if each != config.reply_format)
        hints.append(f"judge.reply_format to {others}")
    return hints


def _message(error: BaseException) -> str:
    """The endpoint's own words, or the client's."""
    body = getattr(error, "body", None)
    return _message_of(body) if body else _shortened(str(error)) or "without a word"


def _message_of(body: Any) -> str:
    """The words of an error as OpenAI, FastAPI and others wrap it."""
    while isinstance(body, dict):
        inner = next((body[key] for key in ("message", "error", "detail") if body.get(key)), None)
        if inner is None:
            break
        body = inner
    return _shortened(str(body))


def _shortened(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def _innermost(error: BaseException) -> str:
    """What the cause at the bottom says; the top says no more than "Connection error"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _shortened(str(error)) or type(error).__name__


def _key(config: LLMJudgeConfig) -> str:
    return os.environ.get(config.api_key_variable, "").strip()


def _without_key(text: str, config: LLMJudgeConfig) -> str:
    """A server's message may repeat the key."""
    key = _key(config)
    return text.replace(key, "[key]") if len(key) >= _SHORTEST_KEY else text
