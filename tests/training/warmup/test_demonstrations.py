"""The scripted agent: what it demonstrates in an environment, and that questions stay the same."""

import dataclasses

import jax
import numpy as np
import pytest

from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.events import ToolEvent
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource
from agemem_jax.tasks.task import EnvironmentGoal, Task
from agemem_jax.training.warmup.demonstrations import Imperfection, ScriptBackend
from agemem_jax.training.warmup.rehearsal import Rehearsals

PERFECT = Imperfection(**{field.name: 0.0 for field in dataclasses.fields(Imperfection)})
LESSON = "Go east to find the lamp."


@dataclasses.dataclass
class Road:
    """Places in a row; the lamp is to be taken at the one that is `away` steps east."""

    away: int = 2
    plans: bool = True
    lists: bool = True
    fails: bool = False

    def reset(self, seed):
        if self.fails:
            raise RuntimeError("no road")
        self.place = 0
        return Observation("You are at 0.")

    def step(self, action):
        if action not in self._possible():
            return Outcome("Nothing happens.", valid=False)
        if action == "take lamp":
            return Outcome("Taken.", 1.0, done=True, won=True)
        self.place += {"go east": 1, "go west": -1}.get(action, 0)
        return Outcome(f"You are at {self.place}.")

    def actions(self):
        return self._possible() if self.lists else None

    def demonstration(self):
        if not self.plans:
            raise LookupError("Nobody knows.")
        return ["go east"] * self.away + ["take lamp"]

    def _possible(self):
        here = ["take lamp"] if self.place == self.away else []
        return ["go west", "go east", *here]


def road(name="r", max_steps=6, **options):
    goal = EnvironmentGoal(Road, options, "Take the lamp.", max_steps=max_steps)
    told = (f"Earlier task: take a lamp. It worked. {LESSON}",)
    return Task(name, goal, ("This is a road.", *told), ("It rains.",), (LESSON,), category="road")


@pytest.fixture(scope="module")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


def demonstrated(chat, tasks, imperfection, seed=0, **rules):
    store = MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=2, entries=8)
    config = EpisodeConfig(max_context_tokens=3000, max_rounds=3, prompt_style="compact", **rules)
    backend = ScriptBackend(chat, imperfection, seed, slots=2)
    rules = EpisodeRules(config, chat, [task.goal for task in tasks[:1]])
    try:
        rollouts = [Rollout(task, jax.random.key(0)) for task in tasks]
        return run_episodes(rollouts, rules, store, backend)
    finally:
        backend.close()


def called(trajectory, name):
    return [e for e in trajectory.events if isinstance(e, ToolEvent) and e.name == name]


def acts(trajectory):
    return [event.arguments["action"] for event in called(trajectory, "Act")]


def test_without_a_fault_it_stores_the_lesson_looks_it_up_and_follows_the_plan(chat):
    (played,) = demonstrated(chat, [road()], PERFECT)
    assert acts(played) == ["go east", "go east", "take lamp"]
    assert played.outcome.score == 1.0
    (stored,) = called(played, "Add_memory")
    assert stored.arguments["content"] == LESSON and stored.stage == 1
    (found,) = called(played, "Retrieve_memory")
    assert found.stage == 3 and [entry.content for entry in found.retrieved] == [LESSON]


def test_a_lesson_is_stored_only_where_it_is_said(chat):
    task = dataclasses.replace(road(), messages=("Go on this road.",))
    (played,) = demonstrated(chat, [task], PERFECT)
    assert not called(played, "Add_memory")


def test_a_wrong_action_is_one_that_can_be_done_and_is_made_up_for(chat):
    sometimes = dataclasses.replace(PERFECT, wrong_action=0.3, skip_retrieve=1.0)
    played = demonstrated(chat, [road(f"r{i}", max_steps=40) for i in range(12)], sometimes)
    plan = ["go east", "go east", "take lamp"]
    strayed = [t for t in played if acts(t) != plan]
    assert 2 < len(strayed) and any(len(acts(t)) == len(plan) for t in played)
    for trajectory in played:
        assert trajectory.outcome.score == 1.0
        assert trajectory.outcome.valid_actions == trajectory.outcome.actions
        east, west = (acts(trajectory).count(f"go {way}") for way in ("east", "west"))
        assert east == west + 2


def test_a_wrong_action_that_is_ignored_spoils_the_plan(chat):
    careless = dataclasses.replace(PERFECT, wrong_action=0.3, ignore_wrong=1.0)
    played = demonstrated(chat, [road(f"r{i}", max_steps=3) for i in range(12)], careless)
    won = [t.outcome.score for t in played]
    assert 0 < sum(won) < len(won)
    for trajectory in played:
        followed = acts(trajectory) == ["go east", "go east", "take lamp"]
        assert trajectory.outcome.score == float(followed)


def test_where_nobody_knows_a_plan_it_does_something_that_can_be_done(chat):
    (played,) = demonstrated(chat, [road(plans=False, max_steps=4)], PERFECT)
    assert len(acts(played)) == 4 or played.outcome.score == 1.0
    assert played.outcome.valid_actions == played.outcome.actions > 0


def test_where_nothing_is_known_at_all_it_gives_up(chat):
    (played,) = demonstrated(chat, [road(plans=False, lists=False)], PERFECT)
    assert acts(played) == [] and played.outcome.score == 0.0


def test_an_environment_that_fails_is_told_by_its_episode_and_by_no_other(chat):
    whole, broken = demonstrated(chat, [road("a"), road("b", fails=True)], PERFECT)
    assert whole.fault is None and whole.outcome.score == 1.0
    assert "no road" in broken.fault


def test_choices_follow_from_the_seed(chat):
    tasks = [road(f"r{i}") for i in range(6)]
    often = dataclasses.replace(Imperfection(), wrong_action=0.5)
    first, again, other = (
        [acts(t) for t in demonstrated(chat, tasks, often, seed)] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_faults_in_environments_change_nothing_about_questions(chat):
    tasks = list(MultihopSource("train", 6, config=MultihopConfig(max_messages=4)))
    plain = demonstrated(chat, tasks, Imperfection(wrong_action=0.0, ignore_wrong=0.0))
    wild = demonstrated(chat, tasks, Imperfection(wrong_action=1.0, ignore_wrong=1.0))
    assert [t.transcript for t in plain] == [t.transcript for t in wild]
    for one, other in zip(plain, wild, strict=True):
        for a, b in zip(one.segments, other.segments, strict=True):
            np.testing.assert_array_equal(a.token_ids, b.token_ids)


def test_demonstrations_are_the_same_where_the_policy_is_told_its_contexts_use(chat):
    tasks = list(MultihopSource("train", 12, config=MultihopConfig(max_messages=4)))
    plain = demonstrated(chat, tasks, Imperfection())
    told = demonstrated(chat, tasks, Imperfection(), show_context_use=True)
    for one, other in zip(plain, told, strict=True):
        lines = [entry for entry in other.transcript if entry.role not in ("act", "summary")]
        assert all(entry.text.endswith(" of 3000 tokens.") for entry in lines)
        said = [
            [(e.step, e.text) for e in each.transcript if e.role in ("act", "summary")]
            for each in (one, other)
        ]
        assert said[0] == said[1] and one.memory == other.memory
        text = chat.tokenizer.decode(np.concatenate([s.token_ids for s in other.segments]))
        assert text.count(" of 3000 tokens.") >= len(lines) - 1, "which is what is trained on"


def test_a_rehearsal_mends_a_plan_in_the_steps_that_are_left():
    rehearsals = Rehearsals()
    plan = ["go east", "take lamp"]
    try:
        for steps, wanted in ((5, ["go east", *plan]), (4, None)):
            goal = road(max_steps=steps).goal
            assert rehearsals.mended(goal, ["go east", "go west"], plan) == wanted
        goal = road(max_steps=5).goal
        assert rehearsals.mended(goal, ["go east", "go east"], plan) == ["take lamp"]
        assert rehearsals.actions(goal, ["go east", "go east"])[-1] == "take lamp"
        assert rehearsals.plan(road(fails=True).goal) == []
    finally:
        rehearsals.close()
