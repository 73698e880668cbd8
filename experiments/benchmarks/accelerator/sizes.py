"""What the suite for accelerators computes: models of random weights, and tokens by the number.

Nothing here looks for a device, so that a process may read sizes before another takes it.
"""

import dataclasses

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.registry import BACKBONES
from agemem_jax.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of every part.

    Attributes:
      model, model_name: that is started, decodes, takes GRPO steps and plays episodes.
      trained, trained_name: that is trained whole on long rows.
      copied: bytes of the array that is copied.
      products: sides of the square matrices that are multiplied.
      row, heads, kv_heads, head_dim: of attention along packed rows.
      prompt_of_row: of a row that holds a forest, the tokens that its rollouts share.
      slots: numbers of slots that decode.
      prompt, new: tokens of a sequence; a chunk of decoding is a quarter of the new ones.
      rows_of_update: rows of `row` tokens that one update takes, one after the other.
      tasks: of a GRPO step, each with K rollouts.
      episode_slots, episodes: that are played at once, and in all.
      lora_rank: of the run that is started.
      tasks_of_run, group_of_run: tasks of an iteration of that run, and rollouts of each.
    """

    model: DecoderConfig
    model_name: str
    trained: DecoderConfig
    trained_name: str
    copied: int
    products: tuple[int, ...]
    row: int
    heads: int
    kv_heads: int
    head_dim: int
    prompt_of_row: int
    slots: tuple[int, ...]
    prompt: int
    new: int
    rows_of_update: int
    tasks: int
    episode_slots: int
    episodes: int
    lora_rank: int
    tasks_of_run: int
    group_of_run: int

    @property
    def chunk(self) -> int:
        return self.new // 4


def _in_bfloat16(name: str) -> DecoderConfig:
    return dataclasses.replace(BACKBONES[name].shape, compute_dtype="bfloat16")


FULL = Sizes(
    model=_in_bfloat16("qwen2.5-0.5b-instruct"), model_name="Qwen2.5-0.5B's shape",
    trained=_in_bfloat16("qwen2.5-1.5b-instruct"), trained_name="Qwen2.5-1.5B's shape",
    copied=2**31, products=(4096, 8192), row=8192, heads=28, kv_heads=4, head_dim=128,
    prompt_of_row=1024, slots=(32, 128), prompt=512, new=128, rows_of_update=4, tasks=4,
    episode_slots=64, episodes=192, lora_rank=16, tasks_of_run=8, group_of_run=8,
)  # fmt: skip

# The vocabulary is that of the tokenizer that ships with the package.
_SMALL = DecoderConfig(
    vocab_size=1024, num_layers=2, width=64, num_heads=2, num_kv_heads=1, head_dim=32,
    ffn_width=96, rope=Rope(theta=1e6), max_positions=2048, qkv_bias=True,
    compute_dtype="bfloat16",
)  # fmt: skip
# Every part within seconds on a CPU, to see that it works; its figures mean nothing.
TINY = Sizes(
    model=_SMALL, model_name="a tiny model", trained=_SMALL, trained_name="a tiny model",
    copied=2**22, products=(256,), row=256, heads=4, kv_heads=2, head_dim=32, prompt_of_row=128,
    slots=(4,), prompt=64, new=16, rows_of_update=2, tasks=1, episode_slots=4, episodes=4,
    lora_rank=2, tasks_of_run=1, group_of_run=2,
)  # fmt: skip
BY_NAME = {"full": FULL, "tiny": TINY}


def of_platform(platform: str) -> str:
    """The name of the sizes that suit a `jax.default_backend()`."""
    return "tiny" if platform == "cpu" else "full"
