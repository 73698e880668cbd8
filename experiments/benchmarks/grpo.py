"""One GRPO step, single-turn and multi-turn: rollout, reference scores, update.

Responses have a fixed length, so that every program computes the same number of tokens:
K = 8 rollouts of 2 prompts. In between turns an observation of random tokens is appended.
"""

import dataclasses
import json
import multiprocessing
import time
from concurrent import futures

import jax
import numpy as np
from absl import logging

from agemem_jax.models.backends.cpu import keep_freed_memory
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest
from agemem_jax.rollout.recorder import SegmentRecorder
from agemem_jax.training import packing, train_state, update
from agemem_jax.training.advantages import group_advantages
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.packing import PackingConfig
from agemem_jax.training.train_state import OptimizerConfig
from experiments.benchmarks import shapes
from experiments.benchmarks.options import Options
from experiments.benchmarks.peers.peak_memory import peak_memory
from experiments.benchmarks.timing import Case, Timing, run_peer

_NEVER = -1  # a stop token that is never sampled
GRPO = GRPOConfig(group_size=8, beta=0.1)
OPTIMIZER = OptimizerConfig(learning_rate=1e-6)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What one step computes.

    Attributes:
      model: a name that `shapes.load` knows.
      prompts: different prompts; each has K rollouts.
      prompt: their tokens.
      turns, new: actions of an episode, and tokens of each.
      observation: tokens between two turns.
      rows: groups that pass through an update at once.
    """

    model: str
    prompts: int = 2
    prompt: int = 256
    turns: int = 1
    new: int = 64
    observation: int = 0
    rows: int = 1

    @property
    def episodes(self) -> int:
        return self.prompts * GRPO.group_size

    @property
    def length(self) -> int:
        """Tokens of a whole episode."""
        return self.prompt + self.turns * self.new + (self.turns - 1) * self.observation


class Step:
    """Runs steps of one shape and keeps what goes from step to step."""

    def __init__(
        self,
        shape: Shape,
        loaded: tuple[DecoderConfig, Weights] | None = None,
        engine: EngineConfig | None = None,
    ):
        """Steps of `shape`, of the model that it names unless one is `loaded` already.

        Without `engine` its shapes are those that suit a CPU.
        """
        self.shape = shape
        self.config, weights = loaded or shapes.load(shape.model)
        self.state = train_state.create(
            self.config, weights.params, OPTIMIZER, keep_reference=True, key=jax.random.key(0)
        )
        length, group = shape.length, GRPO.group_size
        self.engine = Engine(engine or _engine_config(shape), self.config, _NEVER)
        # One row holds a whole group: the prompt once, and what K rollouts add to it.
        row = shape.prompt + group * (length - shape.prompt)
        self.packing = PackingConfig(
            row_lengths=(row,), max_targets=group * shape.turns * shape.new, rows=shape.rows,
            max_microbatches=-(-shape.prompts // shape.rows),
        )  # fmt: skip
        self.score = update.make_score(self.config)
        self.update = update.make_update(self.config, GRPO, OPTIMIZER)

    def rollout(self, seed: int, *, keep: bool = True) -> list:
        """Episodes as trajectories, group after group; `keep` caches from turn to turn."""
        shape, rng = self.shape, np.random.default_rng(seed)
        self.engine.load(Weights(self.state.trainable))
        size = self.config.vocab_size
        starts = rng.integers(10, size, (shape.prompts, shape.prompt))
        history = [list(starts[i // GRPO.group_size]) for i in range(shape.episodes)]
        recorders = [SegmentRecorder() for _ in range(shape.episodes)]
        keys = iter(jax.random.split(jax.random.key(seed), shape.turns * shape.episodes))
        for turn in range(shape.turns):
            if turn:
                if not keep:
                    self.engine.load(Weights(self.state.trainable))
                for tokens in history:
                    tokens += rng.integers(10, size, shape.observation).tolist()
            for slot, tokens in enumerate(history):
                prompt = tuple(map(int, tokens))
                self.engine.submit(GenerationRequest(slot, prompt, shape.new, next(keys)))
            while self.engine.pending:
                for done in self.engine.step():
                    before = history[done.slot]
                    recorders[done.slot].record(before, done.token_ids, done.log_probs, turn)
                    before += done.token_ids
        self.engine.release()
        return [_Trajectory(recorder.segments()) for recorder in recorders]

    def __call__(self, seed: int) -> dict[str, float]:
        """One step; returns the seconds of its parts."""
        times = [time.perf_counter()]
        trajectories = self.rollout(seed)
        times.append(time.perf_counter())
        rewards = np.random.default_rng(seed).normal(size=(self.shape.prompts, GRPO.group_size))
        advantages = group_advantages(rewards, GRPO.advantage_eps).reshape(-1)
        batch = packing.pack(trajectories, advantages, self.packing)
        reference = train_state.reference_weights(self.state)
        batch = batch.replace(ref_log_probs=jax.block_until_ready(self.score(reference, batch)))
        times.append(time.perf_counter())
        self.state, metrics = self.update(self.state, batch)
        jax.block_until_ready((self.state.trainable, metrics))
        times.append(time.perf_counter())
        parts = dict(zip(("rollout", "score", "update"), np.diff(times).tolist(), strict=True))
        return parts | {"step": times[-1] - times[0]}


@dataclasses.dataclass
class _Trajectory:
    segments: list


def _engine_config(shape: Shape) -> EngineConfig:
    # Prompts are computed once for a group, observations for every episode.
    fewer, rows = (), shape.prompts
    if shape.turns > 1:
        fewer, rows = (shape.prompts,), shape.episodes
    return EngineConfig(
        slots=shape.episodes, max_length=shape.length,
        prefill_rows=rows, prefill_fewer_rows=fewer,
        weights=shapes.weights_order(),
        prefill_buckets=(max(shape.observation, 8), shape.prompt), prefill_calls=8,
        attend_buckets=tuple(range(256, shape.length, 256)), chunk=shape.new,
    )  # fmt: skip


def measure_step(shape: Shape, repeats: int) -> dict[str, list[float]]:
    """Seconds of every part, warm-up left out, and the process's peak memory in GiB."""
    keep_freed_memory()  # as the binaries do; this is a process of its own
    step = Step(shape)
    step(0)
    measured = [step(seed) for seed in range(1, repeats + 1)]
    peak = peak_memory() / 2**30
    return {name: [each[name] for each in measured] for name in measured[0]} | {"peak": [peak]}


SINGLE = {
    "SmolLM2-135M": Shape("smollm2-135m"),
    "small": Shape("small"),
}
MULTI = {
    turns: Shape("small", prompt=64, turns=turns, new=32, observation=32, rows=2)
    for turns in (4, 8)
}


def run(options: Options) -> list[Case]:
    """Cases of single-turn and multi-turn steps, with TRL and Tunix as peers."""
    known = [*SINGLE, *(f"{turns} turns" for turns in MULTI)]
    unknown = [name for name in options.steps if name not in known]
    if unknown:
        raise ValueError(f"No step is called {unknown[0]!r}; known: {', '.join(known)}.")
    chosen = options.steps or known
    cases = []
    for name, shape in SINGLE.items():
        if name not in chosen:
            continue
        ours = _alone(shape, options.repeats)
        peers = _peers_of(shape, options) if options.peers else {}
        wanted = (
            {"TRL float32": 4.0, "TRL bfloat16": 2.5}
            if name != "small"
            else {"TRL float32": 3.0, "Tunix float32": 3.0}
        )
        cases += _cases(f"GRPO step, {name}, K = 8 × 2, 256 + 64 tokens", ours, peers, wanted)
    for turns, shape in MULTI.items():
        if f"{turns} turns" not in chosen:
            continue
        ours = _alone(shape, options.repeats)
        peers = _peers_of(shape, options) if options.peers else {}
        rollout, step = {4: (4.0, 3.0), 8: (6.0, 4.0)}[turns]
        title = f"multi-turn, small, 16 episodes, {turns} × 32 tokens"
        for part, factor in (("rollout", rollout), ("step", step)):
            timings = {each: Timing(tuple(parts[part])) for each, parts in peers.items()}
            cases.append(
                Case(
                    f"{title}: {part}", Timing(tuple(ours[part])), timings,
                    wanted=dict.fromkeys(timings, factor),
                )
            )  # fmt: skip
    return cases


def _cases(title, ours, peers, wanted) -> list[Case]:
    parts = ", ".join(f"{part} {np.median(ours[part]):.2f} s" for part in ours if part != "peak")
    timings = {name: Timing(tuple(each["step"])) for name, each in peers.items()}
    peaks = {name: Timing(tuple(each["peak"]), "GiB") for name, each in peers.items()}
    memory = {name: 2.0 for name in peaks if name == "TRL float32"}
    return [
        Case(title, Timing(tuple(ours["step"])), timings, wanted=wanted, note=parts),
        Case(f"{title}: peak memory", Timing(tuple(ours["peak"]), "GiB"), peaks, wanted=memory),
    ]


def _alone(shape: Shape, repeats: int) -> dict[str, list[float]]:
    """In a process of its own, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        measured = pool.submit(measure_step, shape, repeats).result()
    logging.info("%s: %s", shape, json.dumps(measured))
    return measured


def _peers_of(shape: Shape, options: Options) -> dict[str, dict[str, list[float]]]:
    if shape.model == "small":
        directory = shapes.export_small(options.folder)
    else:
        directory = shapes.export_for_peers(options.folder)["hf"]
    settings = json.dumps(dataclasses.asdict(shape) | {"group": GRPO.group_size})
    common = (str(directory), settings, str(options.repeats))
    if shape.model == "small":
        scripts = {
            "TRL float32": ("trl", "trl_grpo.py"),
            "Tunix float32": ("tunix", "tunix_grpo.py"),
        }
    else:
        scripts = {
            "TRL float32": ("trl", "trl_grpo.py"),
            "TRL bfloat16": ("trl", "trl_grpo.py", "bfloat16"),
        }
    peers = {}
    for name, (environment, script, *more) in scripts.items():
        try:
            peers[name] = run_peer(options.environments, environment, script, *common, *more)
        except RuntimeError as error:  # the others took minutes, and are worth having
            logging.error("%s: %s", name, error)
    return peers
