"""/v1/chat/completions: OpenAI's chat interface, whole and as server-sent events."""

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agemem_jax.serving.server import agent_completions, bodies
from agemem_jax.serving.server.chat_request import ChatRequest, NamedTool, SchemaFormat
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.events import Events
from agemem_jax.serving.server.replies import Reply, usage
from agemem_jax.serving.server.service import Answers, Ask, Service


def ask_of(body: ChatRequest) -> Ask:
    """What a body asks for.

    Raises:
      APIError: two of its fields contradict each other.
    """
    form, schema = body.response_format, None
    if isinstance(form, SchemaFormat):
        schema = form.json_schema.schema_ or {}
    elif form is not None and form.type == "json_object":
        schema = {"type": "object"}
    choice = body.tool_choice or "auto"
    if isinstance(choice, NamedTool):
        choice = f"={choice.function.name}"
    if schema is not None and body.tools and choice == "auto":
        # What is kept to a schema cannot call: the answer is the schema's.
        choice = "none"
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Ask(
        messages=body.messages,
        functions=[tool.function for tool in body.tools or ()],
        tool_choice=choice,
        one_call=body.parallel_tool_calls is False,
        schema=schema,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stops=stops,
        n=body.n or 1,
    )


def check_model(service: Service, name: str) -> None:
    """Raises an APIError where a request asks for a model that is not served."""
    if name != service.name:
        raise APIError(
            404, f"There is no model {name[:100]!r}; there is {service.name!r}.",
            param="model", code="model_not_found",
        )  # fmt: skip


async def complete(service: Service, request: Request) -> Response:
    """Answers a request."""
    body = await bodies.read(request, ChatRequest, service.limits)
    if service.agent is not None and body.model == service.agent.name:
        return await agent_completions.complete(service.agent, request, body)
    check_model(service, body.model)
    answers = await service.answer(ask_of(body))
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": service.name,
    }
    if body.stream:
        options = body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        events = _events(answers, head, bool(body.logprobs), with_usage)
        return Events(events, answers.close)
    try:
        log_probs = await bodies.while_there(request, answers.wait())
    finally:
        answers.close()
    choices = [
        {
            "index": index,
            "message": _message(reply),
            "logprobs": {"content": told, "refusal": None} if body.logprobs else None,
            "finish_reason": reply.finish,
        }
        for index, (reply, told) in enumerate(zip(answers.replies, log_probs, strict=True))
    ]
    told = {
        **head, "object": "chat.completion", "choices": choices,
        "usage": usage(answers.prompt_tokens, answers.replies),
    }  # fmt: skip
    return JSONResponse(told)


def _message(reply: Reply) -> dict[str, Any]:
    content = reply.text if reply.text or not reply.calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    return {**message, "tool_calls": reply.calls} if reply.calls else message


async def _events(
    answers: Answers, head: dict[str, Any], with_log_probs: bool, with_usage: bool
) -> AsyncIterator[dict[str, str]]:
    """The chunks of a streamed answer."""

    def chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, str]:
        told = {**head, "object": "chat.completion.chunk", "choices": choices}
        if with_usage:
            told["usage"] = None
        return {"data": json.dumps({**told, **more}, ensure_ascii=False)}

    def choice(index: int, delta: dict[str, Any], finish=None, log_probs=None) -> dict[str, Any]:
        return {
            "index": index, "delta": delta, "finish_reason": finish,
            "logprobs": None if log_probs is None else {"content": log_probs, "refusal": None},
        }  # fmt: skip

    try:
        for index in range(len(answers.replies)):
            yield chunk([choice(index, {"role": "assistant", "content": ""})])
        async with contextlib.aclosing(answers.updates()) as updates:
            async for index, update, text in updates:
                reply = answers.replies[index]
                log_probs = reply.log_probs(update) if with_log_probs else None
                if text or log_probs:
                    yield chunk([choice(index, {"content": text}, log_probs=log_probs)])
                if update.done:
                    for place, call in enumerate(reply.calls):
                        delta = {"tool_calls": [{"index": place, **call}]}
                        yield chunk([choice(index, delta)])
                    yield chunk([choice(index, {}, reply.finish)])
        if with_usage:
            yield chunk([], usage=usage(answers.prompt_tokens, answers.replies))
    except APIError as error:  # the status is sent already
        yield {"data": json.dumps(error.body)}
    finally:
        answers.close()
    yield {"data": "[DONE]"}
