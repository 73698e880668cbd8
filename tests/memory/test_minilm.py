"""MiniLM in Flax against transformers' BertModel on torch, with the real weights."""

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.minilm import EncoderConfig, MiniLMEmbedder, params_from_tensors
from agemem_jax.models import weights_cache

TEXTS = [
    "Tovelin works at Dravix.",
    "In which city is Tovelin's employer based?",
    "Été à la plage, 北京, and naïve café №5!",
    "hi",
    "The museum opened its new wing on 12 May 1998. " * 4,
    "long " * 400,  # cut at 256 tokens
]


@pytest.fixture(scope="module")
def directory():
    path = weights_cache.find("all-minilm-l6-v2")
    if path is None:
        pytest.skip("all-minilm-l6-v2 is not fetched; see experiments/fetch_weights.py")
    return path


@pytest.fixture(scope="module")
def embedder(directory):
    return make_embedder("minilm", directory)


def test_embeddings_equal_transformers_on_torch(embedder, directory):
    torch = pytest.importorskip("torch", reason="torch is the oracle of this test")
    transformers = pytest.importorskip("transformers", reason="its BertModel is the oracle")
    model = transformers.BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), pad_token="[PAD]"
    )
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    assert batch["input_ids"].shape[1] == 256
    with torch.no_grad():
        hidden = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    mean = (hidden * mask).sum(1) / mask.sum(1)
    wanted = torch.nn.functional.normalize(mean, dim=1).numpy()
    found = embedder.embed(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_an_embedding_does_not_depend_on_batch_order_or_padding(embedder):
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    together = embedder.embed(TEXTS[::-1] + TEXTS * 3)
    np.testing.assert_allclose(together[: len(TEXTS)][::-1], alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(together[len(TEXTS) :], np.tile(alone, (3, 1)), rtol=0, atol=1e-6)


def test_rows_have_unit_norm_and_empty_texts_are_zero(embedder):
    rows = embedder.embed(["", "a memory", "  \n"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [0, 1, 0], atol=1e-6)
    assert embedder.embed([]).shape == (0, 384)


def test_a_paraphrase_is_nearer_than_another_topic(embedder):
    a, b, c = embedder.embed(
        ["She moved to Paris.", "Her home is now in France's capital.", "The engine overheated."]
    )
    assert a @ b > a @ c + 0.3


def _tiny():
    config = EncoderConfig(
        vocab_size=5,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=6,
        max_position_embeddings=8,
    )
    shapes = {
        "embeddings.word_embeddings.weight": (5, 4),
        "embeddings.position_embeddings.weight": (8, 4),
        "embeddings.token_type_embeddings.weight": (2, 4),
        "embeddings.LayerNorm.weight": (4,),
        "embeddings.LayerNorm.bias": (4,),
    }
    layer = "encoder.layer.0."
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= {
            f"{layer}attention.{name}.weight": (4, 4),
            f"{layer}attention.{name}.bias": (4,),
        }
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes |= {f"{layer}{name}.weight": (4,), f"{layer}{name}.bias": (4,)}
    shapes |= {f"{layer}intermediate.dense.weight": (6, 4), f"{layer}intermediate.dense.bias": (6,)}
    shapes |= {f"{layer}output.dense.weight": (4, 6), f"{layer}output.dense.bias": (4,)}
    return config, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_weights_that_lack_a_tensor_or_have_another_shape_are_refused():
    config, tensors = _tiny()
    params_from_tensors(tensors, config)
    missing = {k: v for k, v in tensors.items() if "intermediate" not in k}
    with pytest.raises(ValueError, match="lack the tensor 'encoder.layer.0.intermediate"):
        params_from_tensors(missing, config)
    wrong = tensors | {"embeddings.LayerNorm.bias": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="embeddings_norm/bias the shape"):
        params_from_tensors(wrong, config)


def test_a_text_that_spells_a_special_token_means_its_letters():
    config, tensors = _tiny()
    vocabulary = {token: i for i, token in enumerate(["[CLS]", "[SEP]", "[UNK]", "a", "sep"])}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[UNK]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    embedder = MiniLMEmbedder(params_from_tensors(tensors, config), tokenizer, config)
    ids = embedder._tokenizer.encode("a [SEP] [CLS] [sep] a").ids
    # "[", "]" and "SEP" are no words of this vocabulary.
    assert ids == [0, 3, 2, 2, 2, 2, 2, 2, 2, 4, 2, 3][: config.max_position_embeddings - 1] + [1]
    assert embedder.embed(["a [SEP] a"]).shape == (1, 4)


def test_a_truncated_weight_file_or_a_foreign_config_is_refused(tmp_path):
    _, tensors = _tiny()
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    raw = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type 'llama'; the MiniLM encoder reads 'bert'"):
        make_embedder("minilm", tmp_path)
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "vocab_size": 5, "hidden_size": 4, "num_hidden_layers": 1,'
        ' "num_attention_heads": 2, "intermediate_size": 6, "max_position_embeddings": 8,'
        ' "type_vocab_size": 2, "layer_norm_eps": 1e-12}'
    )
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        make_embedder("minilm", tmp_path)
