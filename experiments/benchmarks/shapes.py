"""What the suites compute on: SmolLM2-135M, and the small random Llama of the peers' runs."""

import pathlib

import gguf
import jax
import numpy as np

from agemem_jax.models import decoder, hf_export, loading, tokenizers, weights_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.rope import Rope

# Four layers, the shape at which Tunix and TRL are compared on a laptop.
SMALL = DecoderConfig(
    vocab_size=4096, num_layers=4, width=256, num_heads=4, num_kv_heads=2, head_dim=64,
    ffn_width=704, rope=Rope(theta=10_000.0), max_positions=2048,
)  # fmt: skip


def weights_order() -> str | None:
    """How the engine orders weights: on CPUs as few rows are multiplied fastest."""
    return "stacked" if jax.default_backend() == "cpu" else None


def load(name: str) -> tuple[DecoderConfig, Weights]:
    """ "smollm2-135m" with its real weights, or "small" with random ones."""
    if name == "small":
        return SMALL, Weights(decoder.init_params(SMALL, jax.random.key(0)))
    backbone = loading.load_backbone(name, key=jax.random.key(0))
    return backbone.config, Weights(backbone.params)


def layer_products(config: DecoderConfig, rows: int) -> list[tuple[int, int, int]]:
    """Every matrix product of a forward pass over `rows` tokens, the vocabulary left out."""
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    width, ffn = config.width, config.ffn_width
    layer = [
        (rows, width, queries), (rows, width, keys), (rows, width, keys), (rows, queries, width),
        (rows, width, ffn), (rows, width, ffn), (rows, ffn, width),
    ]  # fmt: skip
    return layer * config.num_layers


def export_for_peers(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """SmolLM2-135M as the peers read it: a Hugging Face directory and a GGUF file in float32."""
    directory, path = folder / "smollm2-hf", folder / "smollm2-F32.gguf"
    if not directory.exists():
        backbone = loading.load_backbone("smollm2-135m", key=jax.random.key(0))
        stop_id = backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")
        hf_export.export_model(
            directory, backbone.config, backbone.params, backbone.tokenizer, stop_id=stop_id,
            dtype="float32",
        )  # fmt: skip
    if not path.exists():
        (source,) = weights_cache.find_or_explain("smollm2-135m").glob("*.gguf")
        _dequantise(source, path)
    return {"hf": directory, "gguf": path}


def export_small(folder: pathlib.Path) -> pathlib.Path:
    """The small random model as a Hugging Face directory."""
    directory = folder / "small-hf"
    if not directory.exists():
        config, weights = load("small")
        tokenizer = tokenizers.from_file(loading.assets("tiny") / "tokenizer.json")
        hf_export.export_model(
            directory, config, weights.params, tokenizer, stop_id=2, dtype="float32"
        )
    return directory


def _dequantise(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a GGUF file again with float32 tensors."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, inner = field.types[0], field.types[-1]
        value = 0 if field.name == "general.file_type" else field.contents()
        array = kind == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, value, kind, sub_type=inner if array else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
