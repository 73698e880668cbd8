"""The embedded generator, checked by a reader that knows only the English of it."""

import os
import re
import subprocess
import sys

import pytest

from agemem_jax.tasks import names
from agemem_jax.tasks.multihop import (
    MultihopConfig,
    MultihopSource,
    generate,
    generate_episode,
    sentence,
)

SEED = 11
COUNT = 300

# What every sentence means, written down a second time: (pattern, relation).
N, Y = r"([A-Z][a-z]+)", r"(\d{4})"
SAID = [
    (rf"By the way, {N} works at {N}\.", "works", "so"),
    (rf"I heard that {N} has a job at {N}\.", "works", "so"),
    (rf"Did you know that {N} employs {N}\?", "works", "os"),
    (rf"By the way, {N} is based in {N}\.", "based", "so"),
    (rf"I heard that {N} has its head office in {N}\.", "based", "so"),
    (rf"Did you know that {N} is the home of {N}\?", "based", "os"),
    (rf"By the way, {N} lives in {N}\.", "lives", "so"),
    (rf"I heard that {N} has a flat in {N}\.", "lives", "so"),
    (rf"Did you know that {N} is where {N} lives\?", "lives", "os"),
    (rf"By the way, {N} is mentored by {N}\.", "mentor", "so"),
    (rf"I heard that {N} has {N} as mentor\.", "mentor", "so"),
    (rf"Did you know that {N} mentors {N}\?", "mentor", "os"),
    (rf"By the way, {N} was born in {Y}\.", "born", "so"),
    (rf"I heard that {N} came into the world in {Y}\.", "born", "so"),
    (rf"Did you know that {Y} is the birth year of {N}\?", "born", "os"),
    (rf"By the way, {N} was founded in {Y}\.", "founded", "so"),
    (rf"I heard that {N} opened its doors in {Y}\.", "founded", "so"),
    (rf"Did you know that {Y} is the founding year of {N}\?", "founded", "os"),
]
CHANGED = [
    (rf"Update: {N} no longer works at {N}, but at {N} now\.", "works", "spo"),
    (rf"News: {N} left {N} and works at {N} now\.", "works", "spo"),
    (rf"Update: {N} is no longer based in {N}, but in {N} now\.", "based", "spo"),
    (rf"News: {N} left {N} and is based in {N} now\.", "based", "spo"),
    (rf"Update: {N} no longer lives in {N}, but in {N} now\.", "lives", "spo"),
    (rf"News: {N} left {N} and lives in {N} now\.", "lives", "spo"),
    (rf"Update: {N} is no longer mentored by {N}, but by {N} now\.", "mentor", "spo"),
    (rf"News: {N} left {N} and is mentored by {N} now\.", "mentor", "spo"),
    (rf"Correction: {N} was not born in {Y}, but in {Y}\.", "born", "spo"),
    (rf"I was wrong about {Y}: {N} was born in {Y}\.", "born", "pso"),
    (rf"Correction: {N} was not founded in {Y}, but in {Y}\.", "founded", "spo"),
    (rf"I was wrong about {Y}: {N} was founded in {Y}\.", "founded", "pso"),
]
CHAINS = [
    (rf"In which city is the employer of {N} based\?", "works", "based"),
    (rf"In which year was the employer of {N} founded\?", "works", "founded"),
    (rf"In which city does the mentor of {N} live\?", "mentor", "lives"),
    (rf"At which organisation does the mentor of {N} work\?", "mentor", "works"),
    (rf"Who mentors the mentor of {N}\?", "mentor", "mentor"),
]
FIRST = [
    (rf"Who was born first, {N} or {N}\?", "born"),
    (rf"Which was founded first, {N} or {N}\?", "founded"),
]
CANONICAL = {
    "works": "{} works at {}.",
    "based": "{} is based in {}.",
    "lives": "{} lives in {}.",
    "mentor": "{} is mentored by {}.",
    "born": "{} was born in {}.",
    "founded": "{} was founded in {}.",
}


def understand(message):
    """(relation, {"s": subject, "o": object, "p": previous object}), or None for small talk."""
    for pattern, relation, order in SAID + CHANGED:
        if match := re.fullmatch(pattern, message):
            return relation, dict(zip(order, match.groups(), strict=True))
    assert not re.search(r"\d|[a-z,] [A-Z]", message.replace(" I ", " i ")), message
    return None


def listen(messages):
    """What holds after all messages, and what was said and no longer holds."""
    holds, stale = {}, []
    for message in messages:
        if (meaning := understand(message)) is None:
            continue
        relation, parts = meaning
        key = (relation, parts["s"])
        if "p" in parts:
            assert holds[key] == parts["p"], f"{message!r} comes before its fact"
            stale.append((*key, parts["p"]))
        else:
            assert key not in holds
        holds[key] = parts["o"]
    return holds, stale


def reason(query, holds):
    """The answer, and the facts used for it in order."""
    for pattern, first, second in CHAINS:
        if match := re.fullmatch(pattern, query):
            start = match.group(1)
            middle = holds[first, start]
            end = holds[second, middle]
            return end, [(first, start, middle), (second, middle, end)]
    for pattern, relation in FIRST:
        if match := re.fullmatch(pattern, query):
            used = [(relation, name, holds[relation, name]) for name in match.groups()]
            assert used[0][2] != used[1][2]
            return min(used, key=lambda fact: int(fact[2]))[1], used
    raise AssertionError(f"unknown question {query!r}")


def canonical(facts):
    return tuple(CANONICAL[relation].format(s, o) for relation, s, o in facts)


def capitalised(text):
    return set(
        re.findall(r"[A-Z][a-z]+(?:" + "|".join(sum(names.ENDINGS.values(), ())) + ")", text)
    )


@pytest.fixture(scope="module")
def episodes():
    config = MultihopConfig(num_distractors=3)
    return [
        generate_episode(split, index, SEED, config)
        for split in names.SPLITS
        for index in range(COUNT)
    ]


def test_the_answer_follows_from_the_latest_facts_of_the_messages(episodes):
    for episode in episodes:
        task = episode.task
        answer, used = reason(task.query, listen(task.messages)[0])
        assert task.answer == answer
        assert task.supporting_facts == canonical(used)
        assert task.category == ("comparison" if "first" in task.query else "bridge")


def test_stale_facts_were_said_and_then_taken_back(episodes):
    assert sum(bool(episode.task.stale_facts) for episode in episodes) > COUNT
    for episode in episodes:
        task = episode.task
        holds, stale = listen(task.messages)
        assert task.stale_facts == canonical(stale)
        assert not set(task.stale_facts) & set(canonical((r, s, o) for (r, s), o in holds.items()))


def test_distractors_have_the_relations_of_the_question_and_none_of_its_names(episodes):
    for episode in episodes:
        task = episode.task
        holds, stale = listen(task.messages)
        relations = {relation for relation, _ in holds}
        ours = {x for (_, s), o in holds.items() for x in (s, o)} | {p for _, _, p in stale}
        assert len(task.distractors) == 3
        for distractor in task.distractors:
            assert task.answer.lower() not in distractor.lower()
            relation, parts = understand(distractor)
            assert relation in relations
            assert parts["s"] not in ours
            assert parts["o"].isdigit() or parts["o"] not in ours


def test_distractors_of_a_year_question_never_name_the_year_of_the_answer():
    config = MultihopConfig(num_distractors=50, comparison_fraction=0.0)
    tasks = [generate("train", index, SEED, config) for index in range(100)]
    tasks = [task for task in tasks if task.answer.isdigit()]
    # Ten such tasks say 250 founding years of 80: drawn freely, some would be the answer.
    assert len(tasks) > 10
    for task in tasks:
        assert not [text for text in task.distractors if task.answer in text]


def test_a_distractors_subject_sounds_like_one_of_the_question(episodes):
    for episode in episodes:
        syllables = {x for fact in episode.facts for x in names.stems_of(fact.subject)}
        for distractor in episode.distractors:
            assert syllables & set(names.stems_of(distractor.fact.subject))


def test_no_name_of_an_episode_contains_another(episodes):
    for episode in episodes:
        task = episode.task
        said = " ".join((*task.messages, *task.distractors, task.query))
        found = sorted(name.lower() for name in capitalised(said))
        assert not [(a, b) for a in found for b in found if a != b and a in b]


def test_splits_share_no_name_and_train_has_ten_thousand_of_each_type():
    for entity_type in names.ENDINGS:
        pools = [set(names.names(entity_type, split)) for split in names.SPLITS]
        assert len(set.union(*pools)) == sum(map(len, pools))
        assert len(pools[0]) > 10_000 and min(map(len, pools[1:])) > 1_000


def test_tasks_of_different_splits_name_different_entities():
    config = MultihopConfig()
    seen = {}
    for split in names.SPLITS:
        texts = []
        for index in range(COUNT):
            task = generate(split, index, SEED, config)
            texts += [*task.messages, *task.distractors, task.query]
        seen[split] = capitalised(" ".join(texts))
        assert len(seen[split]) > COUNT
        assert {names.split_of(name) for name in seen[split]} == {split}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]


def test_the_structure_of_an_episode_says_what_its_texts_say(episodes):
    assert {m.kind for e in episodes for m in e.messages} == {"fact", "change", "noise"}
    for episode in episodes:
        task = episode.task
        assert tuple(m.text for m in episode.messages) == task.messages
        assert tuple(m.text for m in episode.distractors) == task.distractors
        assert episode.chain == tuple(map(sentence, episode.facts)) == task.supporting_facts
        assert capitalised(task.query) == set(episode.query_entities)
        for message in episode.messages:
            meaning = understand(message.text)
            assert (meaning is None) == (message.kind == "noise") == (message.fact is None)
            if meaning:
                relation, parts = meaning
                assert sentence(message.fact) == canonical([(relation, parts["s"], parts["o"])])[0]
                assert message.previous_object == parts.get("p")
                assert ("p" in parts) == (message.kind == "change")


def test_another_process_with_another_hash_seed_makes_the_same_tasks():
    program = (
        "from agemem_jax.tasks.multihop import *\n"
        "for split in ('train', 'validation', 'test'):\n"
        "    for index in (0, 1, 2, 99999): "
        f"print(generate_episode(split, index, {SEED}, MultihopConfig()))\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    here = "".join(
        f"{generate_episode(split, index, SEED, MultihopConfig())}\n"
        for split in names.SPLITS
        for index in (0, 1, 2, 99999)
    )
    assert outputs == [here, here]


def test_seed_split_and_index_each_change_the_task():
    config = MultihopConfig()
    queries = {
        generate(split, index, seed, config).query
        for split in names.SPLITS
        for index in range(5)
        for seed in range(5)
    }
    assert len(queries) == 3 * 5 * 5


def test_the_configuration_bounds_messages_and_sets_fractions():
    plain = MultihopConfig(
        min_messages=0, max_messages=2, num_distractors=0, change_probability=0.0,
        comparison_fraction=1.0, noise_probability=0.0,
    )  # fmt: skip
    for index in range(50):
        task = generate("train", index, 0, plain)
        assert len(task.messages) == 2 and task.category == "comparison"
        assert not task.stale_facts and not task.distractors
    chatty = MultihopConfig(
        min_messages=5, max_messages=6, change_probability=1.0, comparison_fraction=0.0,
        noise_probability=1.0,
    )  # fmt: skip
    for index in range(50):
        task = generate("train", index, 0, chatty)
        assert len(task.messages) == 6 and task.category == "bridge" and len(task.stale_facts) == 1
        assert sum(understand(message) is None for message in task.messages) == 3


def test_about_half_of_the_facts_change_and_three_tenths_compare():
    tasks = [generate("train", index, 5, MultihopConfig()) for index in range(2000)]
    # Five standard deviations of a binomial of 2000 draws are 0.056 and 0.051.
    assert abs(sum(bool(t.stale_facts) for t in tasks) / 2000 - 0.5) < 0.056
    assert abs(sum(t.category == "comparison" for t in tasks) / 2000 - 0.3) < 0.052


@pytest.mark.parametrize(
    ("arguments", "sentence_part"),
    [
        ({"change_probability": 1.5}, "change_probability must lie in [0, 1], not 1.5"),
        ({"noise_probability": "often"}, "noise_probability must lie in [0, 1], not 'often'"),
        ({"num_distractors": 1.5}, "num_distractors must be an integer, not 1.5"),
        ({"num_distractors": -1}, "num_distractors must lie in [0, 50], not -1"),
        ({"tasks_per_history": 41}, "tasks_per_history must lie in [1, 40], not 41"),
        ({"max_messages": 2}, "max_messages must be at least 3 when change_probability is 0.5"),
        ({"min_messages": 9}, "min_messages must lie between 0 and max_messages (5), not 9"),
    ],
)
def test_a_wrong_configuration_is_named_in_one_sentence(arguments, sentence_part):
    with pytest.raises(ValueError, match=re.escape(sentence_part)):
        MultihopConfig(**arguments)


def test_a_source_gives_the_tasks_of_its_split_and_nothing_beyond():
    source = MultihopSource("validation", 4, 3, MultihopConfig())
    assert len(source) == 4
    assert [source[i] for i in range(4)] == [
        generate("validation", i, 3, MultihopConfig()) for i in range(4)
    ]
    for index in (-1, 4):
        with pytest.raises(IndexError, match="outside a source of 4 tasks"):
            source[index]
    with pytest.raises(ValueError, match="one of train, validation, test, not 'dev'"):
        MultihopSource("dev", 4)
    with pytest.raises(ValueError, match="must not be negative"):
        generate("train", -1, 0, MultihopConfig())


def test_tasks_share_a_long_history_in_which_no_name_means_two_things():
    config, alone = MultihopConfig(tasks_per_history=20), MultihopConfig()
    block = [generate("test", index, 4, config) for index in range(20)]
    (messages,) = {task.messages for task in block}
    assert generate("test", 20, 4, config).messages != messages
    assert len({task.task_id for task in block} | {generate("test", 0, 4, alone).task_id}) == 21
    named = [set(re.findall(r"[A-Z][a-z]{4,}", " ".join(t.supporting_facts))) for t in block]
    assert sum(map(len, named)) == len(set().union(*named)), "no name in two tasks"
    said = [understand(message) for message in messages]
    facts = [fact for task in block for fact in (*task.supporting_facts, *task.stale_facts)]
    assert sum(meaning is not None for meaning in said) == len(facts)
    for task in block:  # a change comes behind what it changes
        for stale in task.stale_facts:
            old = stale.rstrip(".").split()[-1]
            places = [n for n, m in enumerate(messages) if old in m and stale.split()[0] in m]
            now = next(f for f in task.supporting_facts if f.split()[0] == stale.split()[0])
            assert len(places) == 2 and now.rstrip(".").split()[-1] in messages[places[1]]
