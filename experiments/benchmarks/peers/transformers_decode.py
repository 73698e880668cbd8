"""transformers: prefill and decode in tokens per second, as JSON on the last line.

python transformers_decode.py MODEL_DIRECTORY REPEATS
"""

import json
import sys
import time

import torch
import transformers

PROMPT, NEW = 256, 64


def main(directory: str, repeats: int) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    result = {}
    for batch in (1, 8, 16):
        prompt = torch.randint(10, model.config.vocab_size, (batch, PROMPT))
        mask = torch.ones_like(prompt)

        def generate(new: int, prompt=prompt, mask=mask) -> float:
            begun = time.perf_counter()
            model.generate(
                prompt, attention_mask=mask, max_new_tokens=new, min_new_tokens=new,
                do_sample=True, top_k=0, temperature=1.0, pad_token_id=0,
            )  # fmt: skip
            return time.perf_counter() - begun

        with torch.inference_mode():
            generate(2)
            first, whole = [], []
            for _ in range(repeats):
                first.append(generate(1))
                whole.append(generate(NEW))
        result[batch] = {
            "prefill": [batch * PROMPT / seconds for seconds in first],
            "decode": [batch * (NEW - 1) / (b - a) for a, b in zip(first, whole, strict=True)],
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
