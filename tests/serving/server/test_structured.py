import json
import random

import jax
import jsonschema
import pytest

from agemem_jax.rollout.generation import GenerationRequest
from experiments.checks.server.schemas import random_root

TOKENS = 300


def answers(scheduler, chat, schemas, wanted, tokens=TOKENS):
    """What a random model writes by each of the schemas, four at a time on the bare engine."""
    engine = scheduler.engine
    texts = []
    for start in range(0, len(wanted), 4):
        for slot, schema in enumerate(wanted[start : start + 4]):
            constraint = schemas.constraint(schemas.compile(schema), tokens)
            prompt = tuple(chat.encode_plain(f"number {start + slot}"))
            key = jax.random.key(start + slot)
            engine.submit(GenerationRequest(slot, prompt, tokens, key, constraint=constraint))
        done = {}
        while engine.pending:
            done |= {each.slot: each.token_ids for each in engine.step()}
        for slot in sorted(done):
            assert done[slot][-1] == chat.stop_id
            texts.append(chat.decode(done[slot][:-1]))
    return texts


@pytest.fixture(scope="module")
def idle(make_scheduler):
    return make_scheduler()


def test_a_random_model_keeps_to_random_schemas(idle, chat, schemas):
    rng = random.Random(3)
    wanted = [random_root(rng) for _ in range(12)]
    for schema, text in zip(wanted, answers(idle, chat, schemas, wanted), strict=True):
        jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


def test_what_has_no_bound_is_brought_to_its_end_before_the_limit(idle, chat, schemas):
    endless = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 20},
            "list": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        },
        "required": ["text", "list"],
    }
    (text,) = answers(idle, chat, schemas, [endless], tokens=64)
    jsonschema.validate(json.loads(text), endless)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "frob"}, "Invalid type: frob"),
        ({"not": {}}, "not"),
        ({"type": "string", "pattern": "(?=x)"}, "look-around"),
        ({"$ref": "https://example.com/schema"}, "cannot be kept to"),
        ({"type": "string", "enum": ["x" * 70_000]}, "too large"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_in_a_sentence(schemas, schema, said):
    with pytest.raises(ValueError, match="schema") as caught:
        schemas.compile(schema)
    assert said in str(caught.value) and str(caught.value).endswith(".")


def test_a_schema_of_great_depth_is_refused(schemas):
    schema = {"type": "null"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="too large"):
        schemas.compile(schema)
