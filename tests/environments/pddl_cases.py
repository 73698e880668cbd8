"""What the tests of PDDL share: AgentBoard's problems, and a problem of each domain in words."""

import os
import pathlib

import pytest

from agemem_jax.environments.pddl.environment import PDDL

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "agentboard" / "pddl"
ALL = os.environ.get("AGEMEM_BENCHMARKS") == "all"
DOMAINS = ("gripper", "blockworld", "barman", "tyreworld")

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="AgentBoard's PDDL files are not in ../shared/data/agentboard/pddl."
)


def official(spread: int) -> list[tuple[str, str]]:
    """(domain, file) of every problem where all are asked for, else of `spread` per domain."""
    cases = []
    for domain in DOMAINS:
        names = sorted(path.name for path in (DATA / domain).glob("*.pddl"))
        step = 1 if ALL else max(len(names) // spread, 1)
        cases += [(domain, name) for name in names[::step]]
    return cases


def environment(domain: str, name: str) -> PDDL:
    """AgentBoard's problem, reset."""
    played = PDDL(domain_file=str(DATA / f"{domain}.pddl"), problem_file=str(DATA / domain / name))
    played.reset(0)
    return played
