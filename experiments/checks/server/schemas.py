"""Random JSON schemas and a model that writes at random: does every answer keep to its schema?

    python experiments/checks/server/schemas.py --schemas=500

The schemas have objects with required and optional keys, lists, strings with lengths, patterns
and formats, bounded numbers, enumerations, constants, alternatives and references. The model has
random weights, so nothing but the masks leads to JSON. Prints one line of JSON, and every
answer that does not validate.
"""

import json
import pathlib
import random
import sys
from typing import Any

import jax
import jsonschema
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))  # this clone, installed or not

from agemem_jax.models import decoder, loading
from agemem_jax.models.config import DecoderConfig
from agemem_jax.protocol.chat_formats import ChatEncoder, find_format
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest
from agemem_jax.serving.server.structured import Schemas

_WORDS = ("name", "age", "city", "tags", "note", "when", "size", "kind", "left", "über", "a b")
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")
_PATTERNS = ("^[a-z]{2,6}$", "^[A-Z][a-z]+ ?[0-9]{1,3}$", "^(yes|no|maybe)$", "^\\d{4}-\\d{2}$")


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema that has values."""
    leaves = [_string, _number, _integer, _enumeration, _constant, _plain]
    kinds = leaves if depth == 0 else [*leaves, _object, _object, _array, _alternatives]
    return rng.choice(kinds)(rng, depth)


def random_root(rng: random.Random) -> dict[str, Any]:
    """An object, as tools and answers have it, sometimes with a definition that it refers to."""
    root = _object(rng, 3)
    if rng.random() < 0.3:
        root["properties"]["tree"] = {"$ref": "#/$defs/tree"}
        root["$defs"] = {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 0, "maximum": 9},
                    "children": {
                        "type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2
                    },
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        }  # fmt: skip
    return root


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(_WORDS, rng.randint(1, 5))
    needed = [name for name in names if rng.random() < 0.6]
    properties = {name: random_schema(rng, depth - 1) for name in names}
    schema = {"type": "object", "properties": properties, "required": needed}
    if rng.random() < 0.8:
        schema["additionalProperties"] = False
    return schema


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    schema = {"type": "array", "items": random_schema(rng, depth - 1), "minItems": least}
    if rng.random() < 0.7:
        schema["maxItems"] = least + rng.randint(0, 3)
    return schema


def _alternatives(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randint(2, 3))]}


def _string(rng: random.Random, depth: int) -> dict[str, Any]:
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": rng.choice(_PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": rng.choice(_FORMATS)}
    if kind == 2:
        least = rng.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)}
    return {"type": "string"}


def _number(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(-50, 50)
    return {"type": "number", "minimum": least, "maximum": least + rng.randint(1, 100)}


def _integer(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"type": "integer"}
    least = rng.randint(-1000, 1000)
    return {"type": "integer", "minimum": least, "exclusiveMaximum": least + rng.randint(2, 2000)}


def _enumeration(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"enum": rng.sample(["red", "blue", 1, 2.5, None, True, 'ä"\\'], rng.randint(1, 4))}


def _constant(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"const": rng.choice(["fixed", 7, False, None])}


def _plain(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null", ["string", "null"], ["integer", "boolean"]])}


def check(count: int, seed: int, slots: int, tokens: int) -> dict[str, int]:
    """Counts of answers that are whole, that validate, and that were cut by the limit."""
    tokenizer = loading.open_backbone("tiny", key=jax.random.key(seed)).tokenizer
    chat = ChatEncoder(tokenizer, find_format(tokenizer))
    model = DecoderConfig(
        vocab_size=len(tokenizer), num_layers=2, width=32, num_heads=2, num_kv_heads=1,
        head_dim=16, ffn_width=64, max_positions=4096,
    )  # fmt: skip
    config = EngineConfig(
        slots=slots, max_length=tokens + 64, prefill_rows=4, prefill_buckets=(64,),
        attend_buckets=(),
    )  # fmt: skip
    engine = Engine(config, model, chat.stop_ids, chat.decode)
    engine.load(decoder.Weights(decoder.init_params(model, jax.random.key(seed))))
    schemas, rng = Schemas(chat, model.vocab_size), random.Random(seed)
    wanted = [random_root(rng) for _ in range(count)]
    waiting = list(enumerate(wanted))[::-1]
    asked: dict[int, int] = {}
    counts = {"schemas": count, "valid": 0, "invalid": 0, "cut": 0, "tokens": 0}
    while waiting or engine.pending:
        for slot in range(slots):
            if waiting and slot not in asked:
                index, schema = waiting.pop()
                constraint = schemas.constraint(schemas.compile(schema), tokens)
                prompt = tuple(chat.encode_plain(f"Write JSON, number {index}:"))
                key = jax.random.fold_in(jax.random.key(seed), index)
                engine.submit(GenerationRequest(slot, prompt, tokens, key, constraint=constraint))
                asked[slot] = index
        for done in engine.step():
            index = asked.pop(done.slot)
            counts["tokens"] += len(done.token_ids)
            whole = done.token_ids[-1] == chat.stop_id
            text = chat.decode(done.token_ids[:-1] if whole else done.token_ids)
            problem = _problem(text, wanted[index])
            counts["cut"] += not whole
            counts["invalid" if problem else "valid"] += 1
            if problem:
                print(json.dumps({"schema": wanted[index], "text": text, "problem": problem}))
    return counts


def _problem(text: str, schema: dict[str, Any]) -> str | None:
    try:
        value = json.loads(text)
        jsonschema.validate(
            value, schema, cls=jsonschema.Draft202012Validator,
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        )  # fmt: skip
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).splitlines()[0]
    return None


def define_flags() -> None:
    """Defines the flags; not where tests import this."""
    flags.DEFINE_integer("schemas", 500, "How many.")
    flags.DEFINE_integer("seed", 0, "Of schemas and weights.")
    flags.DEFINE_integer("slots", 16, "Answers side by side.")
    flags.DEFINE_integer("tokens", 1024, "Of an answer, at most.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    print(
        json.dumps(
            check(flags.FLAGS.schemas, flags.FLAGS.seed, flags.FLAGS.slots, flags.FLAGS.tokens)
        )
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
