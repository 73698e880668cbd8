"""The table of memory systems that are compared with their libraries."""

from experiments.checks.memory_systems.a_mem import AMemAdapter
from experiments.checks.memory_systems.exchange import Adapter
from experiments.checks.memory_systems.langmem import LangMemAdapter
from experiments.checks.memory_systems.mem0 import Mem0Adapter

_TIES = (
    "Facts of one letter have a similarity of exactly 0 to several entries; of equals, the "
    "in-memory Qdrant finds the latest first and our store the earliest, so that the model sees "
    "other ids."
)
_ASKS_ONCE_MORE = (
    "Where the model answered a request for a repair without a call, the library asks once more, "
    "then loses the message, whatever comes; ours loses it at once. The stores are the same."
)

# Differences that are understood, by system and conversation: what the library does otherwise.
EXPLAINED: dict[str, dict[str, str]] = {
    "mem0": {"conversation-0": _TIES},
    "mem0_graph": {"conversation-0": _TIES},
    "langmem": {f"conversation-{number}": _ASKS_ONCE_MORE for number in (5, 9, 10)},
}

ADAPTERS: dict[str, Adapter] = {
    "mem0": Mem0Adapter(),
    "mem0_graph": Mem0Adapter(graph=True),
    "langmem": LangMemAdapter(),
    "a_mem": AMemAdapter(),
}
