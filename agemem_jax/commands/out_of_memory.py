"""A device or machine that ran out of memory, as a sentence that names what sets the size."""

import traceback
import types

import jax

# Where it happened, by module or function, innermost first: what was under way, and the options.
_SIZES = (
    (
        ("agemem_jax.rollout", "_play", "_play_together", "agemem_jax.memory"),
        "episodes were played",
        "engine.slots, engine.max_length, engine.prefill_rows or memory.entries, or take "
        "engine.cache_dtype=bfloat16",
    ),
    (
        ("agemem_jax.training.update", "agemem_jax.training.packing", "_improve", "_run_warmup"),
        "the policy was updated",
        "packing.rows or packing.row_lengths, or take model.remat=True, model.lora_rank above 0 "
        "or mesh.fsdp over more devices",
    ),
    (
        ("agemem_jax.models.loading", "agemem_jax.training.train_state"),
        "the policy was set up",
        "nothing but the backbone: take a smaller one, model.lora_rank above 0 with "
        "model.param_dtype=bfloat16, or mesh.fsdp over more devices",
    ),
)
_ANY = "engine.slots, engine.max_length, packing.rows or packing.row_lengths"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def sentence(error: BaseException) -> str:
    """What to lower, by where the allocation was asked for."""
    frames = [(f.f_globals.get("__name__", ""), f.f_code.co_name) for f in _frames(error)]
    under_way, options = "the program ran", _ANY
    for module, function in reversed(frames):
        found = [each for each in _SIZES if module.startswith(each[0]) or function in each[0]]
        if found:
            _, under_way, options = found[0]
            break
    told = " ".join(str(error).split())[:200] or type(error).__name__
    return f"Memory ran out while {under_way}; lower {options}. ({told})"


def _frames(error: BaseException) -> list[types.FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
