"""Options of the judges: wrong ones are refused in one sentence."""

import dataclasses
import math
import sys
from unittest import mock

import pytest
from absl import flags
from ml_collections import config_flags

from agemem_jax.rewards.judge_config import JudgeConfig, LLMJudgeConfig
from agemem_jax.training.configuration import run_config


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost"}, "judge.base_url is 'localhost'; it must start with http"),
        ({"base_url": 5}, "judge.base_url is 5; it must start with http"),
        ({"base_url": "http:///v1"}, "it must name a host"),
        ({"base_url": "http://a b/v1"}, "it must name a host"),
        ({"base_url": "http://x:99999/v1"}, "is no address: Port out of range"),
        ({"base_url": "http://[::1/v1"}, "is no address"),
        ({"base_url": "http://x/v1?key=5"}, "it must end before '?'"),
        ({"base_url": "http://x/v1/chat/completions"}, "leave out /chat/completions"),
        ({"model": ""}, "judge.model is ''"),
        ({"max_concurrency": 0}, "judge.max_concurrency is 0; it must be a whole number"),
        ({"max_tokens": 2.5}, "judge.max_tokens is 2.5; it must be a whole number"),
        ({"timeout": 0.0}, "judge.timeout is 0.0; it must be above 0"),
        ({"timeout": "soon"}, "judge.timeout is 'soon'; it must be a finite number"),
        ({"temperature": -0.1}, "judge.temperature is -0.1; it must be 0 or more, or None"),
        ({"max_tokens_parameter": "n"}, "'max_tokens' or 'max_completion_tokens'"),
        ({"reply_format": "json"}, "judge.reply_format is 'json'; it must be 'json_object' or"),
        ({"cache_dir": 5}, "judge.cache_dir is 5"),
        ({"api_key_variable": ""}, "judge.api_key_variable is ''"),
    ],
)
def test_a_wrong_option_is_refused_with_one_sentence(options, says):
    with pytest.raises(ValueError) as caught:
        LLMJudgeConfig(**({"base_url": "http://x/v1", "model": "m"} | options))
    assert says in str(caught.value)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


NUMBERS = (
    "temperature", "max_tokens", "timeout", "max_concurrency", "max_attempts", "first_pause",
    "longest_pause", "give_up_after",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["offline", "llm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, True])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_nan_infinite_negative_or_a_bool(name, value, kind):
    with pytest.raises(ValueError, match=f"judge.{name} is {value}; it must be"):
        JudgeConfig(kind=kind, base_url="http://x/v1", model="m", **{name: value})


def test_a_password_in_the_address_is_refused_without_being_repeated():
    with pytest.raises(ValueError, match="user name or password") as caught:
        LLMJudgeConfig("http://me:secret@host/v1", "m")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "human"}, "judge.kind is 'human'; it must be 'offline' or 'llm'"),
        ({"kind": "llm"}, "needs judge.base_url and judge.model"),
        ({"kind": "llm", "base_url": "x", "model": "m"}, "must start with http"),
        ({"required": "yes"}, "judge.required is 'yes'; it must be True or False"),
    ],
)
def test_a_run_names_its_judge_or_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        JudgeConfig(**options)


def test_the_section_of_a_run_has_every_option_of_the_endpoint_with_its_default():
    section = {field.name: field.default for field in dataclasses.fields(JudgeConfig)}
    for field in dataclasses.fields(LLMJudgeConfig):
        if field.name not in ("base_url", "model"):
            assert section[field.name] == field.default
    assert set(run_config.default_config().judge) == set(section)


def test_a_saved_run_from_before_these_options_still_loads():
    saved = {
        "kind": "llm", "base_url": "http://x/v1", "model": "m", "max_concurrency": 4,
        "timeout": 30.0, "cache_dir": None,
    }  # fmt: skip
    judge = run_config.from_dict({"judge": saved}).judge
    assert (judge.max_concurrency, judge.timeout, judge.required) == (4, 30.0, True)
    assert judge.title == "m at http://x/v1"


@pytest.mark.parametrize("temperature", [None, 0, 0.7])
def test_a_configuration_file_turns_the_temperature_off_and_on(temperature):
    config = run_config.default_config()
    config.judge.temperature = temperature
    assert run_config.build(config).judge.temperature == temperature


def from_flags(config, *arguments):
    """The configuration after flags, as the binaries read them."""
    values, command_line = flags.FlagValues(), ["binary", *arguments]
    with mock.patch.object(sys, "argv", command_line):  # where overrides are looked up
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=values)
        values(command_line)
    return holder.value


@pytest.mark.parametrize(("text", "value"), [("None", None), ("0.5", 0.5), ("0", 0)])
def test_a_flag_turns_the_temperature_off_and_on(text, value):
    config = from_flags(run_config.default_config(), f"--config.judge.temperature={text}")
    assert run_config.build(config).judge.temperature == value


@pytest.mark.parametrize("text", ["warm", "True", "-1", "nan"])
def test_a_flag_with_an_odd_temperature_is_refused(text):
    config = from_flags(run_config.default_config(), f"--config.judge.temperature={text}")
    with pytest.raises(ValueError, match="judge.temperature is"):
        run_config.build(config)
