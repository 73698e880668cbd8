"""What a second start of a run may change, and that a refused one changes nothing."""

import dataclasses
import json

import pytest

from agemem_jax.rewards.registry import RewardConfig
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.configuration import run_config, run_record
from agemem_jax.training.curriculum import Phase

BASE = run_config.RunConfig()


def changed(**values):
    """`BASE` with options set by dotted name, dots written as double underscores."""
    config = run_config.default_config()
    for name, value in values.items():
        group = config
        *path, last = name.split("__")
        for part in path:
            group = group[part]
        group[last] = value
    return run_config.build(config)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "values",
    [
        {"curriculum__iterations": (45,)},
        {"curriculum__tasks_per_iteration": 4, "curriculum__checkpoint_every": 3},
        {"mesh__fsdp": 2},
        {"judge__base_url": "http://elsewhere/v1"},
        {"tasks__eval_size": 10, "evaluation__temperature": 0.0},
        {"engine__slots": 4, "packing__rows": 2},
    ],
)
def test_what_may_change_is_let_through_and_written_down(tmp_path, values):
    run_record.write(BASE, tmp_path, step=0)
    before = (tmp_path / "config.json").read_bytes()
    given = changed(**values)
    run_record.check(given, tmp_path)
    run_record.write(given, tmp_path, step=7)
    run_record.write(given, tmp_path, step=9)  # the same again is nothing new
    assert (tmp_path / "config.json").read_bytes() == before
    (line,) = (tmp_path / "config_changes.jsonl").read_text().splitlines()
    names = {name.replace("__", ".") for name in values}
    assert json.loads(line)["step"] == 7 and set(json.loads(line)["changes"]) == names
    run_record.write(BASE, tmp_path, step=11)  # back to what it was
    assert len((tmp_path / "config_changes.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "values, told",
    [
        ({"seed": 1}, "seed is 0 there and 1 now"),
        ({"backbone": "smollm2-135m"}, 'backbone is "tiny" there'),
        ({"model__lora_rank": 8}, "model.lora_rank is 0 there and 8 now"),
        ({"model__lora_alpha": 32.0, "temperature": 0.5}, "model.lora_alpha is 16.0 there"),
        ({"engine__weights": "int8"}, "engine.weights"),
        ({"judge__model": "other"}, "judge.model"),
        ({"optimizer__learning_rate": 1e-3}, "optimizer.learning_rate"),
        ({"tasks": {"source": "hotpotqa"}}, "tasks.source"),
    ],
)
def test_everything_else_is_refused_by_name_and_nothing_is_written(tmp_path, values, told):
    run_record.write(BASE, tmp_path, step=0)
    before = contents(tmp_path)
    with pytest.raises(ValueError) as error:
        run_record.check(changed(**values), tmp_path)
    assert told in str(error.value) and "--workdir" in str(error.value)
    assert contents(tmp_path) == before


def test_a_record_of_an_older_version_takes_the_defaults_of_options_it_does_not_have(tmp_path):
    values = run_record.as_values(BASE)
    del values["faults"], values["grpo"]["drop_zero_variance"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    run_record.check(BASE, tmp_path)
    with pytest.raises(ValueError, match="grpo.drop_zero_variance is false there"):
        run_record.check(changed(grpo__drop_zero_variance=True), tmp_path)


def test_a_record_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0,')
    with pytest.raises(ValueError, match="config.json, the record of a run, cannot be read"):
        run_record.check(BASE, tmp_path)


def test_every_option_that_may_change_exists():
    hotpotqa = dataclasses.replace(BASE, tasks=TaskConfig("hotpotqa"))
    names = {
        **run_record._flat(run_record.as_values(BASE)),
        **run_record._flat(run_record.as_values(hotpotqa)),
    }
    for pattern in run_record.MAY_CHANGE:
        assert any(run_record.fnmatch.fnmatch(name, pattern) for name in names), pattern


# Positions.


def phases(**iterations):
    return tuple(
        Phase(name, count, BASE.episode, BASE.rewards) for name, count in iterations.items()
    )


def test_a_run_goes_through_its_phases_one_after_the_other():
    plan = phases(warmup=2, joint=1)
    position, seen = Position(), []
    while (phase := position.phase(plan)) is not None:
        seen.append(phase.name)
        position = position.advance()
        if position.iteration == phase.iterations:
            position = position.close(phase)
    assert seen == ["warmup", "warmup", "joint"]
    assert position == Position({"warmup": 2, "joint": 1}, 0, 3)
    assert Position.from_record(json.loads(json.dumps(position.to_record())), plan) == position


def test_more_iterations_take_the_last_phase_up_again():
    record = Position({"warmup": 2, "joint": 5}, 0, 7).to_record()
    position = Position.from_record(record, phases(warmup=2, joint=8))
    assert position == Position({"warmup": 2}, 5, 7)
    assert position.phase(phases(warmup=2, joint=8)).name == "joint"


def test_a_phase_under_way_can_be_given_more_or_less_but_not_less_than_is_done():
    record = Position({}, 5, 5).to_record()
    for count in (5, 6, 20):
        assert Position.from_record(record, phases(joint=count)).iteration == 5
    with pytest.raises(ValueError, match="5 iterations of phase joint are done.* asks for 4"):
        Position.from_record(record, phases(joint=4))


@pytest.mark.parametrize(
    "ended, iteration, plan, told",
    [
        ({"joint": 5}, 0, {"joint": 4}, "has ended after 5 iterations.* asks for 4"),
        ({"warmup": 5}, 0, {"warmup": 6, "joint": 4}, "Phase warmup .* has ended"),
        ({"phase1": 2}, 1, {"phase1": 3, "phase2": 2}, "Phase phase1 .* has ended"),
        ({"phase1": 2, "phase2": 2}, 0, {"phase1": 3, "phase2": 2}, "Phase phase1"),
        ({"phase1": 2}, 0, {"phase2": 2}, "asks for 0"),
        ({"phase2": 2}, 0, {"phase1": 2, "phase2": 2}, "phase2, which comes behind it"),
    ],
)
def test_a_phase_that_has_ended_and_is_not_the_last_stays_as_it_was(ended, iteration, plan, told):
    record = {"ended": ended, "iteration": iteration, "step": 0}
    with pytest.raises(ValueError, match=told):
        Position.from_record(record, phases(**plan))


def test_positions_of_earlier_versions_named_the_phase_by_number():
    plan = phases(warmup=3, phase1=2, phase2=2)
    inside = Position.from_record({"phase": 1, "iteration": 1, "step": 4}, plan)
    assert inside == Position({"warmup": 3}, 1, 4)
    end = Position.from_record({"phase": 3, "iteration": 0, "step": 7}, plan)
    assert end == Position({"warmup": 3, "phase1": 2, "phase2": 2}, 0, 7)
    longer = Position.from_record(
        {"phase": 3, "iteration": 0, "step": 7}, phases(warmup=3, phase1=2, phase2=6)
    )
    assert longer == Position({"warmup": 3, "phase1": 2}, 2, 7)


# Schedules.


def test_a_schedule_is_as_long_as_the_run_unless_it_is_given():
    config = changed(
        curriculum__iterations=(6,), grpo__epochs=2, grpo__minibatches=3, warmup__steps=9,
        optimizer__schedule="cosine",
    )  # fmt: skip
    assert config.rl_optimizer.total_steps == 36
    assert config.warmup_optimizer.total_steps == 9
    assert config.optimizer.total_steps is None  # so that more iterations stretch it
    longer = dataclasses.replace(
        config, curriculum=dataclasses.replace(config.curriculum, iterations=(12,))
    )
    assert longer.rl_optimizer.total_steps == 72
    given = changed(optimizer__schedule="cosine", optimizer__total_steps=50)
    assert given.rl_optimizer.total_steps == 50


def test_a_cosine_that_would_end_before_it_begins_is_refused_where_it_was_asked_for():
    with pytest.raises(ValueError, match="optimizer.total_steps is 6; .*warmup_steps, which is 6"):
        changed(optimizer__total_steps=6, optimizer__schedule="cosine", optimizer__warmup_steps=6)
    short = changed(
        curriculum__iterations=(1,), optimizer__schedule="cosine", optimizer__warmup_steps=6
    )
    assert short.rl_optimizer.total_steps == 7  # the run ends while its rate still rises


@pytest.mark.parametrize(
    ("attention", "backend"), [("auto", "auto"), ("cpp", "cpu"), ("pallas", "tpu")]
)
def test_a_record_of_an_earlier_version_names_its_attention(attention, backend):
    values = run_record.as_values(run_config.RunConfig())
    del values["model"]["backend"]
    values["model"]["attention"] = attention
    assert run_record.from_values(values).model.backend == backend
    assert values["model"]["attention"] == attention  # what was given is left alone


def test_a_record_without_a_credit_rule_is_one_of_the_papers():
    values = run_record.as_values(BASE)
    del values["grpo"]["credit"], values["grpo"]["credit_options"]
    config = run_record.from_values(values)
    assert config.grpo == BASE.grpo and config.grpo.credit == "broadcast"
    run_record.refuse_conflicts("There", config, BASE)


def test_a_run_goes_on_with_its_own_credit_rule_only():
    recorded = changed(grpo__credit="local(memories=1)")
    again = run_record.from_values(run_record.as_values(recorded))
    assert again == recorded and again.grpo.credit_options["memories"] == 1
    for other in ("local(memories=2)", "broadcast"):
        with pytest.raises(ValueError, match=r"grpo\.credit"):
            run_record.refuse_conflicts("There", recorded, changed(grpo__credit=other))


def test_weights_in_the_order_of_the_device_go_on_with_those_of_any_order():
    def config(weights):
        return run_config.from_dict({"engine": {"weights": weights, "max_length": 12_000}})

    for recorded in ("as_trained", "stacked", None):
        run_record.refuse_conflicts("There", config(recorded), config(None))
    for recorded, given in ((None, "int8"), ("int8", None), ("as_trained", "stacked")):
        with pytest.raises(ValueError, match="engine.weights"):
            run_record.refuse_conflicts("There", config(recorded), config(given))


def test_a_record_of_the_version_before_the_doors_is_read_as_it_was_meant():
    values = run_record.as_values(BASE)
    values["tasks"] = {
        "name": "hotpotqa", "train_size": 100_000, "eval_size": 100, "eval_split": None,
        "multihop": {"max_messages": 5}, "hotpotqa": {"num_distractors": 1, "max_words": 40},
        "data_dir": None, "manual_dir": "data", "train_file": "a.json",
        "validation_file": "b.json",
    }  # fmt: skip
    values["rewards"] = {
        "w_task": 1.0, "w_context": 0.5, "w_memory": 0.25, "max_context_tokens": 8192,
        "no_answer": -2.0, "round_penalty": -0.75, "overflow_penalty": -0.25, "high_quality": 0.7,
    }  # fmt: skip
    config = run_record.from_values(values)
    assert (config.tasks.source, config.tasks.eval_size) == ("hotpotqa", 100)
    assert config.tasks.options == {
        "num_distractors": 1, "max_words": 40, "data_dir": None, "manual_dir": "data",
        "train_file": "a.json", "validation_file": "b.json",
    }  # fmt: skip
    terms = config.rewards.components
    assert {name: term.weight for name, term in terms.items()} == {
        "task": 1.0, "context": 0.5, "memory": 0.25, "penalty": 1.0,
    }  # fmt: skip
    assert terms["task"].options["no_answer"] == -2.0
    assert terms["memory"].options == {"high_quality": 0.7}
    assert terms["penalty"].options == {"round_limit": -0.75, "token_budget": -0.25}


def test_a_record_without_variants_of_rewards_means_the_literal_ones():
    values = run_record.as_values(BASE)
    del values["rewards"]["variant"], values["rewards"]["on_failure"]
    del values["episode"]["show_context_use"]
    config = run_record.from_values(values)
    assert config.rewards.variant == "literal" and config.rewards.paid_on_failure == 1.0
    assert not config.episode.show_context_use
    guarded = dataclasses.replace(BASE, rewards=RewardConfig(variant="guarded"))
    assert run_record.from_values(run_record.as_values(guarded)) == guarded


OF_BEFORE = ("rescore_old", "correction", "clip_dual", "max_resample_rounds", "baseline")


def before_the_options(**changes):
    """A record of the version that had no options of GRPO but the paper's and PPO's clip."""
    values = run_record.as_values(changed(**changes))
    values["grpo"] = {n: v for n, v in values["grpo"].items() if n not in OF_BEFORE}
    return values


def test_a_record_with_several_updates_and_no_clipping_goes_on_without_any():
    values = before_the_options(grpo__epochs=2)
    values["grpo"] |= {"clip_low": None, "clip_high": None}
    grpo = run_record.from_values(values).grpo
    assert (grpo.clip_low, grpo.clip_high) == (1.0, None)  # which no ratio passes
    values["grpo"]["clip_high"] = 0.3
    assert run_record.from_values(values).grpo.clip_low is None
    values["grpo"] |= {"epochs": 1, "clip_high": None}
    assert run_record.from_values(values).grpo == run_config.RunConfig().grpo


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "recorded"),
        ({"model__compute_dtype": "bfloat16"}, "recorded"),
        ({"engine__weights": "int8"}, "recorded"),
    ],
)
def test_a_record_of_rounded_rollouts_goes_on_with_what_they_recorded(changes, expected):
    then, now = run_record.from_values(before_the_options(**changes)), changed(**changes)
    assert then.old_log_probs == expected
    assert now.old_log_probs == ("updated" if changes else "recorded")
    if changes:
        with pytest.raises(ValueError, match="grpo.rescore_old is false there and null now"):
            run_record.refuse_conflicts("There", then, now)
    else:
        run_record.refuse_conflicts("There", then, now)


def test_options_of_another_part_are_not_told_one_by_one(tmp_path):
    here = f"{__name__}:source"
    run_record.write(BASE, tmp_path, 0)
    with pytest.raises(
        ValueError,
        match=f'tasks.source is "multihop" there and "{here}" now; ',
    ):
        run_record.check(
            dataclasses.replace(BASE, tasks=TaskConfig(here)),
            tmp_path,
        )


def source(split, *, letters: int = 3):
    """A task source of a user's own."""
