"""How cost grows: with slots, context length, turns, and the size of a memory bank.

Draws `growth.png` beside the report, one panel for each.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest
from experiments.benchmarks import decode, grpo, memory, shapes
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Case, Timing, measure

SLOTS = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (256, 512, 1024, 2048, 4096, 8192)
TURNS = (1, 2, 4, 8, 16)
ENTRIES = (1_000, 10_000, 100_000, 1_000_000)
_NEW, _NEVER = 32, -1


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Measurements along an axis.

    Attributes:
      title: what is measured, and on what.
      axis: what grows.
      series: by name, the measurement at each place of the axis.
    """

    title: str
    axis: str
    series: Mapping[str, Mapping[int, Timing]]

    @property
    def unit(self) -> str:
        return next(iter(next(iter(self.series.values())).values())).unit


def run(options: Options) -> list[Case]:
    """One case for each point of each curve."""
    curves = [each(options.repeats) for each in (_slots, _contexts, _turns, _entries)]
    _draw(curves, options.output / "growth.png")
    return [
        Case(f"{curve.title}: {place} {curve.axis}" + (f", {name}" if name else ""), timing)
        for curve in curves
        for name, points in curve.series.items()
        for place, timing in points.items()
    ]


def _slots(repeats: int) -> _Curve:
    config, weights = shapes.load("smollm2-135m")
    points = {
        slots: decode.time_engine(config, weights, slots, repeats, prompt=64, new=_NEW)[1]
        for slots in SLOTS
    }
    return _Curve("decode, SmolLM2-135M, context 64 to 96", "slots", {"": points})


def _contexts(repeats: int) -> _Curve:
    points = {length: _decode_behind(length, repeats) for length in CONTEXTS}
    return _Curve("decode, small model, 16 slots", "tokens of context", {"": points})


def _decode_behind(length: int, repeats: int) -> Timing:
    """Tokens per second with so much context; the slots share it, so it is computed once."""
    config, weights = shapes.load("small")
    engine = Engine(
        EngineConfig(
            slots=16, max_length=length + _NEW, prefill_rows=1, prefill_buckets=(256,),
            attend_buckets=(), chunk=_NEW, weights=shapes.weights_order(),
        ),
        config, _NEVER,
    )  # fmt: skip
    prompt = tuple(np.random.default_rng(0).integers(10, config.vocab_size, length).tolist())
    engine.load(weights, shared_prefix=prompt)

    def generate() -> None:
        for slot in range(16):  # every time from the same prompt, so nothing is prefilled
            engine.submit(GenerationRequest(slot, prompt, _NEW, jax.random.key(slot)))
        while engine.pending:
            engine.step()

    return measure(generate, repeats).per(16 * _NEW, "tokens/s")


def _turns(repeats: int) -> _Curve:
    series = {"caches kept": {}, "every turn from its start": {}}
    for turns in TURNS:
        step = grpo.Step(grpo.Shape("small", prompt=64, turns=turns, new=_NEW, observation=_NEW))
        for name, keep in zip(series, (True, False), strict=True):
            seconds = measure(lambda step=step, keep=keep: step.rollout(0, keep=keep) and None,
                              repeats)  # fmt: skip
            series[name][turns] = seconds.per(step.shape.episodes * turns * _NEW, "tokens/s")
    return _Curve("rollout, small model, 16 episodes", "turns", series)


def _entries(repeats: int) -> _Curve:
    points = {entries: memory.time_search(entries, repeats) for entries in ENTRIES}
    return _Curve("top 5, 64 queries of 384 dimensions", "entries", {"": points})


def _draw(curves: list[_Curve], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axes, curve in zip(panels.flat, curves, strict=True):
        for name, points in curve.series.items():
            medians = np.array([timing.median for timing in points.values()])
            ends: list[Callable] = [min, max]
            spread = [abs(medians - [end(t.values) for t in points.values()]) for end in ends]
            axes.errorbar(list(points), medians, spread, marker="o", capsize=3, label=name)
        axes.set_xscale("log", base=10 if curve.axis == "entries" else 2)
        axes.set_yscale("log", base=10 if curve.axis == "entries" else 2)
        axes.set_title(curve.title)
        axes.set_xlabel(curve.axis)
        axes.set_ylabel(curve.unit)
        axes.grid(alpha=0.3)
        if len(curve.series) > 1:
            axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
