"""llama.cpp: prefill and decode in tokens per second, as JSON on the last line.

    python llama_cpp_decode.py MODEL.gguf REPEATS

It is handed the next tokens instead of sampling them, which costs it nothing.
"""

import ctypes
import json
import os
import random
import sys
import time

import llama_cpp

PROMPT, NEW = 256, 64


class Run:
    """One context for `batch` sequences."""

    def __init__(self, model, batch: int):
        self.batch = batch
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = batch * (PROMPT + NEW)
        options.n_batch = batch * PROMPT
        options.n_ubatch = min(512, batch * PROMPT)
        options.n_seq_max = batch
        options.n_threads = options.n_threads_batch = os.cpu_count()
        self.context = llama_cpp.llama_init_from_model(model, options)
        self.tokens = llama_cpp.llama_batch_init(batch * PROMPT, 0, 1)
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        self.size = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def decode(self, positions: range) -> float:
        """Feeds random tokens at `positions` of every sequence; returns seconds."""
        count = 0
        for sequence in range(self.batch):
            for position in positions:
                self.tokens.token[count] = random.randrange(10, self.size)
                self.tokens.pos[count] = position
                self.tokens.n_seq_id[count] = 1
                self.tokens.seq_id[count][0] = sequence
                self.tokens.logits[count] = position == positions[-1]
                count += 1
        self.tokens.n_tokens = count
        begun = time.perf_counter()
        if llama_cpp.llama_decode(self.context, self.tokens):
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)
        return time.perf_counter() - begun

    def once(self) -> tuple[float, float]:
        """Seconds of prefill, and of all decode steps."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        prefill = self.decode(range(PROMPT))
        steps = [self.decode(range(PROMPT + i, PROMPT + i + 1)) for i in range(NEW - 1)]
        return prefill, sum(steps)


def main(path: str, repeats: int) -> None:
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(path.encode(), options)
    result = {}
    for batch in (1, 8, 16):
        run = Run(model, batch)
        run.once()
        measured = [run.once() for _ in range(repeats)]
        result[batch] = {
            "prefill": [batch * PROMPT / prefill for prefill, _ in measured],
            "decode": [batch * (NEW - 1) / decode for _, decode in measured],
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
