"""Reads what is needed of a compiled module from its text.

XLA's own cost analysis counts a loop's body once, and says nothing of collectives; the text has
both.
"""

import dataclasses
import functools
import math
import re

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64,
}  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_CALLEES = re.compile(
    r"(?:calls|body|condition|to_apply|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_TILES = re.compile(r"T((?:\(\d+(?:,\d+)*\))+)")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a module.

    Attributes:
      dtype, sizes: as they stand there.
      is_local: whether it lies outside of the main memory.
      order: its axes, the one that varies fastest first; empty where the text does not say.
      tiles: that its last axes in memory are cut into; further ones cut the one before. TPUs
        have them.
    """

    dtype: str
    sizes: tuple[int, ...]
    is_local: bool
    order: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def parse(cls, dtype: str, sizes: str, layout: str) -> "Array":
        """Of "f32", "8,4" and "{1,0:T(8,128)}", or an empty layout."""
        order, _, rest = layout.strip("{}").partition(":")
        tiles = _TILES.search(rest)
        each = re.findall(r"\(([^)]*)\)", tiles[1]) if tiles else []
        numbers = [_numbers(text) for text in (sizes, order, *each)]
        return cls(dtype, numbers[0], "S(" in rest, numbers[1], tuple(numbers[2:]))

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bytes(self) -> float:
        return self.elements * _BITS.get(self.dtype, 0) / 8

    @property
    def padded(self) -> float:
        """Bytes with all tiles full, as they are moved."""
        sizes = [self.sizes[axis] for axis in reversed(self.order)]
        for tile in self.tiles:
            sizes = [1] * (len(tile) - len(sizes)) + sizes
            outer, inner = sizes[: -len(tile)], sizes[-len(tile) :]
            counts = [-(-size // each) for size, each in zip(inner, tile, strict=True)]
            sizes = [*outer, *counts, *tile]
        return math.prod(sizes) * _BITS.get(self.dtype, 0) / 8 if self.tiles else self.bytes


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a computation.

    Attributes:
      name, kind: as they stand there.
      results: one array, or those of a tuple.
      operands: names.
      rest: what follows the operands.
      is_root: whether it is what the computation gives.
    """

    name: str
    kind: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def callees(self) -> list[str]:
        return [n for names in _CALLEES.findall(self.rest) for n in re.findall(r"[\w.\-]+", names)]

    @property
    def padded(self) -> float:
        """Bytes of the results with all tiles full."""
        return sum(array.padded for array in self.results)


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name, each its operations by name, and which of them is the entry."""

    computations: dict[str, dict[str, Operation]]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "Module":
        """Of a text as `jax.stages.Compiled.as_text` gives it."""
        entry, name, computations = "", "", {}
        for line in text.splitlines():
            match = _COMPUTATION.match(line)
            if match:
                name = match[2]
                entry = name if match[1] else entry
                computations[name] = {}
            elif name:
                match = _OPERATION.match(line)
                if match:
                    operation = Operation(
                        match[2], match[4], _arrays(match[3]),
                        tuple(re.findall(r"%([\w.\-]+)", match[5])) or _bare(match[5]),
                        match[6], bool(match[1]),
                    )  # fmt: skip
                    computations[name][match[2]] = operation
        return cls(computations, entry)

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs in one run of the entry.

        Bodies of loops as often as is known, and once where only the data tell. Of fusions and
        reductions, what they are made of is left out.
        """
        runs: dict[str, int] = {}

        def visit(name: str, times: int) -> None:
            runs[name] = runs.get(name, 0) + times
            for operation in self.computations.get(name, {}).values():
                if operation.kind in ("while", "call", "conditional", "async-start"):
                    inner = times * self.trips(operation) if operation.kind == "while" else times
                    for callee in operation.callees:
                        visit(callee, inner)

        visit(self.entry, 1)
        return runs

    def trips(self, loop: Operation) -> int:
        """How often a loop runs; 1 where only the data tell.

        Told by the compiler, or by a condition that compares the loop's counter, which starts at 0
        in what JAX makes, with a constant.
        """
        told = _TRIPS.search(loop.rest)
        if told:
            return int(told[1])
        condition = self.computations[re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]]
        fused = (
            self.computations.get(name, {})
            for each in condition.values()
            if each.kind == "fusion"
            for name in each.callees
        )
        for body in (condition, *fused):
            for operation in body.values():
                if operation.kind == "compare" and "direction=LT" in operation.rest:
                    counter, limit = (body.get(name) for name in operation.operands)
                    constant = limit is not None and limit.kind == "constant"
                    if _is_given(counter) and constant and limit.operands[:1]:
                        return int(limit.operands[0])
        return 1


def without_tiles(text: str) -> str:
    """A module's text as if arrays took no more than their elements."""
    return _TILES.sub("", text)


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(Array.parse(*found) for found in _ARRAY.findall(text) if found[0] in _BITS)


def _is_given(operation: Operation | None) -> bool:
    return operation is None or operation.kind in ("parameter", "get-tuple-element", "copy")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _bare(text: str) -> tuple[str, ...]:
    """Operands of older texts, or a constant's value."""
    return tuple(re.findall(r"[\w.\-]+", re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)))
