"""What a configuration refuses: every option, by its name, in one sentence."""

import math

import pytest

from agemem_jax.parallel.mesh import MeshConfig
from agemem_jax.training.configuration import run_config

# Options for which a number below 0 says something.
NEGATIVE = {
    "mesh.data", "episode.filter_threshold", "rewards.components.task.options.no_answer",
    "rewards.components.penalty.options.round_limit",
    "rewards.components.penalty.options.token_budget",
}  # fmt: skip


def flat(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


OPTIONS = dict(flat(run_config.default_config().to_dict()))
NUMBERS = [
    name
    for name, value in OPTIONS.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]


def build(**changes):
    """Builds the default with options replaced, dots written as double underscores."""
    values = run_config.default_config().to_dict()
    for name, value in changes.items():
        group = values
        *path, last = name.replace("__", ".").split(".")
        for part in path:
            group = group[part]
        group[last] = value
    return run_config.from_dict(values)


def sentence(**changes):
    with pytest.raises(ValueError) as error:
        build(**changes)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_no_numbers_are_refused_by_name(name):
    nothing = () if name == "judge.temperature" else (None,)  # which is not sent then
    for value in (math.nan, math.inf, -math.inf, "7", True, [7], 2**70, *nothing):
        if value == 2**70 and not isinstance(OPTIONS[name], int):
            continue
        assert name in sentence(**{name: value})
    if name not in NEGATIVE:
        assert name.rsplit(".", 1)[-1] in sentence(**{name: -1})


@pytest.mark.parametrize("name", [n for n, v in OPTIONS.items() if isinstance(v, int)])
def test_whole_numbers_are_whole(name):
    assert name in sentence(**{name: 1.5})


@pytest.mark.parametrize("name", [n for n, v in OPTIONS.items() if isinstance(v, str)])
def test_text_is_one_of_those_that_are_known_or_reads_like_what_it_names(name):
    assert name in sentence(**{name: 3})
    if not name.startswith("judge."):  # free text: what the endpoint calls its model
        assert name in sentence(**{name: "no such/thing\\"})


@pytest.mark.parametrize(
    "name", [name for name, value in OPTIONS.items() if isinstance(value, tuple)]
)
def test_lists_are_lists_of_the_right_things(name):
    assert name in sentence(**{name: 3})
    assert name in sentence(**{name: ("nothing known", 1.5)})


@pytest.mark.parametrize(
    "name",
    [
        "engine.prefill_buckets", "engine.attend_buckets", "engine.decode_rows",
        "engine.prefill_fewer_rows", "packing.row_lengths",
    ],
)  # fmt: skip
def test_sizes_are_positive_and_ascend(name):
    for value in ((64, 32), (32, 32), (0, 16), (-8,)):
        assert name in sentence(**{name: value})


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"tasks.eval_split": "dev"}, "splits of multihop are train, validation, test"),
        ({"tasks": {"source": "hotpotqa", "eval_split": "test"}}, "hotpotqa are train, validation"),
        ({"model.chat_format": "alpaca"}, "chatml"),
        ({"model.lora_targets": ()}, "model.lora_targets"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"engine.cache_dtype": "int8"}, "float32, bfloat16"),
        ({"curriculum.keep": 1}, "curriculum.keep is 1; it must be at least 2"),
        ({"tasks.options.size": 2**31}, "tasks.options.size"),
        ({"tasks": 3}, "tasks is 3; it is a group of options"),
        ({"episode.top_q": 3}, "Unknown option episode.top_q"),
    ],
)
def test_what_is_wrong_is_told_with_what_would_be_right(changes, told):
    assert told in sentence(**changes)


def test_lists_of_a_saved_configuration_become_tuples():
    config = build(curriculum__iterations=[3], mesh={"data": -1})
    assert config.curriculum.iterations == (3,) and config.mesh == MeshConfig()


def test_whole_numbers_stand_for_numbers():
    assert isinstance(build(temperature=2).temperature, float)


def test_the_held_out_split_is_the_last_one_unless_it_is_named():
    assert build().tasks.held_out_split == "test"
    assert build(tasks={"source": "hotpotqa"}).tasks.held_out_split == "validation"
    assert build(tasks__eval_split="validation").tasks.held_out_split == "validation"


def test_the_cache_has_the_compute_dtype_unless_it_is_named():
    assert build().engine.cache_dtype == "float32"
    assert build(model__compute_dtype="bfloat16").engine.cache_dtype == "bfloat16"
    named = build(model__compute_dtype="bfloat16", engine__cache_dtype="float32")
    assert named.engine.cache_dtype == "float32"
