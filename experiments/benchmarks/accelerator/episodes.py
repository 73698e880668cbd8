"""Episodes with edits of the context, on a policy of random weights that follows a script.

The engine computes as many tokens as the scripted agent's responses have, and what it sampled
is taken for the script's. So contexts grow, are filtered and summarised, memory is used, and
lengths differ, all as in a run, while no weights need to have learned anything.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from agemem_jax.configs import quickstart
from agemem_jax.models import loading, tokenizers
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.loading import Backbone
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.rollout.driver import PolicyBackend, Rollout, run_episodes
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.player import Player, group_rollouts
from agemem_jax.rollout.requests import Generate, Generated
from agemem_jax.training import components
from agemem_jax.training.configuration import run_config
from agemem_jax.training.warmup.demonstrations import Imperfection, ScriptBackend
from experiments.benchmarks.accelerator import device_time, generation
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.timing import Case, Timing

_NEVER = -1  # a stop token that is never sampled
_MOST_IDLE = 15.0  # per cent


class _Scripted:
    """Answers by scripts, in the time that the engine takes for as many tokens."""

    def __init__(self, engine: Engine, chat: ChatEncoder):
        self.slots = engine.config.slots
        self._engine, self._chat = engine, chat
        self._policy = PolicyBackend(engine)
        self._scripts: dict[int, ScriptBackend] = {}
        self._begun = 0
        self._said: dict[int, tuple[Generate, Generated]] = {}

    def begin(self, slot: int, rollout: Rollout) -> None:
        # Of one seed, the rollouts of a task would be the same.
        self._scripts[slot] = ScriptBackend(self._chat, Imperfection(tidy=0.7), self._begun)
        self._begun += 1
        self._scripts[slot].begin(slot, rollout)
        self._policy.begin(slot, rollout)

    def submit(self, slot: int, request: Generate) -> None:
        self._scripts[slot].submit(slot, request)
        ((_, said),) = self._scripts[slot].step()
        self._said[slot] = request, said
        shorter = dataclasses.replace(request, max_tokens=len(said.token_ids))
        self._policy.submit(slot, shorter)

    def step(self) -> list[tuple[int, Generated]]:
        answers = []
        for slot, _ in self._policy.step():
            request, said = self._said.pop(slot)
            # The cache holds as many tokens as if these had been sampled, the last one left out.
            told = (request.prompt[-1], *said.token_ids[:-1])
            self._engine._held.go_on(slot, len(request.prompt) - 1, told)
            answers.append((slot, said))
        return answers


def run(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Cases of a rollout's rate, of the device's and the slots' idle share, and of host time."""
    player, config = make_player(sizes)
    weights = generation.random_weights(sizes.model)
    source = config.tasks.load("train")
    tasks = [source[index] for index in range(-(-sizes.episodes // 8))]
    rollouts = group_rollouts(tasks, 8, jax.random.key(0))[: sizes.episodes]
    rules = player.rules(config.episode)

    def play() -> None:
        player.engine.load(weights, rules.shared_prefix)
        run_episodes(rollouts, rules, player.store, _Scripted(player.engine, player.chat))

    begun = time.perf_counter()
    play()
    first = time.perf_counter() - begun
    seconds, on_host, stats = [], [], player.engine.stats
    requests, sampled = stats.requests, stats.sampled_tokens
    busy, steps = stats.busy_slot_steps, stats.decode_steps
    for _ in range(repeats):
        begun, worked = time.perf_counter(), time.thread_time()
        play()
        seconds.append(time.perf_counter() - begun)
        on_host.append(time.thread_time() - worked)
    requests, sampled = (
        (after - before) / repeats
        for after, before in ((stats.requests, requests), (stats.sampled_tokens, sampled))
    )
    name = f"{len(rollouts)} episodes with edits, {sizes.model_name}, {sizes.episode_slots} slots"
    yield Case(
        name, Timing(tuple(seconds)).per(sampled, "tokens/s"),
        note=f"{np.median(seconds):.3g} s, {requests:.0f} requests, {sampled:.0f} tokens",
    )  # fmt: skip
    yield generation.first_time(name, first)
    yield Case(
        f"{name}: the host's processor, for each request",
        Timing(tuple(1e3 * each / requests for each in on_host), "ms"),
        {"at most": Timing((0.3,), "ms")}, wanted={"at most": 1.0},
        note="time of the thread that drives the engine, the whole of a rollout by its requests",
    )  # fmt: skip
    slots = player.engine.config.slots * (stats.decode_steps - steps)
    yield Case(
        f"{name}: slots idle", Timing((100 * (1 - (stats.busy_slot_steps - busy) / slots),), "%"),
        note="of all slots over all steps, the end of a rollout included",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        idle = 100 * device_time.idle_share(play, pathlib.Path(folder))
    yield Case(
        f"{name}: device idle", Timing((idle,), "%"),
        {"at most": Timing((_MOST_IDLE,), "%")}, wanted={"at most": 1.0},
        note="of one rollout that was traced",
    )  # fmt: skip


def make_player(sizes: Sizes) -> tuple[Player, run_config.RunConfig]:
    """A player of the quickstart's tasks whose shapes suit the kernels, and its configuration."""
    config = quickstart.get_config()
    for name, value in engine_options(sizes).items():
        config.engine[name] = value
    config.model.compute_dtype = sizes.model.compute_dtype
    config = run_config.build(config)
    backbone = make_backbone(sizes.model)
    player = components.build_player(config, backbone)
    player.engine = Engine(config.engine, sizes.model, _NEVER, player.chat.decode)
    return player, config


def engine_options(sizes: Sizes) -> dict[str, int | tuple[int, ...]]:
    """Fields of `EngineConfig`: one length of caches, and of chunks of prefill, for kernels."""
    slots = sizes.episode_slots
    return {
        "slots": slots, "max_length": 1024, "prefill_rows": min(slots, 16),
        "prefill_buckets": (128,), "attend_buckets": (), "decode_rows": (), "chunk": 16,
    }  # fmt: skip


def make_backbone(model: DecoderConfig) -> Backbone:
    """The tokenizer that ships with the package, and no weights."""
    tokenizer = tokenizers.from_file(loading.assets("tiny") / "tokenizer.json")
    return Backbone("random", model, None, tokenizer, lambda: None)
