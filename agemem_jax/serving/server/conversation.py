"""A client's messages as the model's prompt, in the backbone's chat format.

Contents are plain text: what spells a special token there is not one, unlike with a template.
"""

from collections.abc import Sequence

from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.protocol.messages import Context, Kind
from agemem_jax.serving.server import tool_text
from agemem_jax.serving.server.chat_request import (
    AssistantMessage,
    Content,
    Function,
    Message,
    SystemMessage,
    ToolMessage,
)


def text_of(content: Content | None) -> str:
    """The text of a message's content."""
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""


def prompt(
    chat: ChatEncoder,
    messages: Sequence[Message],
    functions: Sequence[Function] = (),
    *,
    forced: bool = False,
) -> tuple[int, ...]:
    """Token ids of a conversation, up to where the answer begins.

    Args:
      chat: of the model.
      messages: of the conversation.
      functions: that the model may call.
      forced: whether the answer is a call; the prompt then ends inside of it.
    """
    turns = _turns(messages)
    if functions:
        told = tool_text.offer(functions)
        if turns and turns[0][0] == "system":
            told = f"{turns.pop(0)[1]}\n\n{told}"
        turns.insert(0, ("system", told))
    context = Context()
    for index, (role, text) in enumerate(turns):
        if role == "system" and index and chat.format.opens_user_turn:
            role = "user"  # such a format has room for a system text at its start only
        context = context.append(chat.message(role, text, _KINDS[role]))
    last = context.messages[-1]
    ids = (*context.token_ids, *(last.closing_ids or ()), *chat.generation_prompt)
    return (*ids, *chat.encode(tool_text.OPENING)) if forced else ids


_KINDS = {"system": Kind.SYSTEM, "user": Kind.TASK_MESSAGE, "assistant": Kind.RESPONSE}


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Role and text of each turn; system messages in front are one, and so are results."""
    turns: list[tuple[str, str]] = []
    before: type[Message] | None = None
    for message in messages:
        text = text_of(message.content)
        if isinstance(message, SystemMessage):
            role = "system"
            if turns and all(earlier == "system" for earlier, _ in turns):
                text = f"{turns.pop()[1]}\n\n{text}"
        elif isinstance(message, ToolMessage):
            role, text = "user", tool_text.result(text)
            if before is ToolMessage:
                text = f"{turns.pop()[1]}\n{text}"
        elif isinstance(message, AssistantMessage):
            role = "assistant"
            if message.tool_calls:
                text = "\n".join(filter(None, (text, tool_text.written(message.tool_calls))))
        else:
            role = "user"
        turns.append((role, text))
        before = type(message)
    return turns
