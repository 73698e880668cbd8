"""Thousands of wrong requests: does the server live, say 4xx, and keep all its slots?

    agemem-serve --backbone=tiny &
    python experiments/checks/server/fuzz.py --requests=10000

Bodies are random bytes, JSON with parts exchanged for what does not belong there, and good ones
whose client hangs up. Prints one line of JSON: answers by status, and what is busy afterwards.
"""

import asyncio
import collections
import copy
import json
import random
import string
from typing import Any

import httpx
from absl import app, flags

PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses")
_TOOL = {
    "name": "find",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
}


def good(path: str, names: list[str]) -> dict[str, Any]:
    """A body that is right, with many of its fields."""
    model, embedder = names[:2]
    if path.endswith("embeddings"):
        return {"model": embedder, "input": ["a", "b"], "encoding_format": "float"}
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    shared = {"model": model, "temperature": 0.5, "top_p": 0.9, "stream": False, "user": "u"}
    if path.endswith("responses"):
        return shared | {
            "input": [{"role": "user", "content": "Hi"}], "instructions": "Be brief.",
            "max_output_tokens": 4, "tools": [{"type": "function", **_TOOL}],
            "tool_choice": "auto",
            "text": {"format": {"type": "json_schema", "name": "s", "schema": schema}},
        }  # fmt: skip
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    return shared | {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ],
        "max_tokens": 4, "n": 2, "stop": ["x"], "seed": 3, "logprobs": True,
        "tools": [{"type": "function", "function": _TOOL}], "tool_choice": "auto",
        "stream_options": {"include_usage": True},
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}
        },
    }  # fmt: skip


def strange(rng: random.Random) -> Any:
    """A value that hardly ever belongs anywhere."""
    deep: Any = 0
    for _ in range(rng.choice((3, 50, 300))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    text = "".join(rng.choices(string.printable + "äß€😀\u0000\u2028\ufffd", k=rng.randint(0, 60)))
    return rng.choice(
        [
            None, True, -1, 0, 1e308, -0.0, 10**30, "", text, [], {}, [None], [[]], deep, "\ud800",
            {"role": "user"}, {"type": "object"}, {"$ref": "#"}, "a" * 30_000, ["x"] * 500,
            {text: text}, float("nan"), float("inf"),
        ]
    )  # fmt: skip


def changed(value: Any, rng: random.Random) -> Any:
    """The same with one of its parts exchanged, left out or added."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return value
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        what = rng.random()
        if what < 0.6:
            place[key] = strange(rng)
        elif what < 0.8:
            del place[key]
        elif isinstance(place, dict):
            place["".join(rng.choices(string.ascii_lowercase, k=5))] = strange(rng)
        else:
            place.append(strange(rng))
        return value


def body(path: str, names: list[str], rng: random.Random) -> bytes:
    """One body; hardly ever a good one."""
    kind = rng.random()
    if kind < 0.15:
        return rng.randbytes(rng.randint(0, 300))
    value = good(path, names)
    for _ in range(rng.randint(1, 3)):
        value = changed(value, rng)
    data = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    if kind < 0.3 and data:
        data = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(data)
    elif kind < 0.35:
        data = data[: rng.randrange(len(data) + 1)]
    return data


async def fuzz(url: str, requests: int, clients: int, seed: int) -> dict[str, Any]:
    """Sends so many, waits, and looks at what is left of them."""
    rng = random.Random(seed)
    statuses: collections.Counter[str] = collections.Counter()
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        names = [m["id"] for m in (await client.get("/v1/models")).json()["data"]]

        async def go_on() -> None:
            while requests > sum(statuses.values()):
                path, hangs_up = rng.choice(PATHS), rng.random() < 0.02
                kind = "application/json" if rng.random() < 0.97 else "text/plain"
                if hangs_up:
                    long = good(path, names) | {"stream": True}
                    try:
                        await client.post(path, json=long, timeout=rng.random() / 5)
                        statuses["answered before"] += 1
                    except httpx.TimeoutException:
                        statuses["hung up"] += 1
                    continue
                data = body(path, names, rng)
                try:
                    answer = await client.post(path, content=data, headers={"content-type": kind})
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                    continue
                statuses[str(answer.status_code)] += 1
                if answer.status_code >= 500:
                    print(path, data[:1000], answer.text)

        await asyncio.gather(*[go_on() for _ in range(clients)])
        for _ in range(600):
            metrics = (await client.get("/metrics")).text.splitlines()
            busy = {
                name: float(line.split()[1])
                for line in metrics
                for name in ("waiting", "running")
                if line.startswith(f"agemem_{name} ")
            }
            if not any(busy.values()):
                break
            await asyncio.sleep(0.1)
        health = (await client.get("/healthz")).status_code
    return {"statuses": dict(sorted(statuses.items())), "busy": busy, "health": health}


def define_flags() -> None:
    """Defines the flags; not where tests import this."""
    flags.DEFINE_string("url", "http://127.0.0.1:8000", "Of the server.")
    flags.DEFINE_integer("requests", 10_000, "How many.")
    flags.DEFINE_integer("clients", 32, "At the same time.")
    flags.DEFINE_integer("seed", 0, "Of what is sent.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    told = asyncio.run(
        fuzz(flags.FLAGS.url, flags.FLAGS.requests, flags.FLAGS.clients, flags.FLAGS.seed)
    )
    print(json.dumps(told))


if __name__ == "__main__":
    define_flags()
    app.run(main)
