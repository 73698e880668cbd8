"""The page of options is what the dataclasses say, and says something of every option."""

import dataclasses
import re
from collections.abc import Mapping

import pytest

from agemem_jax.training.configuration import run_config
from tests.docs.tree import DOCS, load_hook

options = load_hook("options")
AGAIN = "run `python docs/hooks/options.py` and look at what it changed"


def names_of(config: Mapping, prefix: str = "") -> set[str]:
    """Every option of a configuration as a flag names it."""
    found = set()
    for name, value in config.items():
        full = f"{prefix}{name}"
        found |= names_of(value, f"{full}.") if isinstance(value, Mapping) else {full}
    return found


def test_the_page_is_what_the_dataclasses_say():
    assert (DOCS / "options.md").read_text() == options.page(), AGAIN


def test_every_option_of_a_configuration_is_on_the_page():
    text = (DOCS / "options.md").read_text()
    listed = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    config = run_config.default_config().to_dict()
    components, task_options = config["rewards"].pop("components"), config["tasks"].pop("options")
    credit = config["grpo"].pop("credit_options")
    missing = names_of(config) - listed
    assert missing == set(), AGAIN
    assert {f"rewards.components.NAME.{each}" for each in components["task"]} <= listed
    for part, name in [("multihop", each) for each in task_options] + [
        ("broadcast", each) for each in credit
    ]:
        assert f"| `{part}` | `{name}` |" in text


def test_every_option_has_a_meaning():
    groups = options.groups(run_config.RunConfig)
    silent = [each.name for group in groups for each in group.options if not each.meaning]
    assert silent == [], "they need a line in the Attributes of their dataclass"


def test_types_defaults_and_meanings_are_read():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        """Inner.

        Attributes:
          rate, other: of something,
            on two lines.
        """

        rate: float = 0.5
        other: float | None = None

    @dataclasses.dataclass(frozen=True)
    class Outer:
        """Outer."""

        inner: Inner = Inner(rate=2.0)
        sizes: tuple[int, ...] = (1, 2)

    Outer.__annotations__ = {"inner": Inner, "sizes": tuple[int, ...]}
    outer, inner = options.groups(Outer)
    assert [(each.name, each.type, each.default) for each in outer.options] == [
        ("sizes", "tuple of integer", "(1, 2)")
    ]
    assert [(each.name, each.type, each.default) for each in inner.options] == [
        ("inner.rate", "number", "2.0"), ("inner.other", "number or None", "None"),
    ]  # fmt: skip
    assert {each.meaning for each in inner.options} == {"of something, on two lines."}


@pytest.mark.parametrize("name", ["seed", "grpo.beta", "episode.filter_threshold"])
def test_an_option_stands_there_with_its_default(name):
    row = next(
        line for line in (DOCS / "options.md").read_text().splitlines()
        if line.startswith(f"| `{name}` |")
    )  # fmt: skip
    value = run_config.default_config()
    for part in name.split("."):
        value = value[part]
    assert f"| `{value!r}` |" in row
