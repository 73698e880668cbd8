"""How long the parts of an iteration take, what goes through its updates, and how fast.

Counts follow from the data; rates and memory depend on the machine.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from agemem_jax.models import flops
from agemem_jax.models.config import DecoderConfig
from agemem_jax.parallel import processes
from agemem_jax.planning import chips
from agemem_jax.training.packing import Batch


class Stopwatch:
    """Seconds by name, of things that happen one after the other.

    Attributes:
      seconds: what was measured so far, under "<name>_seconds"; "seconds" is for the caller.
    """

    def __init__(self):
        self._begun = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds what happens inside to `name`."""
        begun = time.monotonic()
        yield
        key = f"{name}_seconds"
        self.seconds[key] = self.seconds.get(key, 0.0) + time.monotonic() - begun

    @property
    def total(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._begun


@dataclasses.dataclass(frozen=True)
class Work:
    """What goes through updates.

    Attributes:
      targets: action tokens that are predicted.
      tokens: that stand in rows; what segments share stands there once.
      places: of rows that are computed, those that hold no token included.
      pairs: of a token and one that it attends to, itself counted.
      prefix_tokens, prefix_pairs: likewise, of the prefix that rows share, once per microbatch.
    """

    targets: int = 0
    tokens: int = 0
    places: int = 0
    pairs: int = 0
    prefix_tokens: int = 0
    prefix_pairs: int = 0

    @classmethod
    def of(cls, batch: Batch) -> "Work":
        """Of one process's batch of numpy arrays, the prefix left out."""
        real = batch.visible_to > 0
        count = int(batch.num_microbatches)
        return cls(
            targets=int(batch.target_mask.sum()),
            tokens=int(real.sum()),
            places=count * int(np.prod(batch.tokens.shape[1:])),
            # A token stands behind all that it attends to, itself excepted.
            pairs=int((batch.positions[real] + 1).sum()),
        )

    @classmethod
    def of_prefix(cls, batch: Batch) -> "Work":
        """Of the prefix in a batch, which all processes have alike."""
        count, length = int(batch.num_microbatches), batch.prefix.shape[1]
        pairs = int(flops.causal_pairs(length))
        return cls(prefix_tokens=count * length, prefix_pairs=count * pairs)

    @classmethod
    def sum(cls, parts: Sequence["Work"]) -> "Work":
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: sum(getattr(part, name) for part in parts) for name in names})

    def metrics(self) -> dict[str, float]:
        """As they are written."""
        padding = 1 - self.tokens / self.places if self.places else 0.0
        return {
            "target_tokens": self.targets,
            "packed_tokens": self.tokens + self.prefix_tokens,
            "padding": padding,
        }

    def model_flops(self, config: DecoderConfig) -> float:
        """What forward and backward passes need, see `models/flops.py`."""
        tokens, pairs = self.tokens + self.prefix_tokens, self.pairs + self.prefix_pairs
        return flops.update(config, tokens, pairs, self.targets)


def update_rates(
    config: DecoderConfig, work: Work, seconds: float, devices: Sequence[jax.Device]
) -> dict[str, float]:
    """Tokens per second of updates, and how busy they keep the devices.

    Args:
      config: of the decoder.
      work: of all processes.
      seconds: that the updates took.
      devices: that shared the work.

    Returns:
      `mfu` where the peak rate of the devices is known, else operations per second.
    """
    if not (work.tokens and seconds):
        return {}
    rates = {"updated_tokens_per_second": (work.tokens + work.prefix_tokens) / seconds}
    rate = work.model_flops(config) / seconds
    peak = chips.peak_flops(devices[0].device_kind)
    if peak is None:
        return rates | {"update_flops_per_second": rate}
    return rates | {"mfu": rate / (peak * len(devices))}


def peak_memory() -> dict[str, int]:
    """The most bytes that this process has had in use since it started.

    Returns:
      `device_peak_bytes` of its fullest device, where the backend tells; else
      `process_peak_bytes`, what of the process was in the host's memory.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    if peaks:
        return {"device_peak_bytes": max(peaks)}
    try:
        import resource  # not on Windows
    except ImportError:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_peak_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def timing(
    model: DecoderConfig, values: Mapping[str, Any], work: Work, clock: Stopwatch
) -> dict[str, float]:
    """All of an iteration that depends on the machine; every process must call this.

    Args:
      model: that is trained.
      values: the metrics of the iteration, with `sampled_tokens` where there were rollouts.
      work: of its updates.
      clock: that has measured its parts.

    Returns:
      Seconds, rates per second, peaks of memory; the largest of all processes.
    """
    timed = {"seconds": clock.total, **clock.seconds}
    if "sampled_tokens" in values:
        rate = values["sampled_tokens"] / clock.seconds["rollout_seconds"]
        timed["sampled_tokens_per_second"] = rate
    timed |= update_rates(model, work, clock.seconds["update_seconds"], jax.devices())
    peaks = processes.gather(peak_memory())
    return timed | {name: max(each[name] for each in peaks) for name in peaks[0]}


def progress_line(
    iterations: int, values: Mapping[str, Any], timed: Mapping[str, float], left: float
) -> str:
    """What a person reads of an iteration.

    Args:
      iterations: of its phase.
      values: its metrics.
      timed: what `timing` gave.
      left: seconds until the run ends, at the pace until now.
    """
    parts = [f"{values['phase']} {values['iteration']}/{iterations}"]
    for name in ("loss", "reward", "success"):
        if name in values:
            parts.append(f"{name} {float(values[name]):.3f}")
    if "sampled_tokens_per_second" in timed:
        parts.append(f"{timed['sampled_tokens_per_second']:.0f} tokens/s")
    parts.append(f"{timed['seconds']:.1f} s, {left / 60:.1f} min left")
    return "  ".join(parts)
