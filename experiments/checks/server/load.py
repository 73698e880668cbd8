"""Many streaming clients at once: errors, throughput, and whether each gets what it would alone.

    agemem-serve --backbone=smollm2-135m &
    python experiments/checks/server/load.py --seconds=180

First asks one question after another, then keeps all clients busy with the same questions, all
greedy, and compares every answer with the one that was given alone. Prints one line of JSON.
"""

import asyncio
import json
import time

import openai
from absl import app, flags

_TOPICS = ("rivers", "bread", "the moon", "chess", "rain", "glass", "bees", "tea")


def question(index: int) -> list[dict[str, str]]:
    topic, count = _TOPICS[index % len(_TOPICS)], 2 + index // len(_TOPICS)
    text = f"Name {count} things that a child should know about {topic}, in short sentences."
    return [{"role": "user", "content": text}]


async def ask(client: openai.AsyncOpenAI, model: str, index: int) -> tuple[str, int]:
    """The answer to a question, and how many tokens it has."""
    stream = await client.chat.completions.create(
        model=model, messages=question(index), temperature=0, max_tokens=flags.FLAGS.tokens,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    text, tokens = "", 0
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return text, tokens


async def measure() -> dict[str, float | int]:
    limits = openai.DefaultAsyncHttpxClient(timeout=600)
    async with openai.AsyncOpenAI(
        base_url=flags.FLAGS.url, api_key="-", max_retries=0, http_client=limits
    ) as client:
        model = (await client.models.list()).data[0].id
        await ask(client, model, 0)  # compiles, as those do that come together
        await asyncio.gather(*[ask(client, model, number) for number in range(flags.FLAGS.clients)])
        began, alone, tokens = time.monotonic(), {}, 0
        for index in range(flags.FLAGS.questions):
            alone[index], count = await ask(client, model, index)
            tokens += count
        one_by_one = tokens / (time.monotonic() - began)

        answers, errors, different, together = 0, 0, 0, 0
        ends = time.monotonic() + flags.FLAGS.seconds

        async def go_on(number: int) -> None:
            nonlocal answers, errors, different, together
            index = number
            while time.monotonic() < ends:
                index += 1
                try:
                    text, count = await ask(client, model, index % flags.FLAGS.questions)
                except openai.OpenAIError as error:
                    errors += 1
                    print(repr(error))
                    continue
                answers += 1
                together += count
                different += text != alone[index % flags.FLAGS.questions]

        began = time.monotonic()
        await asyncio.gather(*[go_on(number) for number in range(flags.FLAGS.clients)])
        rate = together / (time.monotonic() - began)
    return {
        "clients": flags.FLAGS.clients, "answers": answers, "errors": errors,
        "different": different,
        "tokens_per_second_one_by_one": round(one_by_one, 1),
        "tokens_per_second_together": round(rate, 1), "times": round(rate / one_by_one, 2),
    }  # fmt: skip


def define_flags() -> None:
    """Defines the flags; not where tests import this."""
    flags.DEFINE_string("url", "http://127.0.0.1:8000/v1", "Of the server.")
    flags.DEFINE_integer("clients", 64, "That stream at the same time.")
    flags.DEFINE_integer("questions", 16, "Different ones.")
    flags.DEFINE_float("seconds", 180.0, "That all clients go on.")
    flags.DEFINE_integer("tokens", 32, "Of an answer.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    print(json.dumps(asyncio.run(measure())))


if __name__ == "__main__":
    define_flags()
    app.run(main)
