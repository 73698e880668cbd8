"""Updates of a whole model on long rows, and GRPO steps."""

import dataclasses
import time
from collections.abc import Iterator

import jax
import numpy as np

from agemem_jax.models import decoder, flops
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.planning import chips
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.rollout.trajectory import Segment
from agemem_jax.training import packing, train_state, update
from agemem_jax.training.packing import Batch, PackingConfig
from experiments.benchmarks import grpo
from experiments.benchmarks.accelerator import attention, generation
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.timing import Case, Timing, measure

WANTED_MFU = 35.0


@dataclasses.dataclass
class _Trajectory:
    segments: list[Segment]


def run_update(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Full training of a model, rows that each hold a group, layers computed again."""
    config = dataclasses.replace(sizes.trained, remat=True)
    batch, pairs = make_batch(config, sizes)
    loss = dataclasses.replace(grpo.GRPO, beta=0.0)
    step = update.make_update(config, loss, grpo.OPTIMIZER)
    state = train_state.create(
        config, decoder.init_params(config, jax.random.key(0)), grpo.OPTIMIZER,
        keep_reference=False, key=jax.random.key(0), donate=True,
    )  # fmt: skip

    def once():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"], state.step, jax.tree.leaves(state.trainable)[0]

    begun = time.perf_counter()
    jax.block_until_ready(once())
    first = time.perf_counter() - begun
    seconds = measure(once, repeats)
    rows, targets = sizes.rows_of_update, int(np.sum(batch.target_mask))
    name = f"update, {sizes.trained_name}, all parameters, {rows} rows of {sizes.row}, remat"
    yield Case(
        name, seconds.per(rows * sizes.row, "tokens/s"),
        note=f"{seconds.median:.3g} s; {targets} targets",
    )  # fmt: skip
    yield generation.first_time(name, first)
    peak = chips.peak_flops(jax.devices()[0].device_kind)
    if peak is not None:
        needed = flops.update(config, rows * sizes.row, pairs, targets)
        mfu = Timing(tuple(100 * needed / peak / each for each in seconds.values), "% MFU")
        yield Case(
            f"{name}: MFU", mfu, {"wanted": Timing((WANTED_MFU,), "% MFU")},
            wanted={"wanted": 1.0},
            note="operations of forward and backward passes, of the published peak; what layers "
            "compute again is left out",
        )  # fmt: skip


def make_batch(config: DecoderConfig, sizes: Sizes) -> tuple[Batch, float]:
    """Rows that each hold rollouts behind one prompt, and the pairs that attend in all."""
    rng = np.random.default_rng(0)
    prompt = sizes.prompt_of_row
    new = (sizes.row - prompt) // attention.ROLLOUTS
    mask = np.arange(prompt + new) >= prompt
    trajectories = []
    for _ in range(sizes.rows_of_update):
        start = rng.integers(10, config.vocab_size, prompt)
        for _ in range(attention.ROLLOUTS):
            tokens = np.append(start, rng.integers(10, config.vocab_size, new))
            segment = Segment(
                tokens.astype(np.int32), mask, np.where(mask, 0, -1),
                np.where(mask, -np.log(config.vocab_size), 0.0).astype(np.float32),
            )  # fmt: skip
            trajectories.append(_Trajectory([segment]))
    advantages = rng.normal(size=len(trajectories))
    rows = PackingConfig(
        row_lengths=(sizes.row,), max_targets=attention.ROLLOUTS * new, rows=1,
        max_microbatches=sizes.rows_of_update,
    )  # fmt: skip
    _, pairs = attention.make_forest(sizes)
    return packing.pack(trajectories, advantages, rows), sizes.rows_of_update * pairs


def shape_of_step(sizes: Sizes) -> grpo.Shape:
    return grpo.Shape(sizes.model_name, prompts=sizes.tasks, prompt=sizes.prompt, new=sizes.new)


def step_name(sizes: Sizes) -> str:
    return (
        f"GRPO step, {sizes.model_name}, all parameters, K = 8 x {sizes.tasks}, "
        f"{sizes.prompt} + {sizes.new} tokens"
    )


def run_step(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Whole steps and their parts; the reference is scored in each."""
    shape = shape_of_step(sizes)
    engine = EngineConfig(
        slots=shape.episodes, max_length=shape.length, prefill_rows=shape.prompts,
        prefill_buckets=(shape.prompt,), prefill_calls=8, attend_buckets=(), chunk=sizes.chunk,
    )  # fmt: skip
    weights = Weights(decoder.init_params(sizes.model, jax.random.key(0)))
    step = grpo.Step(shape, (sizes.model, weights), engine)
    del weights
    begun = time.perf_counter()
    step(0)
    first = time.perf_counter() - begun
    measured = [step(seed) for seed in range(1, repeats + 1)]
    seconds = {
        part: Timing(tuple(each[part] for each in measured))
        for part in ("step", "rollout", "score", "update")
    }
    yield Case(step_name(sizes), seconds["step"], wanted={"TRL": 5.0})
    yield generation.first_time(step_name(sizes), first)
    for part in ("rollout", "score", "update"):
        yield Case(f"{step_name(sizes)}: {part}", seconds[part])
