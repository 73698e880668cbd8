"""The source of planning tasks: what it tells, and that no evaluated problem is trained on."""

import itertools
import json
import random

import numpy as np
import pytest

from agemem_jax.environments.pddl.texts import read_problem, write_problem
from agemem_jax.environments.registry import ENVIRONMENTS
from agemem_jax.tasks import pddl_problems
from agemem_jax.tasks.pddl import (
    DOMAINS,
    OFFICIAL_NUMBERS,
    PDDLTasks,
    _earlier,
    is_held_out,
)
from agemem_jax.tasks.pddl_domains import DOMAIN_TEXTS
from agemem_jax.tasks.task import EnvironmentGoal
from tests.environments.pddl_cases import ALL, DATA, needs_data

_DRAWS = 300 if ALL else 40


def in_the_official_corner(domain: str, problem) -> bool:
    """What holds of all of AgentBoard's problems, and of no generated one."""
    if domain == "gripper":
        return sum(fact[0] == "ball" for fact in problem.init) in (4, 6, 8, 10, 12)
    if domain == "blockworld":
        above = {fact[2]: fact[1] for fact in problem.init if fact[0] == "on"}
        heights = []
        for fact in problem.init:
            if fact[0] == "on-table":
                block, height = fact[1], 1
                while block in above:
                    block, height = above[block], height + 1
                heights.append(height)
        return tuple(sorted(heights)) in pddl_problems.OFFICIAL_PILES
    if domain == "barman":
        return len(problem.of_type("ingredient")) == 3
    return not any(fact[0] in ("tight", "closed") for fact in problem.goal)


@needs_data
@pytest.mark.parametrize("domain", DOMAINS)
def test_all_official_problems_lie_where_no_generated_one_does(domain):
    texts = [path.read_text() for path in (DATA / domain).glob("*.pddl")]
    assert len(texts) == OFFICIAL_NUMBERS[domain]
    assert all(in_the_official_corner(domain, read_problem(text)) for text in texts)


@pytest.mark.parametrize(
    ("domain", "difficulty"), list(itertools.product(DOMAINS, pddl_problems.DIFFICULTIES))
)
def test_generated_problems_are_new_and_have_a_plan_of_the_steps_asked_for(domain, difficulty):
    fewest, most = pddl_problems.STEPS[difficulty]
    seen = set()
    for draw in range(_DRAWS):
        solved = pddl_problems.generate(domain, difficulty, np.random.default_rng(draw))
        assert not in_the_official_corner(domain, solved.problem)
        assert fewest <= len(solved.plan) <= most <= 30
        assert not set(solved.problem.goal) <= solved.problem.init
        assert read_problem(write_problem(solved.problem)) == solved.problem
        seen.add((solved.problem.init, solved.problem.goal))
    assert len(seen) > 20


def test_the_smallest_tasks_of_gripper_carry_one_ball_or_two():
    tasks = PDDLTasks(domains=("gripper",), difficulties=("tiny",), size=40)("train")
    problems = [read_problem(task.goal.options["problem_text"]) for task in tasks]
    assert {len(problem.goal) for problem in problems} == {1, 2}


def test_the_demonstrations_of_generated_tasks_reach_their_goals():
    pytest.importorskip(
        "unified_planning",
        reason="unified-planning is not installed (requirements-benchmarks.txt).",
    )
    source = PDDLTasks(difficulties=pddl_problems.DIFFICULTIES, size=_DRAWS if ALL else 8)
    for task in source("train"):
        played = ENVIRONMENTS.build(task.goal.environment, task.goal.options)
        seen = played.reset(task.goal.seed)
        assert "Goal:" not in seen.instruction and seen.instruction.startswith("Actions: ")
        outcomes = [played.step(action) for action in played.demonstration()]
        assert outcomes[-1].won and len(outcomes) <= task.goal.max_steps
        assert all(outcome.valid for outcome in outcomes)


@needs_data
@pytest.mark.parametrize("domain", DOMAINS)
def test_our_domain_texts_mean_what_the_official_ones_mean(domain):
    pytest.importorskip(
        "unified_planning",
        reason="unified-planning is not installed (requirements-benchmarks.txt).",
    )
    from agemem_jax.environments.pddl.model import Model

    official = (DATA / f"{domain}.pddl").read_text()
    for draw in range(10 if ALL else 1):
        solved = pddl_problems.generate(domain, "small", np.random.default_rng(draw))
        problem, rng = write_problem(solved.problem), random.Random(draw)
        models = Model(DOMAIN_TEXTS[domain], problem), Model(official, problem)
        assert models[0].parameters.keys() == models[1].parameters.keys()
        for walk in (solved.plan, [None] * 12):
            states = [model.start() for model in models]
            for action in walk:
                ours, theirs = (
                    set(model.applicable(state))
                    for model, state in zip(models, states, strict=True)
                )
                assert ours == theirs
                action = action or rng.choice(sorted(ours))
                states = [m.apply(state, action) for m, state in zip(models, states, strict=True)]
                assert states[0].facts == states[1].facts


def test_a_task_tells_what_is_known_and_how_earlier_ones_of_its_domain_were_solved():
    task = PDDLTasks(difficulties=("small",), experiences=2, distractors=3)("train")[4]
    assert isinstance(task.goal, EnvironmentGoal)
    assert task.category == "gripper" and task.data_set == "pddl"
    assert task.query.startswith("Goal: ball")
    about, *earlier = task.messages
    assert about.startswith("In gripper you move")
    assert len(earlier) == 2
    for message, lesson in zip(earlier, task.supporting_facts, strict=True):
        assert message.startswith("Earlier task. Goal: ball")
        assert "What was done: pick up" in message or "What was done: move" in message
        assert message.endswith(f"It worked. {lesson}")
    assert len(task.distractors) == 3
    assert all("In gripper" not in message for message in task.distractors)
    told = {domain for domain in DOMAINS for d in task.distractors if f"In {domain}," in d}
    assert told == {"blockworld", "barman", "tyreworld"}
    json.dumps(dict(task.goal.options))


def test_an_earlier_task_is_never_the_task_itself():
    drawn = pddl_problems.generate("gripper", "tiny", np.random.default_rng(5))
    told = _earlier("gripper", 2, "tiny", np.random.default_rng(5), drawn.problem)
    assert len(told) == 2
    assert drawn.problem not in [solved.problem for solved in told]


def test_the_same_index_is_the_same_task_and_others_differ():
    source = PDDLTasks(size=40)
    assert source("train")[7] == PDDLTasks(size=40)("train")[7]
    assert PDDLTasks(size=40, seed=1)("train")[7].goal != source("train")[7].goal
    tasks = list(source("train"))
    assert len({task.task_id for task in tasks}) == 40
    assert [task.category for task in tasks[:5]] == [*DOMAINS, "gripper"]


def test_the_split_validation_is_generated_of_the_same_kinds_and_of_other_problems():
    source = PDDLTasks(difficulties=("tiny",), domains=("gripper", "tyreworld"), size=_DRAWS)
    train, validation = source("train"), source("validation")
    assert len(validation) == _DRAWS
    problems = [
        [read_problem(task.goal.options["problem_text"]) for task in tasks]
        for tasks in (train, validation)
    ]
    assert [is_held_out(p) for p in problems[0]] == [False] * _DRAWS
    assert [is_held_out(p) for p in problems[1]] == [True] * _DRAWS
    told = [{(p.domain, p.init, frozenset(p.goal)) for p in each} for each in problems]
    assert not told[0] & told[1] and len(told[1]) > 10
    for one, other in zip(train, validation, strict=True):
        assert one.category == other.category and one.task_id != other.task_id
    assert validation[3].task_id == "pddl-validation-0-3-tyreworld-tiny"
    assert [task.messages[1:] for task in train] != [task.messages[1:] for task in validation]


def test_a_fifth_of_the_problems_is_held_out_and_none_of_them_is_told_as_an_earlier_task():
    rng = np.random.default_rng(0)
    drawn = [pddl_problems.generate("gripper", "tiny", rng).problem for _ in range(200)]
    assert 0.1 < np.mean([is_held_out(problem) for problem in drawn]) < 0.3
    told = _earlier("gripper", 40, "tiny", rng, drawn[0])
    assert not any(is_held_out(solved.problem) for solved in told)


def test_indices_outside_are_refused():
    tasks = PDDLTasks(size=3)("train")
    assert len(tasks) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"Task {index} is outside a source of 3 tasks"):
            tasks[index]


@needs_data
def test_the_split_test_is_the_official_problems_in_official_order():
    tasks = PDDLTasks(data_dir=str(DATA), domains=DOMAINS[::-1])("test")
    assert len(tasks) == 60
    ids = [task.task_id for task in tasks]
    assert len(set(ids)) == 60
    assert ids[0] == "pddl-test-gripper-prob01"
    assert ids[20:23] == [f"pddl-test-blockworld-problem{i}" for i in (1, 10, 2)]
    assert (ids[30], ids[59]) == ("pddl-test-barman-p01", "pddl-test-tyreworld-p10")
    for place in (0, 22, 44, 59):
        task = tasks[place]
        played = ENVIRONMENTS.build(task.goal.environment, {**task.goal.options, "tell_goal": True})
        pytest.importorskip(
            "unified_planning",
            reason="unified-planning is not installed (requirements-benchmarks.txt).",
        )
        assert played.reset(0).instruction.startswith(task.goal.instruction)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ("chess",)}, "domains is .*chess.*; it must name some of gripper"),
        ({"domains": ()}, "domains is"),
        ({"difficulties": ("tiny", "tiny")}, "difficulties is .*each once"),
        ({"size": 0}, "size is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"experiences": -1}, "experiences is -1"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"PDDLTasks.{message}"):
        PDDLTasks(**options)


def test_what_is_missing_of_the_official_data_is_told(tmp_path):
    with pytest.raises(
        ValueError, match="data_dir is ''; for the split test it must be AgentBoard"
    ):
        PDDLTasks()("test")
    (tmp_path / "gripper.pddl").touch()
    with pytest.raises(ValueError, match="gripper.pddl and 20 problems in gripper/"):
        PDDLTasks(data_dir=str(tmp_path))("test")
    with pytest.raises(ValueError, match="must be one of train, validation, test, not 'dev'"):
        PDDLTasks()("dev")
