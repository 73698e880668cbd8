"""/v1/chat/completions for the agent's model: `user` says whose memory it has."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agemem_jax.serving.agent.agent_events import Reply, ResponseEvent
from agemem_jax.serving.memory.held_memory import check_name
from agemem_jax.serving.server import bodies, errors
from agemem_jax.serving.server.agent_service import AgentService, Turn
from agemem_jax.serving.server.chat_request import AssistantMessage, ChatRequest, ToolMessage
from agemem_jax.serving.server.conversation import text_of
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.events import Events
from agemem_jax.serving.server.scheduler import Failure, QueueFull

# What an agent has of its own, or does not offer.
REFUSED = (
    "tools", "tool_choice", "response_format", "stop", "n", "logprobs", "top_p", "top_k",
    "max_tokens", "max_completion_tokens", "parallel_tool_calls",
)  # fmt: skip


async def complete(agent: AgentService, request: Request, body: ChatRequest) -> Response:
    """Answers a request for the agent's model."""
    for name in REFUSED:
        if getattr(body, name) not in (None, 1, False, []):
            raise APIError(
                400, f"{name}: the agent plays by the rules that it was trained by; leave it out.",
                param=name,
            )  # fmt: skip
    try:
        check_name(body.user)
    except ValueError as error:
        raise APIError(400, f"user: {error}", param="user") from None
    history, text = _said(body)
    temperature = 0.0 if body.temperature is None else body.temperature
    seed = secrets.randbits(31) if body.seed is None else body.seed
    try:
        turn = agent.begin(body.user, history, text, temperature, seed)
    except QueueFull as error:
        raise errors.busy(error, 1) from error
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": agent.name,
    }  # fmt: skip
    if body.stream:
        options = body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        return Events(_events(turn, head, with_usage), turn.stop)
    try:
        reply = await bodies.while_there(request, _reply(turn))
    finally:
        turn.stop()
    message = {
        "role": "assistant", "content": reply.text, "refusal": None, "memory": _calls(reply),
    }  # fmt: skip
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    told = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}
    return JSONResponse(told)


def _said(body: ChatRequest) -> tuple[list[tuple[str, str]], str]:
    """The conversation so far, and the message that the agent is to answer."""
    turns = []
    for message in body.messages:
        if isinstance(message, ToolMessage):
            raise APIError(400, "messages: the agent has tools of its own.", param="messages")
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        text = text_of(message.content).strip()
        if text:
            turns.append((role, text))
    if not turns or turns[-1][0] != "user":
        raise APIError(
            400, "messages: the last one must be a user's, and say something.", param="messages"
        )
    return turns[:-1], turns[-1][1]


async def _reply(turn: Turn) -> Reply:
    """The reply, with failures as a client is told of them."""
    try:
        return await turn.reply()
    except QueueFull as error:
        raise errors.busy(error, 1) from error
    except Failure as failure:
        raise errors.of_failure(failure) from failure
    except ValueError as error:
        raise APIError(400, str(error), param="messages") from error


def _calls(reply: Reply) -> list[dict[str, Any]]:
    """What the agent did with its tools; not OpenAI's."""
    return [{"name": call.name, "arguments": call.arguments, "ok": call.ok} for call in reply.calls]


def _usage(reply: Reply) -> dict[str, Any]:
    responses = [event for event in reply.events if isinstance(event, ResponseEvent)]
    prompt = sum(event.prompt_tokens for event in responses)
    sampled = sum(event.sampled_tokens for event in responses)
    return {
        "prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled,
    }  # fmt: skip


async def _events(
    turn: Turn, head: dict[str, Any], with_usage: bool
) -> AsyncIterator[dict[str, str]]:
    """The chunks of a streamed answer. It comes whole: what is sampled may yet be taken back."""

    def chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, str]:
        told = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        return {"data": json.dumps(told, ensure_ascii=False)}

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]

    try:
        yield chunk(choice({"role": "assistant", "content": ""}))
        reply = await _reply(turn)
        yield chunk(choice({"content": reply.text, "memory": _calls(reply)}))
        yield chunk(choice({}, "stop"))
        if with_usage:
            yield chunk([], usage=_usage(reply))
    except APIError as error:  # the status is sent already
        yield {"data": json.dumps(error.body)}
    yield {"data": "[DONE]"}
