"""HotpotQA, distractor setting: official rows, a TFDS builder, and tasks made of them."""

from agemem_jax.tasks.hotpotqa.source import (
    SPLITS,
    HotpotQASource,
    HotpotQATaskConfig,
    HotpotQATasks,
    to_task,
)

__all__ = ["SPLITS", "HotpotQASource", "HotpotQATaskConfig", "HotpotQATasks", "to_task"]
