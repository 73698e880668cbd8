"""The body of /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field

from agemem_jax.serving.server.fields import (
    Absent,
    Empty,
    Table,
    TextOnly,
    Zero,
    ignored,
    refused,
    required,
    supported,
)

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
Probability = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
_MOST_CHOICES = 8


class TextPart(Table):
    """Text inside of a message; other parts (images, sound, files) are refused."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: Any = None
    logprobs: Any = None
    cache_control: Any = None


Content = str | list[TextPart]


class SystemMessage(Table):
    """What the model is to be."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Table):
    """What a person says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Table):
    """A function and its arguments as JSON."""

    name: str
    arguments: str


class Call(Table):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class AssistantMessage(Table):
    """What the model said, or which functions it called."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[Call] | None = None
    name: str | None = None
    refusal: Any = None
    annotations: Any = None
    audio: Absent = None
    function_call: Absent = None
    reasoning_content: Any = None


class ToolMessage(Table):
    """What a call gave."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Discriminator("role")
]


class Function(Table):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Table):
    type: Literal["function"]
    function: Function


class NamedFunction(Table):
    name: str


class NamedTool(Table):
    type: Literal["function"]
    function: NamedFunction


class JSONSchema(Table):
    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class SchemaFormat(Table):
    type: Literal["json_schema"]
    json_schema: JSONSchema


class PlainFormat(Table):
    type: Literal["text", "json_object"]


Format = Annotated[PlainFormat | SchemaFormat, Discriminator("type")]


class StreamOptions(Table):
    include_usage: bool | None = None
    include_obfuscation: Any = None


class ChatRequest(Table):
    """A request for one or several answers to a conversation."""

    messages: list[Message] = required(
        "system, developer, user, assistant and tool messages; contents are text", min_length=1
    )
    model: str = required("the name that `/v1/models` tells", max_length=512)
    stream: bool | None = supported("answers come as server-sent events")
    stream_options: StreamOptions | None = supported("`include_usage`")
    max_completion_tokens: Count | None = supported(
        "at most so many tokens; more than there is room for count as the room"
    )
    max_tokens: Count | None = supported("the older name of `max_completion_tokens`")
    temperature: Temperature | None = supported("0 takes the likeliest token; by default 1")
    top_p: Probability | None = supported("above 0")
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = supported(
        "only so many of the likeliest tokens; not OpenAI's"
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = supported(
        "the same seed gives the same answer, on the same machine"
    )
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = supported(
        f"up to {_MOST_CHOICES} answers"
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = supported(
        "up to four texts of up to 256 characters"
    )
    logprobs: bool | None = supported(
        "those of the sampled tokens, in the distribution they were drawn from"
    )
    tools: Annotated[list[Tool], Field(max_length=128)] | None = supported(
        "functions; arguments keep to their schema where `tool_choice` demands a call"
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = supported(
        "none, auto, required, or a function by name"
    )
    parallel_tool_calls: bool | None = supported("false keeps the first call only")
    response_format: Format | None = supported("text, json_object, json_schema (always strict)")
    user: str | None = supported("with the agent's model, whose memory it is; else ignored")
    metadata: Any = ignored("nothing is stored")
    store: Any = ignored("nothing is stored")
    safety_identifier: Any = ignored("nobody is reported")
    prompt_cache_key: Any = ignored("caches are found by their tokens")
    prompt_cache_retention: Any = ignored("caches are kept as long as their slot is not needed")
    prompt_cache_options: Any = ignored("as above")
    service_tier: Any = ignored("there is one")
    reasoning_effort: Any = ignored("models have no such setting")
    verbosity: Any = ignored("models have no such setting")
    prediction: Any = ignored("it would only save time")
    top_logprobs: Zero = refused("only sampled tokens' are known; 0 passes")
    frequency_penalty: Zero = refused("0 passes")
    presence_penalty: Zero = refused("0 passes")
    logit_bias: Empty = refused("an empty one passes")
    functions: Empty = refused("`tools` took its place")
    function_call: Absent = refused("`tool_choice` took its place")
    modalities: TextOnly = refused('only `["text"]` passes')
    audio: Absent = refused("text alone")
    web_search_options: Absent = refused("there is no search")
    moderation: Absent = refused("there is none")
