"""Views of trajectories as HTML: what the page holds packed until a reader opens it."""

import functools
from collections.abc import Sequence

import jinja2

from agemem_jax.report import view as views
from agemem_jax.report.memory_life import Life, Mark
from agemem_jax.report.view import Step, View

_LETTERS = {"added": "A", "updated": "U", "deleted": "D", "retrieved": "R", "shown": "r"}
_STEP_WIDTH = 16


@functools.cache
def environment() -> jinja2.Environment:
    """The templates. Everything that is put into them is escaped; trajectories are not trusted."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("agemem_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "arguments": views.arguments, "told": tell_step, "life_told": tell_life,
        "life_line": life_line,
    }  # fmt: skip
    return made


def render(shown: View) -> str:
    """One trajectory as HTML."""
    steps = shown.steps
    memory = shown.trajectory.memory
    held = {
        fact for life in shown.lives if life.memory_id in memory and life.versions
        for fact in life.versions[-1].facts
    }  # fmt: skip
    return (
        environment()
        .get_template("trajectory.html")
        .render(
            v=shown,
            held=held,
            longest=max((step.tokens for step in steps), default=1) or 1,
        )
    )


def tell_step(step: Step) -> str:
    """A step in a sentence, for tooltips and for who does not see the bars."""
    parts = [f"step {step.number}, stage {step.stage}: {step.tokens} tokens"]
    if step.share is not None:
        parts.append(f"{100 * step.share:.0f} % of the budget")
    if step.advantage is not None:
        parts.append(f"advantage {step.advantage:+.3f}")
    parts += [name if ok else f"{name} failed" for name, ok in step.calls]
    return ", ".join(parts + ["writes a summary"] * step.summary)


def tell_life(life: Life) -> str:
    """What happened to an entry, in words."""
    told: dict[str, list[Mark]] = {}
    for mark in life.marks:
        told.setdefault(mark.what, []).append(mark)
    return "; ".join(
        f"{_WORDS[what]} at step{'s' if len(marks) > 1 else ''} {_numbers(marks)}"
        for what, marks in told.items()
    )


_WORDS = {
    "added": "added", "updated": "updated", "deleted": "deleted", "retrieved": "retrieved",
    "shown": "shown unasked",
}  # fmt: skip


def _numbers(marks: Sequence[Mark]) -> str:
    steps = [str(step) for step in dict.fromkeys(mark.step for mark in marks)]
    return ", ".join(steps[:12]) + (f" and {len(steps) - 12} more" if len(steps) > 12 else "")


def life_line(life: Life, steps: int) -> str:
    """The line of an entry over the steps of its episode, as SVG; numbers and letters alone."""
    last = max([steps, *(mark.step + 1 for mark in life.marks)])
    width = last * _STEP_WIDTH

    def middle(step: int) -> float:
        return (step + 0.5) * _STEP_WIDTH

    end = middle(life.ended) if life.ended is not None else width
    marks = "".join(
        f'<g class="{mark.what}"><circle cx="{middle(mark.step):g}" cy="9" r="7"/>'
        f'<text x="{middle(mark.step):g}" y="12">{_LETTERS[mark.what]}</text></g>'
        for mark in sorted(life.marks, key=lambda mark: mark.what not in ("retrieved", "shown"))
    )
    return (
        f'<div class="scroll" aria-hidden="true"><svg class="line" width="{width}" height="18" '
        f'viewBox="0 0 {width} 18"><path class="all" d="M0 9H{width}"/>'
        f'<path d="M{middle(life.begun):g} 9H{end:g}"/>{marks}</svg></div>'
    )
