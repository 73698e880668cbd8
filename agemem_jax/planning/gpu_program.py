"""What a GPU and its host do for one run of a compiled program: kernels, loops, and waiting.

XLA's last form of a program is a sequence of thunks, each of which starts a kernel or a copy, or
holds others: loops, conditionals, and command buffers, which the host launches as one. It writes
them down while it compiles; beside the module's text that says what runs how often, and where the
host must wait for a predicate before it knows what to launch next.
"""

import collections
import dataclasses
import itertools
import pathlib
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping

import jax

from agemem_jax.planning import gpu_target
from agemem_jax.planning.hlo_text import Module, Operation

_LOOP, _CONDITIONAL, _BUFFER = "While", "Conditional", "CommandBuffer"
_THUNK = re.compile(r"^( *)(\d+): k(\w+)")
_SECTION = re.compile(r"^ *(\w+):$")
_NAME = re.compile(r'profile_annotation: "([^"]*)"\s*thunk_id: (\d+)')
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_WORDS = re.compile("(?<=[a-z])(?=[A-Z])")
# A fusion is called by the first of these that is in it.
_TELLING = ("dot", "convolution", "sort", "scatter")


@dataclasses.dataclass
class Thunk:
    """One step of a program.

    Attributes:
      kind: as XLA has it, "CustomKernel" for instance.
      name: of the module's operation that it comes from; empty where the text does not say.
      inside: what it holds, by section: "condition" and "body" of a loop, branches.
    """

    kind: str
    name: str
    inside: dict[str, list["Thunk"]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What happens in a turn of a loop or a run of a program.

    Of a conditional, the branch with the most kernels counts; a loop inside counts as often as
    it runs where that is known, and once where only the data tell.

    Attributes:
      kernels: how many run on the device, by kind: "dot", "fusion", "scatter", "copy" and so on.
      launches: how many times the host starts something; a command buffer is started as one.
      reads: predicates that the host waits for.
    """

    kernels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    launches: int = 0
    reads: int = 0

    @property
    def total(self) -> int:
        """Kernels of all kinds."""
        return sum(self.kernels.values())

    def plus(self, other: "Work", times: int = 1) -> "Work":
        kernels = collections.Counter(self.kernels)
        for kind, count in other.kernels.items():
            kernels[kind] += times * count
        return Work(
            dict(sorted(kernels.items())), self.launches + times * other.launches,
            self.reads + times * other.reads,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of a program.

    Attributes:
      name: of the operation in the source, "jit(decode_chunk)/while" for instance.
      depth: how many loops it is in.
      trips: how often it runs each time; None where only the data tell.
      turn: what happens each time around, loops inside included.
    """

    name: str
    depth: int
    trips: int | None
    turn: Work


@dataclasses.dataclass(frozen=True)
class Program:
    """What was read of a compiled program.

    Attributes:
      seconds, cpu_seconds: that the compiler took, and that it kept processors busy.
      temporaries: bytes that live between arguments and results.
      run: what happens in one run.
      loops: in the order in which they stand, outer ones before those inside.
      around: how often the loop around the unit runs that counts, a token for instance, where
        that is known.
    """

    seconds: float
    cpu_seconds: float
    temporaries: int
    run: Work
    loops: tuple[Loop, ...]
    around: int | None = None

    @property
    def turn(self) -> Work:
        """Of the longest loop that the data end or that runs `around` times; else the whole run."""
        unit = (None, self.around)
        ended = [loop.turn for loop in self.loops if loop.trips in unit and not loop.depth]
        return max(ended, key=lambda turn: turn.total, default=self.run)


def compile(
    lowered: jax.stages.Lowered, options: Mapping[str, str] | None = None
) -> tuple[jax.stages.Compiled, Program]:
    """Compiles for a GPU that is only described, and reads what came out.

    Args:
      lowered: for devices of `gpu_target.devices`.
      options: of the compiler, beside those that do without a card.

    Raises:
      RuntimeError: XLA writes no thunks, or other ones than are known here.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = {**gpu_target.WITHOUT_CARD, "xla_dump_to": folder, **(options or {})}
        begun, busy = time.perf_counter(), time.process_time()
        compiled = lowered.compile(compiler_options=asked)
        seconds, busy = time.perf_counter() - begun, time.process_time() - busy
        thunks, names = _written(pathlib.Path(folder))
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    program = read(compiled.as_text(), thunks, names)
    return compiled, dataclasses.replace(
        program, seconds=seconds, cpu_seconds=busy, temporaries=temporaries
    )


def read(text: str, thunks: str, names: str) -> Program:
    """A program from what XLA writes of it; what it does not, seconds and bytes, is 0.

    Args:
      text: the module's, as `jax.stages.Compiled.as_text` gives it.
      thunks: their sequence.
      names: their metadata, which names the operations that they come from.
    """
    reader = _Reader(Module.parse(text))
    run = reader.work(parse(thunks, {int(n): name for name, n in _NAME.findall(names)}))
    return Program(0.0, 0.0, 0, run, tuple(reader.loops))


def parse(text: str, names: Mapping[int, str]) -> list[Thunk]:
    """The thunks of a sequence's text, nested by how far lines are indented.

    Args:
      text: as XLA writes it.
      names: of operations, by the numbers of thunks.
    """
    top = Thunk("Sequential", "", {})
    open_ones, sections, section = [(-1, top)], {id(top): "body"}, None
    for line in text.splitlines():
        if told := _SECTION.match(line):
            section = told[1]
        elif found := _THUNK.match(line):
            indent = len(found[1])
            while open_ones[-1][0] >= indent:
                open_ones.pop()
            parent = open_ones[-1][1]
            sections[id(parent)] = section = section or sections.get(id(parent), "body")
            name = names.get(int(found[2]), "") if found[3] != _BUFFER else ""
            thunk = Thunk(found[3], name, {})
            parent.inside.setdefault(section, []).append(thunk)
            open_ones.append((indent, thunk))
            section = None
    return top.inside.get("body", [])


def _written(folder: pathlib.Path) -> tuple[str, str]:
    """The thunks of the largest module that was dumped, as they run, and their metadata."""
    sequences = sorted(folder.glob("*.thunk_sequence.txt"), key=lambda path: path.stat().st_size)
    if not sequences:
        raise RuntimeError(
            "XLA wrote no sequence of thunks when it compiled for a GPU; kernels can be counted "
            "with the version of jax that requirements.txt names."
        )
    start = sequences[-1].name.removesuffix(".thunk_sequence.txt")
    passed = folder / f"{start}.thunk_sequence_after_thunk_passes.txt"
    sequence = passed if passed.exists() else sequences[-1]
    return sequence.read_text(), (folder / f"{start}.thunk_metadata.txt").read_text()


@dataclasses.dataclass
class _Reader:
    """Adds up thunks, and collects the loops among them."""

    module: Module
    loops: list[Loop] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        bodies = self.module.computations.values()
        self.operations = {name: each for body in bodies for name, each in body.items()}

    def work(self, thunks: Iterable[Thunk], depth: int = 0, by_host: bool = True) -> Work:
        """Of a sequence in so many loops; in a command buffer, the host has no part in it."""
        total = Work()
        for thunk in thunks:
            total = total.plus(self._one(thunk, depth, by_host))
        return total

    def _one(self, thunk: Thunk, depth: int, by_host: bool) -> Work:
        if thunk.kind == _LOOP:
            return self._loop(thunk, depth, by_host)
        if thunk.kind == _CONDITIONAL:
            branches = [self.work(each, depth, by_host) for each in thunk.inside.values()]
            taken = max(branches, key=lambda work: work.total, default=Work())
            return taken.plus(Work(reads=int(by_host)))
        if thunk.kind == _BUFFER:
            held = self.work(*thunk.inside.values(), depth, by_host=False)
            return dataclasses.replace(held, launches=int(by_host))
        if thunk.inside:
            return self.work(itertools.chain(*thunk.inside.values()), depth, by_host)
        if thunk.kind.endswith("Done") or thunk.kind == "WaitForStreams":
            return Work()
        return Work({self._kind(thunk): 1}, launches=int(by_host))

    def _loop(self, thunk: Thunk, depth: int, by_host: bool) -> Work:
        operation, place = self.operations.get(thunk.name), len(self.loops)
        told = _TRIPS.search(operation.rest) if operation else None
        source = _SOURCE.search(operation.rest) if operation else None
        turn = self.work(thunk.inside.get("body", ()), depth + 1, by_host)
        if told is None:  # the condition is asked before each turn
            asked = self.work(thunk.inside.get("condition", ()), depth + 1, by_host)
            turn = turn.plus(asked).plus(Work(reads=int(by_host)))
        trips = int(told[1]) if told else None
        name = source[1] if source else thunk.name
        self.loops.insert(place, Loop(name, depth, trips, turn))
        return Work().plus(turn, 1 if trips is None else trips)

    def _kind(self, thunk: Thunk) -> str:
        operation = self.operations.get(thunk.name)
        if operation is None or thunk.kind.startswith(("Copy", "Mem")):
            return _WORDS.sub("-", thunk.kind).lower()
        if "__cublas" in operation.rest:
            return "dot"
        if operation.kind != "fusion":
            return operation.kind
        inside = {each.kind for each in self._nested(operation)}
        return next((kind for kind in _TELLING if kind in inside), "fusion")

    def _nested(self, operation: Operation) -> Iterator[Operation]:
        for callee in operation.callees:
            for each in self.module.computations.get(callee, {}).values():
                yield each
                if each.kind == "fusion":
                    yield from self._nested(each)
