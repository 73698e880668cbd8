"""The table of memory systems that are compared with their libraries."""

from experiments.memory_systems.a_mem import AMemAdapter
from experiments.memory_systems.exchange import Adapter
from experiments.memory_systems.langmem import LangMemAdapter
from experiments.memory_systems.mem0 import Mem0Adapter

ADAPTERS: dict[str, Adapter] = {
    "mem0": Mem0Adapter(),
    "mem0_graph": Mem0Adapter(graph=True),
    "langmem": LangMemAdapter(),
    "a_mem": AMemAdapter(),
}
