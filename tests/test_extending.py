"""The examples of docs/extending, as they stand there: by configuration, and from Python."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest

from agemem_jax.commands import evaluate, train
from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.events import FormatEvent
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.registry import ComponentConfig, RewardConfig
from agemem_jax.rewards.total import compute_rewards
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.tools.registry import TOOL_NAMES
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.tasks.task import EnvironmentGoal, Task
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.credit import registry
from agemem_jax.training.monitoring.metrics import MetricsWriter, read_metrics
from tests.rewards.builders import acted, tool, trajectory
from tests.rollout.scripted import answer, call, play, tools
from tests.test_end_to_end import CONFIG, run_main
from tests.training.credit import builders

PAGES = pathlib.Path(__file__).parents[1] / "docs" / "extending"
EXAMPLE = re.compile(r"```python\n# (\w+)\.py\n(.*?)```", re.DOTALL)


def examples():
    """The code of each page by the name of its file."""
    texts = [path.read_text() for path in sorted(PAGES.glob("*.md"))]
    return {name: code for text in texts for name, code in EXAMPLE.findall(text)}


@pytest.fixture(scope="module")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


@pytest.fixture(scope="module")
def store():
    return MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=1, entries=4)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder that holds the examples as files, in which programs are started."""
    for name, code in examples().items():
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in examples():
        sys.modules.pop(name, None)


def test_every_page_has_one_example_of_at_most_forty_lines():
    codes = examples()
    assert len(codes) == len(list(PAGES.glob("*.md")))
    assert max(len(code.splitlines()) for code in codes.values()) <= 40


def test_all_doors_by_configuration_appear_in_prompts_metrics_and_reports(written):
    (written / "small.py").write_text(CONFIG)
    arguments = (f"--config={written / 'small.py'}", f"--workdir={written / 'run'}")
    everything = (
        "--config.warmup.steps=0",
        "--config.curriculum.schedule=joint",
        "--config.curriculum.iterations=(1,)",
        "--config.tasks.source=mixture",
        "--config.tasks.options.sources="
        "('riddles:Riddles(size=8)', 'environment(environment=\"guess:Guess(highest=8)\")')",
        "--config.episode.max_context_tokens=700",
        "--config.engine.max_length=716",
        "--config.packing.row_lengths=(720,)",
        f"--config.episode.tools={(*TOOL_NAMES, 'calendar_tool:DAYS_BETWEEN')}",
        "--config.rewards.components.brevity.function=brevity:brevity",
        "--config.rewards.components.brevity.weight=0.2",
        "--config.rewards.components.brevity.options.most_steps=8",
        "--config.method=two_tools:TwoTools",
        "--config.grpo.credit=blame:Blame(price=0.25)",
        "--config.metrics.sinks=('best_so_far:BestSoFar(metric=\"reward_brevity\")',)",
    )
    run_main(train.main, *arguments, *everything)
    (line,) = read_metrics(written / "run" / "metrics.jsonl")
    assert 0 <= line["reward_brevity"] <= 1 and "reward_memory" in line
    assert {"progress", "grounding"} <= set(line), "the environment was played"
    assert line["credit/blamed_steps"] > 0, "a random policy's responses cannot be read"
    recorded = json.loads((written / "run" / "config.json").read_text())
    assert recorded["grpo"]["credit_options"] == {"price": 0.25}
    told = json.loads((written / "run" / "best_so_far.json").read_text())
    assert told == {"step": 1, "value": line["reward_brevity"]}
    assert not (written / "run" / "tensorboard").exists(), "no other sink was named"
    assert "tc/Act" in line and "tc/Summary_context" not in line, "by the method's tools"

    methods = "--methods=agemem,two_tools:TwoTools"
    run_main(evaluate.main, f"--workdir={written / 'run'}", methods, "--tasks=2", "--show=2")
    first, second = json.loads((written / "run" / "evaluation.json").read_text())["results"]
    assert (first["title"], second["title"]) == ("AgeMem", "Two tools")
    assert first["r_brevity"]["mean"] >= 0 and {"j", "progress", "grounding"} <= set(first)
    assert "Days_between" in first["tc"] and "Days_between" not in second["tc"]
    shown = (written / "run" / "trajectories.md").read_text()
    assert "brevity" in shown and "Find the number from 1 to 8" in shown
    assert "The colour of today is" in shown


def test_an_unknown_option_of_a_users_part_is_refused_by_name(written):
    with pytest.raises(ValueError, match="tasks.options has no option 'siz'; did you mean 'size'"):
        TaskConfig("riddles:Riddles", {"siz": 3})
    with pytest.raises(ValueError, match="tasks.options.size is 'x'; it must be a whole number"):
        TaskConfig("riddles:Riddles", {"size": "x"})
    with pytest.raises(ValueError, match="brevity.options.most_steps is 0.5"):
        RewardConfig({"brevity": ComponentConfig("brevity:brevity", 1.0, {"most_steps": 0.5})})
    with pytest.raises(ValueError, match="there is no module 'ridles'"):
        TaskConfig("ridles:Riddles")
    with pytest.raises(ValueError, match="riddles has no 'Ridles'"):
        TaskConfig("riddles:Ridles")


def test_a_task_source_from_python(written):
    import riddles

    tasks = TaskConfig(riddles.Riddles, {"size": 5}).load("train")
    assert len(tasks) == 5 and tasks[0].answer in tasks[0].messages[0]
    assert tasks[0] == TaskConfig("riddles:Riddles", {"size": 5}).load("train")[0]


def test_a_tool_from_python(written, chat, store):
    import calendar_tool

    offered = (*TOOL_NAMES, calendar_tool.DAYS_BETWEEN)
    config = EpisodeConfig(stages=(3,), prompt_style="compact", tools=offered, max_rounds=3)
    good = call("Days_between", first="2026-01-31", last="2026-02-02")
    bad = call("Days_between", first="yesterday", last="2026-02-02")
    played, requests = play(chat, store, config, good, bad, answer("2"))
    assert "Days_between(first, last): count days" in requests[0].context.messages[0].text
    assert requests[1].context.messages[-1].text == "2 days."
    assert requests[2].context.messages[-1].text == "Error: Write dates as 2026-01-31."
    assert [(event.name, event.ok) for event in tools(played)] == [
        ("Days_between", True), ("Days_between", False),
    ]  # fmt: skip
    assert "Days_between" in played.tools


def test_a_sink_keeps_what_it_had_when_a_run_is_taken_up_again(written):
    for step, rewards in ((0, (0.25, 0.5, 0.125)), (3, (0.375, None))):
        writer = MetricsWriter(written / "run", sinks=("best_so_far:BestSoFar(file='best.json')",))
        writer.open(step)
        for offset, reward in enumerate(rewards, start=1):
            writer.write(step + offset, {"reward": reward, "phase": "joint"}, {})
        writer.write(step + offset, {"eval/success": 1.0}, {})
        writer.close()
        told = json.loads((written / "run" / "best.json").read_text())
        assert told == {"step": 2, "value": 0.5}


def test_a_reward_from_python(written):
    import brevity

    terms = {**RewardConfig().components, "brevity": ComponentConfig(brevity.brevity, 0.2)}
    played = trajectory(acted(0.5))
    played.prompt_tokens = [10] * 6
    (reward,) = compute_rewards([played], RewardConfig(terms), OfflineJudge())
    (without,) = compute_rewards([played], RewardConfig(), OfflineJudge())
    assert reward.components["brevity"] == 0.5
    assert reward.total == pytest.approx(without.total + 0.1)


def test_a_credit_rule_from_python(written):
    import blame

    config = GRPOConfig(credit=blame.Blame, credit_options={"price": 0.5})
    assert config.credit_options == GRPOConfig(credit="blame:Blame").credit_options
    events = [FormatEvent(1, 0, "It is empty."), tool("Add_memory", ok=False)]
    one = builders.group(
        builders.episode(1.0, (1, 1, "?"), (3, 2, "x"), events=events),
        builders.episode(0.0, (1, 1, "a"), (3, 2, "x")),
    )
    found = registry.build(config.credit, config.credit_options).score_group(
        builders.scored(blame.Blame(), one, OfflineJudge())
    )
    wanted = builders.by_definition([1.0, 0.0])
    np.testing.assert_allclose(found[0], [wanted[0] - 0.5, wanted[0]], rtol=1e-5)
    np.testing.assert_allclose(found[1], [wanted[1]] * 2, rtol=1e-5)
    assert one.counts == {"blamed_steps": 1}


@pytest.mark.parametrize("given", ["by name", "as a class"])
def test_an_environment_in_a_worker_and_from_python(written, chat, store, given):
    import guess

    environment = "guess:Guess" if given == "by name" else guess.Guess
    goal = EnvironmentGoal(environment, {"highest": 4}, seed=3, max_steps=4)
    secret = guess.Guess(4)
    secret.reset(3)
    others = [number for number in range(1, 5) if number != secret.secret]
    config = EpisodeConfig(stages=(3,), prompt_style="compact", max_rounds=3)
    replies = [
        call("Act", action="check available actions"), call("Act", action=str(others[0])),
        call("Act", action="jump"), answer("I give up"), call("Act", action=str(secret.secret)),
    ]  # fmt: skip
    played, requests = play(chat, store, config, *replies, task=Task("t", goal))
    told = [request.context.messages[-1].text for request in requests]
    assert told[0] == "It is not found yet."
    assert told[1] == "Actions: 1, 2, 3, 4"
    assert told[2] in ("Too low.", "Too high.") and told[3] == "That is no number."
    assert told[4] == "Error: An answer does not end this; act for the goal."
    pinned = [m.text for m in requests[-1].context.messages if m.pinned]
    assert pinned[-1] == "Goal: Find the number from 1 to 4. An action is a number."
    outcome = played.outcome
    assert (outcome.score, outcome.progress) == (1.0, 1.0)
    assert (outcome.actions, outcome.valid_actions) == (3, 2)
