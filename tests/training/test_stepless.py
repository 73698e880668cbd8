"""Episodes without a single step: their first prompt was over the token budget.

They go the whole way, from the driver to the update and to an evaluation's report.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from agemem_jax.evaluation import reports
from agemem_jax.evaluation.metrics import measure
from agemem_jax.evaluation.records import Record
from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import decoder, loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.total import RewardConfig, compute_rewards
from agemem_jax.rewards.trajectory_markdown import render_trajectories
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource
from agemem_jax.training import packing, train_state, update
from agemem_jax.training.advantages import group_advantages
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.monitoring.summary import summarise
from agemem_jax.training.train_state import OptimizerConfig
from agemem_jax.training.warmup.demonstrations import Imperfection, ScriptBackend

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
PACKING = packing.PackingConfig(row_lengths=(512,), rows=1, max_microbatches=4)
REWARDS = RewardConfig()


@pytest.fixture(scope="module")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


@pytest.fixture(scope="module")
def played(chat):
    """Two groups of two: one whose tasks fit in, one whose first message does not."""
    source = MultihopSource("train", 4, config=MultihopConfig(max_messages=3))
    config = EpisodeConfig(
        stages=(1, 3), max_context_tokens=600, max_rounds=2, auto_retrieve=0,
        prompt_style="compact",
    )  # fmt: skip
    long = dataclasses.replace(source[1], messages=("many words " * 700,))
    rollouts = [Rollout(task, jax.random.key(0)) for task in (source[0], source[0], long, long)]
    store = MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=2, entries=4)
    backend = ScriptBackend(chat, Imperfection(), seed=0, slots=2)
    return run_episodes(rollouts, EpisodeRules(config, chat), store, backend)


@pytest.fixture(scope="module")
def policy(chat, tiny_decoder_config):
    config = dataclasses.replace(tiny_decoder_config, vocab_size=len(chat.tokenizer))
    return config, decoder.init_params(config, jax.random.key(0))


def test_metrics_of_an_iteration_are_numbers_with_some_steps_and_with_none(played, recwarn):
    rewards = compute_rewards(played, REWARDS, OfflineJudge())
    assert [t.num_steps > 0 for t in played] == [True, True, False, False]
    for reward in rewards[2:]:
        assert reward.total == pytest.approx(-1 / 3 - 0.5), "no answer, and over the budget"
    some, none = summarise(played, rewards), summarise(played[2:], rewards[2:])
    for values in (some, none):
        assert all(np.isfinite(value) for value in values.values())
    own = [t.mean_prompt_tokens for t in played[:2]]
    assert some["prompt_tokens"] == pytest.approx(np.mean(own)) and none["prompt_tokens"] == 0.0
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_groups_without_steps_move_nothing_and_take_no_share_of_the_others(played, policy):
    config, params = policy
    rewards = compute_rewards(played, REWARDS, OfflineJudge())
    totals = np.array([reward.total for reward in rewards]).reshape(2, 2)
    totals[0] = 1.0, 0.0
    advantages = group_advantages(totals).reshape(-1)
    step = update.make_update(config, GRPOConfig(beta=0.0), OPTIMIZER)

    def updated(trajectories, advantages):
        """On parameters of its own, which the update donates."""
        own = jax.tree.map(np.array, params)
        state = train_state.create(
            config, own, OPTIMIZER, keep_reference=False, key=jax.random.key(1)
        )
        batch = packing.pack(trajectories, advantages, PACKING)
        state, metrics = step(state, batch)
        return jax.device_get((state.trainable, metrics))

    before = jax.tree.map(np.array, params)
    (together, metrics), (alone, _) = (
        updated(played, advantages),
        updated(played[:2], advantages[:2]),
    )
    assert metrics["skipped"] == 0.0
    jax.tree.map(np.testing.assert_array_equal, together, alone)
    unmoved, metrics = updated(played[2:], advantages[2:])
    assert metrics["skipped"] == 1.0
    assert all(np.isfinite(value) for value in metrics.values())
    for one, other in zip(jax.tree.leaves(unmoved), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_evaluation_measures_and_reports_them(played, tmp_path):
    rewards = compute_rewards(played, REWARDS, OfflineJudge())
    all_of_them = measure(played, rewards, [0.0] * 4, samples=20)
    assert all_of_them.tasks == 4
    own = [t.mean_prompt_tokens for t in played[:2]]
    assert all_of_them["tn"].mean == pytest.approx(np.mean(own)), "no prompt is not one of length 0"
    none = measure(played[2:], rewards[2:], [0.0] * 2, samples=20)
    assert "tn" not in none.estimates, "nothing was generated"
    results = {"some": all_of_them, "none": none}
    shown = render_trajectories(list(zip(played, rewards, strict=True)))
    records = [Record(each, each, {}, results[each], trajectories=shown) for each in results]
    reports.write_results(tmp_path, records)
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()
    written = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert [row["tasks"] for row in written] == [4, 2]
    tables = reports.render_tables(results, "title")
    assert len(tables) == 7  # scores, costs, rewards, two of plays, two of parts
    assert all(table.row_count == 2 for table in tables), "a row for each, whatever it has"
    assert played[2].task.query in (tmp_path / "trajectories.md").read_text()
