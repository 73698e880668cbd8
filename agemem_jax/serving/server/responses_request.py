"""The body of /v1/responses, and the same as the messages of a chat."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from agemem_jax.serving.server.chat_request import (
    AssistantMessage,
    Call,
    CalledFunction,
    Content,
    Count,
    Function,
    Message,
    NamedFunction,
    PlainFormat,
    Probability,
    SystemMessage,
    Temperature,
    ToolMessage,
    UserMessage,
)
from agemem_jax.serving.server.fields import (
    Absent,
    Empty,
    NotTrue,
    Table,
    Zero,
    ignored,
    refused,
    required,
    supported,
)


class MessageItem(Table):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: Any = None
    status: Any = None
    phase: Any = None


class CallItem(Table):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: Any = None
    status: Any = None


class ResultItem(Table):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: Any = None
    status: Any = None


def _kind(item: Any) -> str | None:
    if isinstance(item, Mapping):
        return item.get("type", "message")
    return getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")],
    Discriminator(_kind),
]


class FlatTool(Function):
    """A function; its parts stand beside its type here."""

    type: Literal["function"]


class FlatNamedTool(NamedFunction):
    type: Literal["function"]


class FlatSchemaFormat(Table):
    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class Text(Table):
    format: Annotated[PlainFormat | FlatSchemaFormat, Discriminator("type")] | None = None
    verbosity: Any = None


class ResponsesRequest(Table):
    """A request for one answer."""

    input: str | Annotated[list[Item], Field(min_length=1)] = required(
        "a text, or messages, calls and their results; contents are text"
    )
    model: str = required("the name that `/v1/models` tells", max_length=512)
    instructions: str | None = supported("the system text in front of the input")
    stream: bool | None = supported("the answer comes as events")
    max_output_tokens: Count | None = supported(
        "at most so many tokens; more than there is room for count as the room"
    )
    temperature: Temperature | None = supported("0 takes the likeliest token; by default 1")
    top_p: Probability | None = supported("above 0")
    tools: Annotated[list[FlatTool], Field(max_length=128)] | None = supported("functions")
    tool_choice: Literal["none", "auto", "required"] | FlatNamedTool | None = supported(
        "none, auto, required, or a function by name"
    )
    parallel_tool_calls: bool | None = supported("false keeps the first call only")
    text: Text | None = supported("`format`: text, json_object, json_schema (always strict)")
    user: str | None = supported("with the agent's model, whose memory it is; else ignored")
    metadata: dict[str, str] | None = supported("comes back with the answer")
    store: Any = ignored("nothing is stored")
    include: Any = ignored("there is nothing to include")
    truncation: Any = ignored("what does not fit is refused")
    stream_options: Any = ignored("events are not padded")
    reasoning: Any = ignored("models have no such setting")
    safety_identifier: Any = ignored("nobody is reported")
    prompt_cache_key: Any = ignored("caches are found by their tokens")
    prompt_cache_retention: Any = ignored("caches are kept as long as their slot is not needed")
    prompt_cache_options: Any = ignored("as above")
    service_tier: Any = ignored("there is one")
    max_tool_calls: Any = ignored("it counts calls of tools that a server runs; there are none")
    top_logprobs: Zero = refused("only sampled tokens' are known; 0 passes")
    background: NotTrue = refused("answers are not kept; false passes")
    background_options: Absent = refused("answers are not kept")
    previous_response_id: Absent = refused("nothing is stored: send the whole conversation")
    conversation: Absent = refused("nothing is stored: send the whole conversation")
    prompt: Absent = refused("there are no stored prompts")
    context_management: Empty = refused("send what the model is to read")
    image: Absent = refused("text alone")
    moderation: Absent = refused("there is none")
    access_programs: Absent = refused("there are none")


def messages_of(body: ResponsesRequest) -> list[Message]:
    """The conversation of a body."""
    return list(_messages(body))


def _messages(body: ResponsesRequest) -> Iterator[Message]:
    if body.instructions:
        yield SystemMessage(role="system", content=body.instructions)
    if isinstance(body.input, str):
        yield UserMessage(role="user", content=body.input)
        return
    calls: list[Call] = []
    for item in body.input:
        if isinstance(item, CallItem):
            function = CalledFunction(name=item.name, arguments=item.arguments)
            calls.append(Call(id=item.call_id, function=function))
            continue
        if calls:
            yield AssistantMessage(role="assistant", tool_calls=calls)
            calls = []
        if isinstance(item, ResultItem):
            yield ToolMessage(role="tool", content=item.output, tool_call_id=item.call_id)
        elif item.role == "user":
            yield UserMessage(role="user", content=item.content)
        elif item.role == "assistant":
            yield AssistantMessage(role="assistant", content=item.content)
        else:
            yield SystemMessage(role="system", content=item.content)
    if calls:
        yield AssistantMessage(role="assistant", tool_calls=calls)


def functions_of(body: ResponsesRequest) -> list[Function]:
    """The functions that a body offers."""
    return [
        Function(name=t.name, description=t.description, parameters=t.parameters)
        for t in body.tools or ()
    ]
