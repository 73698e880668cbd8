"""What one run of a compiled program costs each device: arithmetic, memory traffic, collectives.

Loops count as often as they run where that is known, and once otherwise (`Module.runs`).
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from agemem_jax.planning import hlo_text
from agemem_jax.planning.hlo_text import Array, Module, Operation

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# What moves nothing, or is counted elsewhere.
_FREE = frozenset(
    "parameter constant get-tuple-element tuple bitcast while call conditional after-all iota "
    "partition-id replica-id copy-done async-start async-update async-done broadcast".split()
)
# What reads of its first operand no more than it gives.
_PARTS = ("slice", "dynamic-slice", "gather")
# What changes its first operand in place, and which operand holds the new values.
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
# Calls that start kernels: of Pallas, and of NVIDIA's libraries.
_KERNEL = re.compile(
    r'custom_call_target="(?:tpu_custom_call|mosaic_gpu|__cublas|__cudnn|__gpu|triton)'
)
_ESTIMATE = re.compile(r'"cost_estimate":\{([^}]*)\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind: how many, and the bytes that reach one device by them."""

    count: int = 0
    bytes: float = 0.0

    def plus(self, times: int, size: float) -> "Collective":
        return Collective(self.count + times, self.bytes + times * size)


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one run, on one device.

    Attributes:
      flops: of matrix products, and what kernels say of themselves.
      bytes: read from and written to the main memory, as if every operation did so anew, in
        whole tiles where the chip has them.
      padding: what of `bytes` only fills tiles.
      collectives: by kind; kinds that do not occur are left out.
    """

    flops: float
    bytes: float
    padding: float
    collectives: Mapping[str, Collective]

    @property
    def exchanged(self) -> float:
        """Bytes that reach the device by all collectives."""
        return sum(each.bytes for each in self.collectives.values())


def costs(text: str) -> Costs:
    """Of a compiled module's text."""
    module = Module.parse(text)
    moved, flops = _moved(module), 0.0
    bare = hlo_text.without_tiles(text)
    padding = moved - _moved(Module.parse(bare)) if bare != text else 0.0
    found: dict[str, Collective] = collections.defaultdict(Collective)
    for name, times in module.runs.items():
        body = module.computations.get(name, {})
        for operation in body.values():
            flops += times * _flops(module, body, operation)
            for kind, size in _collectives(module, operation):
                found[kind] = found[kind].plus(times, size)
    return Costs(flops, moved, padding, dict(sorted(found.items())))


def _inside(module: Module, operation: Operation) -> dict[str, Operation]:
    """What a fusion is made of."""
    if operation.kind != "fusion":
        return {}
    return module.computations.get(operation.callees[0], {})


# --- Collectives -----------------------------------------------------------------


def _collectives(module: Module, operation: Operation) -> Iterator[tuple[str, float]]:
    kind = operation.kind.removesuffix("-start")
    if kind in KINDS:
        yield kind, received(operation)
    inside = _inside(module, operation)
    # TPUs cut a collective that overlaps with other work into steps, each a fusion with the whole
    # collective in it; the one that starts it counts.
    is_step = any("AsyncCollective" in each.rest for each in inside.values())
    starts = any('"AsyncCollectiveStart"' in each.rest for each in inside.values())
    for each in inside.values():
        kind = each.kind.removesuffix("-start")
        if kind not in KINDS or ("chain_id=" in each.rest and not starts) or (is_step > starts):
            continue
        scatters = kind == "all-reduce" and "all-reduce-scatter" in operation.rest
        yield ("reduce-scatter" if scatters else kind), received(each) / (2 if scatters else 1)
    yield from _nested(module, inside)


def _nested(module: Module, inside: Mapping[str, Operation]) -> Iterator[tuple[str, float]]:
    for each in inside.values():
        if each.kind == "fusion":
            yield from _collectives(module, each)


def received(operation: Operation) -> float:
    """Bytes that reach one device by a collective."""
    kind, arrays = operation.kind, list(operation.results)
    if kind.endswith("-start"):
        kind = kind.removesuffix("-start")
        arrays = [array for array in arrays if array.sizes]  # no semaphores
        if kind != "all-reduce" and len(arrays) > 1:
            arrays = arrays[len(arrays) // 2 :]  # behind the operands
    held, size = sum(array.bytes for array in arrays), group_size(operation.rest)
    share = (size - 1) / size if size else 1.0
    return {
        "all-gather": held * share,
        "reduce-scatter": held * (size - 1),
        "all-reduce": 2 * held * share,
        "all-to-all": held * share,
        "collective-permute": held,
    }[kind]


def group_size(rest: str) -> int:
    """How many devices take part together; 0 where the text does not say."""
    groups = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if groups:
        return len(groups[1].split(","))
    groups = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
    if groups:
        return int(groups[1])
    groups = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest)
    if groups:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", groups[2]))
    return 0


# --- Arithmetic ------------------------------------------------------------------


def _flops(module: Module, body: Mapping[str, Operation], operation: Operation) -> float:
    if operation.kind == "fusion":
        inside = _inside(module, operation)
        return sum(_flops(module, inside, each) for each in inside.values())
    if _is_library_product(operation):
        return _product_flops(body, operation, r'lhs_contracting_dimensions":\[([^\]]*)\]')
    if operation.kind == "custom-call":
        return _estimate(operation, "flops")
    if operation.kind == "dot":
        return _product_flops(body, operation, r"lhs_contracting_dims=\{([\d,]*)\}")
    if operation.kind == "convolution":
        return _convolution_flops(body, operation)
    return 0.0


def _is_library_product(operation: Operation) -> bool:
    return operation.kind == "custom-call" and 'custom_call_target="__cublas' in operation.rest


def _product_flops(body: Mapping[str, Operation], operation: Operation, over: str) -> float:
    """Of a matrix product whose contracted axes of the left side are told as `over`."""
    left = body[operation.operands[0]].results[0]
    axes = re.findall(r"\d+", re.search(over, operation.rest)[1])
    contracted = math.prod(left.sizes[int(axis)] for axis in axes)
    return 2.0 * operation.results[0].elements * contracted


def _convolution_flops(body: Mapping[str, Operation], operation: Operation) -> float:
    """TPUs write products as convolutions, with batches as windows."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.rest)
    left, right = (body[name].results[0].sizes for name in operation.operands[:2])
    result = operation.results[0].sizes
    flops = 2.0 * result[labels[3].index("b")] * result[labels[3].index("f")]
    flops *= right[labels[2].index("i")]
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (re.search(r"window=\{(.*?)\}", operation.rest) or
                                                  re.match(r"(.?)", ""))[1]))  # fmt: skip
    for axis in filter(str.isdigit, labels[3]):
        place = int(axis)

        def setting(name, default, place=place):
            values = window.get(name)
            return values.split("x")[place] if values else default

        flops *= _valid_pairs(
            left[labels[1].index(axis)], right[labels[2].index(axis)],
            result[labels[3].index(axis)], int(setting("stride", 1)),
            int(setting("pad", "0_0").split("_")[0]), int(setting("lhs_dilate", 1)),
            int(setting("rhs_dilate", 1)),
        )  # fmt: skip
    return flops


def _valid_pairs(size, window, results, stride, pad, dilate, step) -> int:
    """Pairs of a result and a place in its window that meet an element, and no padding."""
    last = (size - 1) * dilate
    places = (r * stride + w * step - pad for r in range(results) for w in range(window))
    return sum(0 <= place <= last and place % dilate == 0 for place in places)


def _estimate(operation: Operation, name: str) -> float:
    told = _ESTIMATE.search(operation.rest)
    value = re.search(rf'"{name}":"?(\d+)', told[1]) if told else None
    return float(value[1]) if value else 0.0


# --- Memory traffic --------------------------------------------------------------


def _moved(module: Module) -> float:
    """Bytes that one run moves."""
    return sum(
        times * _bytes(module, body, operation)
        for name, times in module.runs.items()
        for body in [module.computations.get(name, {})]
        for operation in body.values()
    )


def _bytes(module: Module, body: Mapping[str, Operation], operation: Operation) -> float:
    kind = operation.kind
    if kind in _FREE or kind.endswith("-done"):
        return 0.0
    operands = [body[name].results for name in operation.operands if name in body]
    if kind == "custom-call" and _estimate(operation, "bytes_accessed"):
        # The kernel knows of elements only: each array's padding comes once on top.
        arrays = [array for each in (*operands, operation.results) for array in each]
        fetched = sum(array.bytes for each in operands for array in each if array.is_local)
        padding = sum(array.padded - array.bytes for array in arrays if not array.is_local)
        return max(_estimate(operation, "bytes_accessed") - fetched, 0.0) + padding
    if kind == "custom-call" and not _KERNEL.search(operation.rest):
        return 0.0
    if _is_library_product(operation):  # behind its result there is room to work in
        return _held(operation.results[:1]) + sum(_held(each) for each in operands)
    if kind in _PARTS:
        return 2 * _held(operation.results)
    if kind in _UPDATES:
        return 2 * _held(operands[_UPDATES[kind]])
    if kind == "slice-start":  # of a tuple, the slice is the smallest but for its semaphore
        part = min((a for a in operation.results if a.sizes), key=lambda array: array.bytes)
        return part.padded + _held((part,))
    if kind.endswith("-start"):
        return sum(_held(each) for each in operands) + _held(operation.results[-1:])
    inside = _inside(module, operation)
    if not inside:
        return _held(operation.results) + sum(_held(each) for each in operands)
    return _fusion_bytes(inside, operation, operands)


def _fusion_bytes(inside: Mapping[str, Operation], operation: Operation, operands) -> float:
    """Of an operand that only slices are taken of, those; of a result updated in place, the
    update."""
    parameters = {
        int(each.operands[0]): each.name for each in inside.values() if each.kind == "parameter"
    }
    aliases = {name: name for name in parameters.values()}
    for each in inside.values():
        if each.kind in ("bitcast", "copy") and each.operands and each.operands[0] in aliases:
            aliases[each.name] = aliases[each.operands[0]]
    total, written = 0.0, _held(operation.results)
    passed = set()  # what a step of a collective hands on to the next one
    if any("chain_id=" in each.rest for each in inside.values()):
        told = re.search(r"output_to_operand_aliasing=\{(.*?\)\})", operation.rest)
        pairs = re.findall(r"\{(\d*)\}: \((\d+), \{\}\)", told[1] if told else "")
        passed = {int(operand) for _, operand in pairs}
        written -= sum(_held(operation.results[int(result or 0) :][:1]) for result, _ in pairs)
    for place, results in enumerate(operands):
        if place in passed:
            continue
        name, held = parameters.get(place), _held(results)
        same = {alias for alias, origin in aliases.items() if origin == name}
        uses = [u for u in inside.values() if same & set(u.operands) and u.name not in same]
        parts = [u for u in uses if u.kind in _PARTS and u.operands[0] in same]
        updates = [u for u in uses if u.kind in _UPDATES and u.operands[0] in same]
        if uses and len(parts) + len(updates) == len(uses):
            if updates:
                news = [u.operands[_UPDATES[u.kind]] for u in updates]
                changed = sum(inside[new].padded for new in news if new in inside)
                written -= min(held, written) - min(changed, held)
            held = min(held, sum(part.padded for part in parts))
        total += held
    return total + max(written, 0.0)


def _held(arrays: tuple[Array, ...]) -> float:
    return sum(array.padded for array in arrays if not array.is_local)
