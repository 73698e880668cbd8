"""LoCoMo: questions about conversations of two people over many months."""

from agemem_jax.tasks.locomo.conversations import CATEGORIES
from agemem_jax.tasks.locomo.source import OFFICIAL, LoCoMoTasks

__all__ = ["CATEGORIES", "OFFICIAL", "LoCoMoTasks"]
