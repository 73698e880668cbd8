"""How long a device works, read off a profile: the rest of the time it waits for the host."""

import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import jax

# Lines of a profile that hold what runs on a device: a GPU's streams, a TPU's operations, and
# the threads that work for XLA on a CPU. Others say the same again, grouped.
_DEVICES = ("/device:GPU:", "/device:TPU:")
_LINES = ("Stream", "XLA Ops", "tf_XLA")


def idle_share(function: Callable[[], object], folder: pathlib.Path) -> float:
    """Share of the time of `function` in which nothing ran on the first device.

    Args:
      function: what to run; it must wait for its results.
      folder: where the profile goes.

    Raises:
      RuntimeError: the profile says nothing of the device.
    """
    quiet = jax.profiler.ProfileOptions()
    quiet.python_tracer_level = quiet.host_tracer_level = 0
    if jax.default_backend() == "cpu":
        quiet.host_tracer_level = 2  # where a CPU's work is told
    jax.profiler.start_trace(str(folder), profiler_options=quiet)
    begun = time.perf_counter()
    function()
    seconds = time.perf_counter() - begun
    jax.profiler.stop_trace()
    busy = 0.0
    for path in folder.rglob("*.xplane.pb"):
        busy += length_of_union(_spans(jax.profiler.ProfileData.from_file(str(path)))) / 1e9
    if not busy:
        raise RuntimeError("The profile holds nothing that ran on the device.")
    return max(0.0, 1 - busy / seconds)


def _spans(profile) -> Iterator[tuple[float, float]]:
    """Beginning and end of everything that ran on the first device, in nanoseconds."""
    planes = sorted(profile.planes, key=lambda plane: plane.name)
    devices = [plane for plane in planes if plane.name.startswith(_DEVICES)]
    chosen = devices[:1] or [plane for plane in planes if plane.name.startswith("/host:CPU")]
    for plane in chosen:
        for line in plane.lines:
            if line.name.startswith(_LINES):
                for event in line.events:
                    yield event.start_ns, event.start_ns + event.duration_ns


def length_of_union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what spans cover together."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
