"""/v1/responses: OpenAI's newer interface, whole and as its sequence of events.

Nothing is stored: a conversation is sent whole each time.
"""

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agemem_jax.serving.server import bodies
from agemem_jax.serving.server.completions import check_model
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.events import Events
from agemem_jax.serving.server.replies import Reply
from agemem_jax.serving.server.responses_request import (
    FlatNamedTool,
    FlatSchemaFormat,
    ResponsesRequest,
    functions_of,
    messages_of,
)
from agemem_jax.serving.server.service import Answers, Ask, Service


def ask_of(body: ResponsesRequest) -> Ask:
    """What a body asks for."""
    form = body.text.format if body.text is not None else None
    schema = None
    if isinstance(form, FlatSchemaFormat):
        schema = form.schema_
    elif form is not None and form.type == "json_object":
        schema = {"type": "object"}
    choice = body.tool_choice or "auto"
    if isinstance(choice, FlatNamedTool):
        choice = f"={choice.name}"
    if schema is not None and body.tools and choice == "auto":
        choice = "none"  # as in a chat: the answer is the schema's
    return Ask(
        messages=messages_of(body),
        functions=functions_of(body),
        tool_choice=choice,
        one_call=body.parallel_tool_calls is False,
        schema=schema,
        schema_param="text.format",
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
    )


async def respond(service: Service, request: Request) -> Response:
    """Answers a request."""
    body = await bodies.read(request, ResponsesRequest, service.limits)
    check_model(service, body.model)
    answers = await service.answer(ask_of(body))
    head = _head(body, service.name)
    if body.stream:
        return Events(_events(answers, head), answers.close)
    try:
        await bodies.while_there(request, answers.wait())
    finally:
        answers.close()
    return JSONResponse(_whole(head, answers))


def _head(body: ResponsesRequest, model: str) -> dict[str, Any]:
    """What a response repeats of its request."""
    given = body.model_dump(by_alias=True, exclude_none=True)
    text = given.get("text") or {}
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": text.get("format") or {"type": "text"}},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": [{"strict": None, **tool} for tool in given.get("tools", [])],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _message(item_id: str, text: str, status: str) -> dict[str, Any]:
    content = [_part(text)] if status != "in_progress" else []
    return {
        "id": item_id, "type": "message", "role": "assistant", "status": status, "content": content,
    }  # fmt: skip


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"fc_{call['id']}", "type": "function_call", "call_id": call["id"],
        **call["function"], "status": "completed",
    }  # fmt: skip


def _whole(head: dict[str, Any], answers: Answers, message_id: str | None = None) -> dict[str, Any]:
    """The response at its end."""
    reply: Reply = answers.replies[0]
    cut = reply.finish == "length"
    status = "incomplete" if cut else "completed"
    output = []
    if reply.text or not reply.calls:
        message_id = message_id or f"msg_{secrets.token_hex(12)}"
        output.append(_message(message_id, reply.text, status))
    output += [_call(call) for call in reply.calls]
    return {
        **head,
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": answers.prompt_tokens,
            "input_tokens_details": {"cached_tokens": reply.cached, "cache_write_tokens": 0},
            "output_tokens": reply.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answers.prompt_tokens + reply.tokens,
        },
    }


async def _events(answers: Answers, head: dict[str, Any]) -> AsyncIterator[dict[str, str]]:
    """The events of a streamed response."""
    number = 0

    def event(kind: str, **told: Any) -> dict[str, str]:
        nonlocal number
        data = {"type": kind, "sequence_number": number, **told}
        number += 1
        return {"event": kind, "data": json.dumps(data, ensure_ascii=False)}

    message_id = f"msg_{secrets.token_hex(12)}"
    place = {"item_id": message_id, "output_index": 0, "content_index": 0}
    reply = answers.replies[0]
    opened = False

    def opening() -> list[dict[str, str]]:
        item = _message(message_id, "", "in_progress")
        return [
            event("response.output_item.added", output_index=0, item=item),
            event("response.content_part.added", **place, part=_part("")),
        ]

    try:
        yield event("response.created", response=head)
        yield event("response.in_progress", response=head)
        async with contextlib.aclosing(answers.updates()) as updates:
            async for _, _, text in updates:
                if not text:
                    continue
                if not opened:
                    opened = True
                    for each in opening():
                        yield each
                yield event("response.output_text.delta", **place, delta=text, logprobs=[])
        whole = _whole(head, answers, message_id)
        for index, item in enumerate(whole["output"]):
            if item["type"] == "message":
                if not opened:
                    for each in opening():
                        yield each
                yield event("response.output_text.done", **place, text=reply.text, logprobs=[])
                yield event("response.content_part.done", **place, part=_part(reply.text))
            else:
                begun = {**item, "arguments": "", "status": "in_progress"}
                yield event("response.output_item.added", output_index=index, item=begun)
                at, arguments = {"item_id": item["id"], "output_index": index}, item["arguments"]
                yield event("response.function_call_arguments.delta", **at, delta=arguments)
                yield event(
                    "response.function_call_arguments.done", **at, arguments=arguments,
                    name=item["name"],
                )  # fmt: skip
            yield event("response.output_item.done", output_index=index, item=item)
        yield event(f"response.{whole['status']}", response=whole)
    except APIError as error:  # the status is sent already
        told = {"code": error.code or "server_error", "message": error.message}
        yield event("response.failed", response={**head, "status": "failed", "error": told})
    finally:
        answers.close()
