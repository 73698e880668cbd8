"""/v1/responses by the official client, which checks the form of what comes."""

import json

import openai
import pytest

from tests.serving.server.test_app import WEATHER

TOOL = {"type": "function", **WEATHER["function"]}


@pytest.fixture
def ask(server):
    client = openai.OpenAI(base_url=f"{server[0]}/v1", api_key="-", max_retries=0)

    def asking(input="Hello there", **fields):
        fields = {"temperature": 0, "max_output_tokens": 16} | fields
        return client.responses.create(model="small", input=input, **fields)

    return asking


def test_an_answer_is_the_one_of_a_chat(ask, server):
    client = openai.OpenAI(base_url=f"{server[0]}/v1", api_key="-")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(
        model="small", messages=messages, temperature=0, max_tokens=16
    )
    response = ask("Hello", instructions="Be brief.", metadata={"a": "b"})
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.metadata == {"a": "b"}


def test_events_come_in_order_and_give_the_whole_answer(ask):
    events = list(ask(stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip
    pieces = [event.delta for event in events if event.type.endswith("text.delta")]
    assert len(pieces) > 1
    assert "".join(pieces) == events[-1].response.output_text == ask().output_text
    assert events[2].item.id == events[-1].response.output[0].id


def test_a_demanded_call_comes_as_an_item(ask):
    fields = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}
    fields["max_output_tokens"] = 60
    response = ask(**fields)
    (call,) = response.output
    assert call.type == "function_call" and json.loads(call.arguments).keys() == {"city", "days"}
    assert response.status == "completed"
    events = [event.type.removeprefix("response.") for event in ask(**fields, stream=True)]
    assert events[2:] == [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    turn = {"role": "user", "content": "And?"}
    assert ask([turn, call.model_dump(exclude_none=True), result], tools=[TOOL]).output


def test_an_answer_keeps_to_a_schema(ask):
    schema = TOOL["parameters"]
    form = {"format": {"type": "json_schema", "name": "w", "schema": schema, "strict": True}}
    response = ask(text=form, max_output_tokens=60)
    assert json.loads(response.output_text).keys() == {"city", "days"}


@pytest.mark.parametrize(
    "fields",
    [{"previous_response_id": "resp_1"}, {"background": True}, {"tools": [{"type": "web_search"}]}],
)
def test_what_is_not_there_is_refused(ask, fields):
    with pytest.raises(openai.BadRequestError):
        ask(**fields)
