"""An adapter that PEFT has made computes here what it computes in PEFT."""

import jax
import numpy as np
import pytest
import transformers

from agemem_jax.models import adapter_import, decoder, loading
from tests.small_models import write_model

peft = pytest.importorskip("peft", reason="peft is not installed (requirements-dev.txt)")
torch = pytest.importorskip("torch", reason="torch is not installed (requirements-dev.txt)")
TARGETS = ("down_proj", "q_proj", "v_proj")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_an_adapter_of_peft_gives_the_same_logits(tmp_path, family):
    write_model(str(tmp_path / "base"), family)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="float32")
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=list(TARGETS))
    model = peft.get_peft_model(base, config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    tokens = np.arange(3, 14)[None]
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
        with model.disable_adapter():
            without = model(torch.tensor(tokens)).logits.numpy()

    adapter = adapter_import.read_config(tmp_path / "adapter")
    assert (adapter.rank, adapter.alpha, adapter.targets) == (4, 12.0, TARGETS)
    backbone = loading.load_backbone(
        str(tmp_path / "base"), key=jax.random.key(0), backend="plain", lora_rank=4,
        lora_alpha=12.0, lora_targets=TARGETS,
    )  # fmt: skip
    adapter.check(backbone.config)
    lora = adapter_import.read_lora(tmp_path / "adapter", backbone.config)
    hidden = decoder.forward(
        backbone.config, decoder.Weights(backbone.params, lora), tokens, np.arange(11)[None]
    )
    table = backbone.params.get("output", backbone.params["embedding"])
    np.testing.assert_allclose(np.asarray(hidden) @ np.asarray(table).T, expected, atol=2e-6)
    assert np.abs(expected - without).max() > 0.1
