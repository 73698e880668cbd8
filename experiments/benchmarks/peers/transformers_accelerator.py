"""transformers: prefill and decode in tokens per second, as JSON on the last line.

python transformers_accelerator.py MODEL_DIRECTORY SHAPE_AS_JSON REPEATS

On a GPU where torch has one, in bfloat16, with random weights of the directory's config.json.
"""

import json
import sys
import time

import torch
import transformers


def main(directory: str, shape: dict, repeats: int) -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to(device).eval()
    new, result = shape["new"], {}
    for batch in shape["slots"]:
        prompt = torch.randint(10, config.vocab_size, (batch, shape["prompt"]), device=device)
        mask = torch.ones_like(prompt)

        def generate(count: int, prompt=prompt, mask=mask) -> float:
            _wait(device)
            begun = time.perf_counter()
            model.generate(
                prompt, attention_mask=mask, max_new_tokens=count, min_new_tokens=count,
                do_sample=True, top_k=0, temperature=1.0, pad_token_id=0,
            )  # fmt: skip
            _wait(device)
            return time.perf_counter() - begun

        with torch.inference_mode():
            generate(2)
            first = [generate(1) for _ in range(repeats)]
            whole = [generate(new) for _ in range(repeats)]
        result[batch] = {
            "prefill": [batch * shape["prompt"] / seconds for seconds in first],
            "decode": [batch * (new - 1) / (b - a) for a, b in zip(first, whole, strict=True)],
        }
    print(json.dumps(result))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
