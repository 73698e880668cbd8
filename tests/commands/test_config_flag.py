"""--config takes a name or a path, and what is wrong with either is told in one sentence."""

import pytest

from agemem_jax import configs
from agemem_jax.configs import quickstart, tiny_warmup
from agemem_jax.training.configuration import run_config
from tests.commands.command_line import parse

OWN = """
from agemem_jax.configs import tiny

def get_config({argument}):
    config = tiny.get_config()
    {change}
    return config
"""


def refusal(*arguments) -> str:
    with pytest.raises(OSError) as error:
        parse(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own(tmp_path):
    def write(change="pass", argument="", text=None):
        text = OWN.format(change=change, argument=argument) if text is None else text
        (tmp_path / "own.py").write_text(text)
        return f"--config={tmp_path / 'own.py'}"

    return write


@pytest.mark.parametrize("words", [["--config=quickstart"], ["--config", "quickstart"]])
def test_a_name_is_found_from_any_folder(words):
    assert parse(*words).to_dict() == quickstart.get_config().to_dict()


def test_every_configuration_has_a_name():
    assert set(configs.FILES) == {
        "language_model", "quickstart", "qwen2.5_7b_hotpotqa", "smollm2_hotpotqa", "tiny",
        "tiny_babyai", "tiny_warmup",
    }  # fmt: skip
    assert parse("--config=qwen2.5_7b_hotpotqa").backbone == "qwen2.5-7b-instruct"


def test_a_path_is_a_file_of_the_users(own):
    assert parse(own("config.seed = 7")).seed == 7
    assert parse("--config=own.py").seed == 7


def test_what_follows_a_colon_is_given_to_get_config(own):
    assert parse("--config=tiny_warmup:again") == tiny_warmup.get_config("again")
    assert parse(own("config.seed = int(seed)", "seed") + ":5").seed == 5


@pytest.mark.parametrize("config", ["quickstart", str(configs.FOLDER / "quickstart.py")])
def test_options_are_overridden_by_name_and_by_path(config):
    changed = parse(
        f"--config={config}", "--config.seed=1", "--config.seed", "2", "--config.model.remat",
        "--config.engine.attend_buckets=(32, 64)",
    )  # fmt: skip
    assert changed.seed == 2 and changed.model.remat
    assert changed.engine.attend_buckets == (32, 64)


def test_a_credit_rule_is_named_with_its_options_in_either_way():
    for arguments in (
        ["--config.grpo.credit=gigpo(discount=0.5)"],
        ["--config.grpo.credit_options.discount=0.5", "--config.grpo.credit=gigpo"],
    ):
        config = run_config.build(parse("--config=quickstart", *arguments))
        assert config.grpo.credit == "gigpo"
        assert config.grpo.credit_options == {"weight": 1.0, "discount": 0.5}
    assert "no credit rule 'gigp'" in refusal("--config=quickstart", "--config.grpo.credit=gigp")
    told = refusal("--config=quickstart", "--config.grpo.credit_options.discount=0.5")
    assert told == "config.grpo.credit_options has no option 'discount'; it has none."


def test_of_two_configurations_the_last_is_taken_with_its_overrides():
    both = parse("--config=quickstart", "--config=tiny_warmup", "--config.temperature=0.5")
    assert both.temperature == 0.5 and both.warmup.steps == 1900
    told = refusal("--config=quickstart", "--config.seed=3", "--config=tiny")
    assert told == "--config=tiny comes behind --config.seed, and would undo it."


def test_a_configuration_that_is_not_there_is_told_with_the_names():
    told = refusal("--config=quickstrat")
    assert "'quickstrat', which is neither a file nor the name" in told
    assert told.endswith("smollm2_hotpotqa, tiny, tiny_babyai, tiny_warmup.")
    assert "which is neither a file" in refusal("--config=.")


def test_an_option_that_is_not_there_is_told_with_a_near_one():
    assert refusal("--config=tiny", "--config.engine.slot=3") == (
        "config.engine has no option 'slot'; did you mean 'slots'?"
    )
    assert "config has no option 'xyz'; it has backbone," in refusal(
        "--config=tiny", "--noconfig.xyz"
    )
    assert refusal("--config=tiny", "--config.seed.x=1") == (
        "config.seed has no options of its own, such as 'x'."
    )


def test_a_fault_in_the_users_file_is_told_with_its_line(own):
    assert refusal(own(text="\nimport nothing_there")).endswith(
        "own.py: ModuleNotFoundError: No module named 'nothing_there' (line 2)"
    )
    assert refusal(own(text="x = 1\ndef get_config(:")).endswith("invalid syntax (line 2)")
    assert "no attribute 'get_config'" in refusal(own(text="x = 1"))
    assert refusal(own("config.sede = 1")).endswith(
        "does not exist and cannot be added since the config is locked. (line 6)"
    )
    assert refusal(own("raise ValueError('no such size')")).endswith(": no such size (line 6)")
    assert refusal(own(text="def get_config(): return {}")).endswith("must return a ConfigDict.")


def test_the_guarded_rewards_bring_their_options_from_a_command_line_and_from_a_file(own):
    given = parse(
        "--config=quickstart", "--config.rewards.variant=guarded",
        "--config.rewards.components.context.options.pressure=0.75",
        "--config.rewards.components.memory.options.high_quality=0.75",
    )  # fmt: skip
    config = run_config.build(given)
    terms = config.rewards.components
    assert (terms["context"].function, terms["memory"].function) == (
        "guarded_context", "guarded_memory",
    )  # fmt: skip
    assert terms["context"].options == {"pressure": 0.75}
    assert terms["memory"].options == {"high_quality": 0.75}
    filed = run_config.build(parse(own("config.rewards.variant = 'guarded'")))
    assert filed.rewards.components["context"].options == {"pressure": 0.5}
    assert filed.rewards.paid_on_failure == 0.1
    literal = run_config.build(parse("--config=quickstart", "--config.rewards.on_failure=0.5"))
    assert literal.rewards.components["context"].function == "context"
    assert literal.rewards.paid_on_failure == 0.5
