"""LangChain's ChatOpenAI against the server: messages, streams, tools, structured output.

    pip install langchain-openai==1.7.3      # in an environment of its own
    python experiments/checks/server/peers/langchain_chat.py http://127.0.0.1:8000/v1

Whatever the model writes, the forms must hold. Prints what came; an exception is a failure.
"""

import sys
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import OpenAI
from pydantic import BaseModel, Field

URL = sys.argv[1]


@tool
def weather(city: Literal["Rome", "Oslo"], days: int) -> str:
    """Weather of a city for the next days."""
    return f"{city}: rain for {days} days"


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


def main():
    model, embedder = [each.id for each in OpenAI(base_url=URL, api_key="-").models.list()][:2]
    chat = ChatOpenAI(base_url=URL, api_key="-", model=model, temperature=0, max_tokens=60)
    messages = [SystemMessage("Be brief."), HumanMessage("How is the weather in Rome?")]
    whole = chat.invoke(messages)
    print("invoke:", repr(whole.content), whole.usage_metadata)
    streamed = "".join(chunk.content for chunk in chat.stream(messages))
    assert streamed == whole.content, streamed

    bound = chat.bind_tools([weather], tool_choice="any")
    called = bound.invoke(messages)
    (call,) = called.tool_calls
    print("tool call:", call)
    assert call["name"] == "weather" and call["args"]["city"] in ("Rome", "Oslo")
    pieces = None
    for chunk in bound.stream(messages):
        pieces = chunk if pieces is None else pieces + chunk
    assert pieces.tool_calls[0]["args"] == call["args"]
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    after = chat.bind_tools([weather]).invoke([*messages, called, result])
    print("after the result:", repr(after.content)[:60])

    for method in ("json_schema", "function_calling"):
        person = chat.with_structured_output(Person, method=method).invoke("Invent a person.")
        print(f"{method}:", person)
        assert isinstance(person, Person)
    loose = chat.with_structured_output(method="json_mode").invoke("Write JSON.")
    print("json_mode:", loose)
    assert isinstance(loose, dict)

    newer = ChatOpenAI(
        base_url=URL, api_key="-", model=model, temperature=0, max_tokens=60,
        use_responses_api=True,
    )  # fmt: skip
    print("responses:", newer.invoke(messages).text[:60])
    print(
        "responses, tool call:",
        newer.bind_tools([weather], tool_choice="any").invoke(messages).tool_calls,
    )
    print("responses, streamed:", "".join(chunk.text for chunk in newer.stream(messages))[:60])

    texts = OpenAIEmbeddings(
        base_url=URL, api_key="-", model=embedder, check_embedding_ctx_length=False
    )
    print("embeddings:", len(texts.embed_query("Rome")))


if __name__ == "__main__":
    main()
