"""The real SmolLM2-135M against transformers on torch, both from the same GGUF file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import decoder, hf_export, kv_cache, loading, weights_cache
from agemem_jax.models.decoder import Weights
from agemem_jax.protocol.chat_formats import ChatEncoder, check_template, find_format
from agemem_jax.protocol.messages import Context, Kind
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest

PROMPT = (
    "<|im_start|>user\nName three rivers of France, and  12 of its towns.<|im_end|>\n"
    "<|im_start|>assistant\n"
)
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def folder():
    found = weights_cache.find("smollm2-135m")
    if found is None or not list(found.glob("*.gguf")):
        pytest.skip("the GGUF of smollm2-135m is not fetched; see experiments/fetch_weights.py")
    return found


@pytest.fixture(scope="module")
def backbone(folder):
    return loading.load_backbone("smollm2-135m", key=jax.random.key(0))


@pytest.fixture(scope="module")
def oracle(folder):
    """transformers' own conversion of the file, without the loader that needs accelerate."""
    torch = pytest.importorskip("torch", reason="torch is the oracle and is not installed")
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    (path,) = folder.glob("*.gguf")
    config = transformers.AutoConfig.from_pretrained(folder, gguf_file=path.name)
    with torch.device("meta"):
        names = transformers.LlamaForCausalLM(config)
    state = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=names)["tensors"]
    model = transformers.LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected  # tied to the embedding
    model.tie_weights()
    return model


def test_logits_equal_those_of_transformers_to_a_thousandth(backbone, oracle):
    import torch

    ids = np.array([backbone.tokenizer.encode(PROMPT, add_special_tokens=False)])
    with torch.no_grad():
        expected = oracle(torch.from_numpy(ids)).logits.numpy()
    weights = Weights(backbone.params)
    forward = jax.jit(decoder.forward, static_argnums=0)
    positions = np.arange(ids.shape[1])[None]
    hidden = forward(backbone.config, weights, ids, positions)
    logits = decoder.unembed(backbone.config, weights, hidden)
    np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=0)


def test_sixty_four_greedy_tokens_through_the_cache_equal_those_of_transformers(backbone, oracle):
    import torch

    ids = backbone.tokenizer.encode(PROMPT, add_special_tokens=False)
    with torch.no_grad():
        prompt = torch.tensor([ids])
        expected = oracle.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
        )[0, len(ids) :].tolist()
    assert len(expected) == NEW_TOKENS and len(set(expected)) > 10

    length = len(ids) + NEW_TOKENS
    config, weights = backbone.config, Weights(backbone.params)

    @jax.jit
    def generate(weights, cache):
        run = functools.partial(decoder.forward_cached, config, weights)
        positions = jnp.arange(len(ids) - 1)[None]
        _, cache = run(jnp.array([ids[:-1]]), positions, cache)

        def step(carry, index):
            token, cache = carry
            hidden, cache = run(token[None, None], (len(ids) - 1 + index)[None, None], cache)
            token = jnp.argmax(decoder.unembed(config, weights, hidden[0, 0])).astype(jnp.int32)
            return (token, cache), token

        carry = (jnp.int32(ids[-1]), cache)
        return jax.lax.scan(step, carry, jnp.arange(NEW_TOKENS))[1]

    cache = kv_cache.init_cache(config, 1, length, jnp.float32)
    assert generate(weights, cache).tolist() == expected


def test_the_exported_model_gives_transformers_the_same_logits_and_tokens(
    backbone, oracle, tmp_path
):
    import torch
    import transformers

    directory = tmp_path / "exported"
    stop_id = backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")
    hf_export.export_model(
        directory, backbone.config, backbone.params, backbone.tokenizer, stop_id=stop_id,
        dtype="float32", max_shard_size="200MB",
    )  # fmt: skip
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    ids = tokenizer.encode(PROMPT, add_special_tokens=False)
    assert ids == backbone.tokenizer.encode(PROMPT, add_special_tokens=False)
    assert tokenizer.chat_template == backbone.tokenizer.chat_template is not None
    with torch.no_grad():
        logits, expected = (each(torch.tensor([ids])).logits.numpy() for each in (model, oracle))
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_a_conversation_is_answered_sensibly_in_the_format_of_its_own_template(backbone):
    chat = ChatEncoder(backbone.tokenizer, find_format(backbone.tokenizer))
    check_template(chat)
    config = EngineConfig(
        slots=1, max_length=256, prefill_rows=1, prefill_buckets=(64,), attend_buckets=()
    )
    engine = Engine(config, backbone.config, chat.stop_id)
    engine.load(Weights(backbone.params))
    context = Context((chat.message("system", "You are a helpful assistant.", Kind.SYSTEM),))
    answers = []
    for question in ("What is the capital of France?", "Which river flows through it?"):
        context = context.append(chat.message("user", question, Kind.QUERY))
        prompt = (*context.token_ids, *chat.generation_prompt)
        engine.submit(GenerationRequest(0, prompt, 40, jax.random.key(0), temperature=0.0))
        done = []
        while engine.pending:
            done += engine.step()
        reply = chat.response(done[0].token_ids)
        answers.append(reply.text)
        context = context.append(reply)
    assert "Paris" in answers[0] and "Seine" in answers[1], answers


def test_the_tokenizer_equals_that_of_transformers_where_no_digit_follows_two_spaces(
    backbone, folder
):
    pytest.importorskip("torch", reason="transformers reads GGUF tokenizers with torch only")
    import transformers

    (path,) = folder.glob("*.gguf")
    other = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    texts = (
        "Hello world, born in 1987; it's 3.14!",
        "<|im_start|>user\n\n  naïve café  ☃ 日本語<|im_end|>\n",
        '<tool_call>[{"name": "Add_memory", "arguments": {"content": "a\\tb"}}]</tool_call>',
    )
    for text in texts:
        ids = backbone.tokenizer.encode(text, add_special_tokens=False)
        assert ids == other.encode(text, add_special_tokens=False)
        assert backbone.tokenizer.decode(ids, skip_special_tokens=False) == text
    assert backbone.tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
