"""What the studies train and play: each variant differs in what the paper's form asks, alone."""

import pytest
from absl import flags

from agemem_jax.commands import reproduce
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.evaluation.paper import studies
from agemem_jax.evaluation.paper.plan import Plan
from agemem_jax.plugins.registry import Registry
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.total import compute_rewards
from agemem_jax.rollout.tools.registry import TOOL_NAMES, tool_table
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training.configuration import run_config, run_record
from tests.evaluation.paper.builders import request
from tests.rewards.builders import NOISE, WORKS, add, answer, tool, trajectory
from tests.test_end_to_end import run_main

SOURCES = ("multihop", "babyai")


def plan_of(tmp_path, *names, **changes):
    return Plan.make(tmp_path, request(**{"benchmarks": SOURCES} | changes), names, (0, 1))


def configured(*overrides):
    """The configuration that these flags of agemem-train make of the quickstart."""
    found = []

    def read(argv):
        found.append(run_config.build(CONFIG.value))

    run_main(read, "--config=quickstart", "--workdir=unused", *overrides)
    return found[0]


def differences(plan, variant):
    before, after = (
        run_record.as_values(configured(*overrides)) for overrides in ((), plan.changes(variant))
    )
    return {name: pair[1] for name, pair in run_record.changes(before, after).items()}


def test_every_variant_changes_what_its_study_is_about_and_nothing_else(tmp_path):
    names = ("table2", "figure4", "table4", "summaries", "theta")
    plan = plan_of(tmp_path, *names, train_methods=("no_memory",), thetas=(0.5, 0.6))
    found = {variant: differences(plan, variant) for variant in plan.variants}
    assert found == {
        "agemem": {},
        "no_memory_rl": {"method": "no_memory"},
        "long_term_only": {"episode.tools": list(TOOL_NAMES[:4])},
        "answer_only": {
            f"rewards.components.{name}.weight": 0.0 for name in ("context", "memory", "penalty")
        },
        "untrained_summaries": {"grpo.credit": "without_summaries"},
        "theta_0.5": {"episode.filter_threshold": 0.5},
    }, "0.6 is what the configuration has"
    assert TOOL_NAMES[4:] == ("Summary_context", "Filter_context")


def test_studies_share_the_runs_that_they_have_in_common(tmp_path):
    plan = plan_of(tmp_path, "figure3", "figure4", "figure5", "table4")
    assert plan.variants == ["agemem", "long_term_only", "answer_only"]
    assert plan.evaluations("agemem") == {
        "evaluate": (["agemem_norl", "agemem_norl_rag", "agemem", "agemem_rag", "no_memory"], ())
    }


def test_distractors_are_varied_in_the_tasks_that_are_played_not_in_the_training(tmp_path):
    plan = plan_of(
        tmp_path, "distractors", benchmarks=("multihop(max_messages=3)", "babyai"),
        distractors=(0, 4),
    )  # fmt: skip
    assert plan.variants == ["agemem"] and plan.changes("agemem") == ()
    ((step, (methods, sources)),) = plan.evaluations("agemem").items()
    assert step == "evaluate-distractors" and methods == ["agemem_norl", "agemem"]
    options = [TaskConfig(source).options for source in sources]
    assert [each["num_distractors"] for each in options[:2]] == [0, 4]
    assert [each["distractors"] for each in options[2:]] == [0, 4]
    assert all(each["max_messages"] == 3 for each in options[:2])


def test_the_runs_own_tasks_are_varied_where_no_other_are_named():
    (sources,) = studies.distractor_sources(request(benchmarks=(), distractors=(1,))).values()
    options = TaskConfig(sources[0]).options
    own = request().config.tasks.options
    assert options == {**own, "num_distractors": 1}


def test_a_run_is_trained_only_where_some_method_has_weights_after_rl(tmp_path):
    asked = request(methods=("no_memory",))
    plan = Plan.make(tmp_path, asked, ("table2",), (3,))
    own = ["--config=quickstart"]
    steps = plan.steps("agemem", 3, own, ["--tasks=5"], asked)
    assert list(steps) == ["evaluate"] and steps["evaluate"][0] == "--config=quickstart"
    assert "--config.evaluation.seed=3" in steps["evaluate"] and "--tasks=5" in steps["evaluate"]
    trained = Plan.make(tmp_path, request(), ("table2",), (3,)).steps("agemem", 3, own, [], asked)
    assert list(trained) == ["train", "evaluate"]
    assert "--config.seed=3" in trained["train"]
    assert not any(each.startswith("--config") for each in trained["evaluate"])


def test_methods_without_rl_have_the_weights_of_the_warm_up(tmp_path):
    asked = request(methods=("no_memory",))
    warmed = run_config.from_dict({"warmup": {"steps": 2}})
    asked = studies.Request(warmed, asked.benchmarks, asked.methods)
    steps = Plan.make(tmp_path, asked, ("table2",), (0,)).steps("agemem", 0, [], [], asked)
    assert "--config.curriculum.iterations=(0,)" in steps["train"]


def test_every_registered_method_in_which_a_policy_plays_is_compared_the_papers_first():
    names = studies.every_method()
    assert names[0] == "no_memory" and not {"random", "expert"} & set(names)
    assert names.index("agemem_norl") < names.index("agemem") < names.index("agemem_rag")


@pytest.mark.parametrize(
    "names, config, told",
    [
        (["figure9"], {}, "There is no table or figure 'figure9'; there are table2"),
        (["summaries"], {"grpo": {"credit": "gigpo"}}, "grpo.credit is 'gigpo'"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(tmp_path, names, config, told):
    asked = studies.Request(run_config.from_dict(config), (), ("agemem",))
    with pytest.raises(ValueError, match=told):
        Plan.make(tmp_path, asked, studies.find(names), (0,))


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--thetas=0.5,warm"], "--thetas is 0.5,warm; it takes numbers"),
        (["--methods=agemen"], "did you mean 'agemem'"),
        (["--task_source=multihop(num_distractors='x')"], "num_distractors"),
        (["--render=table5"], "name their work directories with --beside"),
        (["--seeds=1,b"], "--seeds has 'b'"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_played(tmp_path, arguments, told):
    common = ["--config=quickstart", f"--workdir={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match=told):
        run_main(reproduce.main, *common, *arguments)
    assert not (tmp_path / "out").exists()
    flags.FLAGS["workdir"].unparse()


def test_methods_that_need_a_training_of_their_own_are_not_played_with_the_weights_of_another(
    monkeypatch,
):
    names = ("random", "agemem", "resum_rl", "resum", "mem0", "no_memory", "just_rl")
    monkeypatch.setattr(studies, "METHODS", Registry("method", dict.fromkeys(names, "a:b")))
    assert studies.every_method() == ("no_memory", "mem0", "agemem", "resum", "just_rl")


def test_the_answer_only_reward_pays_for_the_answer_and_nothing_else(tmp_path):
    plan = plan_of(tmp_path, "table4")
    played = [
        trajectory(add("m", WORKS), tool("Filter_context", stage=2), answer("Velton")),
        trajectory(add("m", NOISE), answer("Velton", tokens=9000)),
        trajectory(add("m", WORKS), answer("Pelmor")),
    ]
    totals = []
    for overrides in ((), plan.changes(studies.ANSWER_ONLY)):
        rewards = compute_rewards(played, configured(*overrides).rewards, OfflineJudge())
        totals.append([reward.total for reward in rewards])
    every, answer_only = totals
    assert every[0] > every[1], "all returns tell them apart"
    assert answer_only == pytest.approx([1 / 3, 1 / 3, 0.0])


def test_without_the_tools_for_the_context_none_is_offered(tmp_path):
    plan = plan_of(tmp_path, "figure4")
    offered = tool_table(configured(*plan.changes(studies.LONG_TERM)).episode.tools)
    assert offered.names == TOOL_NAMES[:4]
