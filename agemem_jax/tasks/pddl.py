"""Planning tasks in PDDL: AgentBoard's 60 problems to evaluate on, generated ones to train on.

A task tells what is known of its domain and how earlier, generated problems of it were solved
(Stage 1), the same of other domains (Stage 2), and gives a problem to act in (Stage 3). The
simulator is only named here; the goals and the earlier solutions come from our own reader,
wording and experts. A fifth of all problems is kept from training, to validate on.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from agemem_jax.environments.pddl.texts import Problem, read_problem, write_problem
from agemem_jax.environments.pddl.wording import wording_of
from agemem_jax.tasks import pddl_problems
from agemem_jax.tasks.pddl_domains import DOMAIN_TEXTS
from agemem_jax.tasks.task import EnvironmentGoal, Task

DOMAINS = tuple(DOMAIN_TEXTS)
OFFICIAL_NUMBERS = {"gripper": 20, "blockworld": 10, "barman": 20, "tyreworld": 10}

# What is known of a domain; what is learnt from solving problems of it.
_ABOUT = {
    "gripper": "In gripper you move between rooms and carry balls with two grippers.",
    "blockworld": "In blockworld you build piles of blocks with one hand.",
    "barman": "In barman you mix cocktails from ingredients, with two hands, shots and a shaker.",
    "tyreworld": "In tyreworld you change wheels of a car; wheels and tools are in the boot.",
}
_LESSONS = {
    "gripper": (
        "In gripper, a gripper holds one ball, so carry two balls at a time, one in each.",
        "In gripper, a ball is picked up or dropped only in the room where you are.",
        "In gripper, take a ball back when you return to a room that needs one.",
    ),
    "blockworld": (
        "In blockworld, build each pile from the bottom, so put aside what stands on a block "
        "that must move.",
        "In blockworld, you hold one block at a time, so put it down or stack it before the next.",
        "In blockworld, only a clear block can be picked up, unstacked or stacked on.",
    ),
    "barman": (
        "In barman, a shot is filled while one hand holds it and the other hand is free.",
        "In barman, clean a used shot before it takes another drink.",
        "In barman, a cocktail needs both parts poured into the shaker, then the shaker is held "
        "and shaken with the other hand free.",
    ),
    "tyreworld": (
        "In tyreworld, open the boot and fetch the wrench, the jack and the pump first.",
        "In tyreworld, loosen the nuts on the ground, then jack up the hub, undo the nuts and "
        "remove the wheel.",
        "In tyreworld, a hub is jacked down before its nuts are tightened.",
    ),
}

# What random numbers are for; the first of a stream's seed.
_PROBLEM, _EXPERIENCE, _DISTRACTOR, _VALIDATION = range(4)
_ATTEMPTS = 1000


@dataclasses.dataclass(frozen=True)
class PDDLTasks:
    """The source of planning tasks.

    The split "train" is generated; so is "validation", of the same kinds, from another stream of
    random numbers and of other problems: which of the two a problem belongs to follows from the
    problem alone, so that they are disjoint whatever their seeds and sizes, and nothing that is
    told of earlier tasks is of "validation". "test" is AgentBoard's.

    Attributes:
      data_dir: AgentBoard's `pddl` folder, with `gripper.pddl` and `gripper/*.pddl` and so on;
        for the split "test".
      domains: which of the four.
      difficulties: of the generated problems, each as often: "tiny" (up to 6 steps), "small"
        (up to 14), "medium" (up to 30).
      size: tasks of each generated split.
      seed: of the generated problems.
      experiences: earlier tasks of the same domain that are told in Stage 1.
      distractors: earlier tasks of other domains that are told in Stage 2.
      max_steps: actions until an episode ends. 5 of AgentBoard's 60 problems need more than its
        30: gripper's prob05, prob15, prob16 and prob17 (34 to 36), tyreworld's p04 (39).
    """

    data_dir: str = ""
    domains: tuple[str, ...] = DOMAINS
    difficulties: tuple[str, ...] = ("small", "medium")
    size: int = 1000
    seed: int = 0
    experiences: int = 2
    distractors: int = 2
    max_steps: int = 30

    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    sorted: ClassVar[bool] = True  # a slice of them is spread

    def __post_init__(self):
        for name, known in (("domains", DOMAINS), ("difficulties", pddl_problems.DIFFICULTIES)):
            values = getattr(self, name)
            unknown = sorted(set(values) - set(known))
            if unknown or not values or len(set(values)) < len(values):
                raise ValueError(
                    f"PDDLTasks.{name} is {values!r}; it must name some of {', '.join(known)}, "
                    "each once."
                )
        for name, least in (
            ("size", 1), ("seed", 0), ("experiences", 0), ("distractors", 0), ("max_steps", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(
                    f"PDDLTasks.{name} is {getattr(self, name)}; it must be at least {least}."
                )

    def __call__(self, split: str) -> Sequence[Task]:
        """The tasks of a split, made as they are asked for.

        Raises:
          ValueError: there is no such split, or AgentBoard's problems are not in `data_dir`.
        """
        if split not in self.splits:
            raise ValueError(
                f"The split of PDDLTasks must be one of {', '.join(self.splits)}, not {split!r}."
            )
        if split != "test":
            return _Generated(self, split)
        return _Official(self, _official_files(self.data_dir, self.domains))


@dataclasses.dataclass(frozen=True)
class _Generated(Sequence):
    """A generated split: the domains in turn, a difficulty drawn for each task."""

    source: PDDLTasks
    split: str

    def __len__(self) -> int:
        return self.source.size

    def __getitem__(self, index: int) -> Task:
        place, source = _place(index, len(self)), self.source
        domain = source.domains[place % len(source.domains)]
        held_out = self.split == "validation"
        stream = _VALIDATION if held_out else _PROBLEM
        rng = np.random.default_rng([stream, source.seed, place])
        difficulty = source.difficulties[int(rng.integers(len(source.difficulties)))]
        problem = _generate(domain, difficulty, rng, held_out).problem
        options = {"domain_text": DOMAIN_TEXTS[domain], "problem_text": write_problem(problem)}
        name = f"pddl-{self.split}-{source.seed}-{place}-{domain}-{difficulty}"
        told = difficulty if difficulty == "tiny" else "small"
        seed = [source.seed, 2 if held_out else 0, place]
        return _task(source, name, domain, problem, options, seed, told)


@dataclasses.dataclass(frozen=True)
class _Official(Sequence):
    """The split "test": AgentBoard's problems in its order."""

    source: PDDLTasks
    files: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Task:
        place, source = _place(index, len(self)), self.source
        domain, path = self.files[place]
        problem = read_problem(pathlib.Path(path).read_text(encoding="utf-8"), path)
        domain_file = str(pathlib.Path(path).parent.with_suffix(".pddl"))
        options = {"domain_file": domain_file, "problem_file": path}
        name = f"pddl-test-{domain}-{pathlib.Path(path).stem}"
        return _task(source, name, domain, problem, options, [source.seed, 1, place], "small")


def _task(
    source: PDDLTasks,
    name: str,
    domain: str,
    problem: Problem,
    options: dict[str, str],
    seed: list[int],
    difficulty: str,
) -> Task:
    """The task of a problem.

    Args:
      source, name, domain, problem: of the task.
      options: the two texts, or their paths.
      seed: of what is told of earlier tasks.
      difficulty: of the earlier tasks.
    """
    rng = np.random.default_rng([_EXPERIENCE, *seed])
    lessons = _lessons(domain, source.experiences, rng)
    earlier = _earlier(domain, source.experiences, difficulty, rng, problem)
    rng = np.random.default_rng([_DISTRACTOR, *seed])
    others = [other for other in DOMAINS if other != domain]
    distractors = []
    order = rng.permutation(len(others))
    for i in range(source.distractors):
        other = others[order[i % len(others)]]
        told = _earlier(other, 1, difficulty, rng, problem)[0]
        distractors.append(_told(told, _lessons(other, 1, rng)[0]))
    return Task(
        task_id=name,
        goal=EnvironmentGoal(
            environment="pddl",
            options={**options, "tell_goal": False},
            instruction=wording_of(problem.domain).goal(problem.goal),
            max_steps=source.max_steps,
        ),
        messages=(_ABOUT[domain], *map(_told, earlier, lessons)),
        distractors=tuple(distractors),
        supporting_facts=tuple(dict.fromkeys(lessons)),
        category=domain,
        data_set="pddl",
    )


def _generate(
    domain: str, difficulty: str, rng: np.random.Generator, held_out: bool = False
) -> pddl_problems.Solved:
    """A solved problem of the split "validation" (held out), or one that is not."""
    for _ in range(_ATTEMPTS):
        solved = pddl_problems.generate(domain, difficulty, rng)
        if is_held_out(solved.problem) == held_out:
            return solved
    raise RuntimeError(f"No {difficulty} problem of {domain} for its split in {_ATTEMPTS} draws.")


def is_held_out(problem: Problem) -> bool:
    """Whether a generated problem is of the split "validation"; one of five is."""
    text = repr((problem.domain, sorted(problem.init), sorted(problem.goal)))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % 5 == 0


def _lessons(domain: str, number: int, rng: np.random.Generator) -> list[str]:
    """Lessons in random order; all of them before one is said again."""
    lessons = _LESSONS[domain]
    order = rng.permutation(len(lessons))
    return [lessons[order[i % len(lessons)]] for i in range(number)]


def _earlier(
    domain: str, number: int, difficulty: str, rng: np.random.Generator, task: Problem
) -> list[pddl_problems.Solved]:
    """Solved problems that are not the task's."""
    found: list[pddl_problems.Solved] = []
    while len(found) < number:
        solved = _generate(domain, difficulty, rng)
        if (solved.problem.init, set(solved.problem.goal)) != (task.init, set(task.goal)):
            found.append(solved)
    return found


def _told(solved: pddl_problems.Solved, lesson: str) -> str:
    wording = wording_of(solved.problem.domain)
    done = "; ".join(wording.action(action) for action in solved.plan)
    goal = wording.goal(solved.problem.goal)
    return f"Earlier task. {goal} What was done: {done}. It worked. {lesson}"


def _place(index: int, size: int) -> int:
    if not 0 <= index < size:
        raise IndexError(f"Task {index} is outside a source of {size} tasks.")
    return int(index)


def _official_files(data_dir: str, domains: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The domain and the path of each of AgentBoard's problems, in its order.

    AgentBoard goes through the domains in the order of `DOMAINS`, and through the files of each
    by name as text, problem10 before problem2.
    """
    files = []
    for domain in (domain for domain in DOMAINS if domain in domains):
        folder = pathlib.Path(data_dir).absolute() / domain
        found = sorted(path.name for path in folder.glob("*.pddl")) if data_dir else []
        missing = not folder.with_suffix(".pddl").is_file()
        if len(found) != OFFICIAL_NUMBERS[domain] or missing:
            raise ValueError(
                f"PDDLTasks.data_dir is {data_dir!r}; for the split test it must be AgentBoard's "
                f"folder of PDDL files (github.com/hkust-nlp/AgentBoard), with {domain}.pddl and "
                f"{OFFICIAL_NUMBERS[domain]} problems in {domain}/."
            )
        files += [(domain, str(folder / name)) for name in found]
    return tuple(files)
