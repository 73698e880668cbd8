"""A job in which parameters are nearly all of the memory, and what of it lives."""

import contextlib
import dataclasses
import threading

import jax

from agemem_jax.training.configuration import run_config
from agemem_jax.training.interruption import Interruption
from experiments.configs import tiny


def with_larger_caches(config: run_config.RunConfig) -> run_config.RunConfig:
    """Beside the `tiny` backbone caches and memories are not small any more. No warm-up."""
    return dataclasses.replace(
        config,
        engine=dataclasses.replace(config.engine, slots=8, prefill_rows=8),
        memory=dataclasses.replace(config.memory, entries=256),
        grpo=dataclasses.replace(config.grpo, minibatches=2),
        warmup=dataclasses.replace(config.warmup, steps=0),
    )


def small_config(backbone: str, **model) -> run_config.RunConfig:
    """A warm-up of one step and two GRPO iterations, each as small as can be."""
    config = tiny.get_config()
    config.backbone = backbone
    config.model.update(model)
    config.tasks.options.max_messages = 3
    config.episode.max_context_tokens = 480
    config.episode.max_response_tokens = 16
    config.episode.max_summary_tokens = 8
    config.episode.max_rounds = 1
    config.engine.slots = 2
    config.engine.max_length = 496
    config.engine.attend_buckets = config.engine.decode_rows = ()
    config.engine.prefill_rows = 2
    config.engine.prefill_buckets = (64,)
    config.packing.row_lengths = (512,)
    config.packing.max_targets = 128
    config.packing.rows = 2
    config.packing.max_microbatches = 4
    config.warmup.steps = 1
    config.warmup.episodes = config.warmup.batch = 2
    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (2,)
    config.curriculum.tasks_per_iteration = 1
    config.grpo.group_size = 2
    return run_config.build(config)


class StopAt(Interruption):
    """Asks the run of `trainer` to stop when it has come to a step."""

    def __init__(self, step: int):
        super().__init__()
        self.step, self.trainer = step, None

    @property
    def asked(self) -> bool:
        return self.trainer is not None and self.trainer.position.step >= self.step


def live_bytes() -> int:
    """Of all arrays on the only device; those that share a buffer count once."""
    buffers = {}
    for array in jax.live_arrays():
        with contextlib.suppress(RuntimeError):  # it was deleted in this moment
            buffers[array.unsafe_buffer_pointer()] = array.nbytes
    return sum(buffers.values())


class PeakOfLiveBytes:
    """Looks at `live_bytes` over and over while its block runs; `peak` is the most of them."""

    def __enter__(self) -> "PeakOfLiveBytes":
        self.peak, self._over = live_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.look()

    def look(self) -> None:
        self.peak = max(self.peak, live_bytes())

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
        self.look()
