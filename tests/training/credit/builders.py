"""Groups of hand-written episodes, whose prompts, steps and calls are told step by step."""

import collections

import numpy as np

from agemem_jax.protocol.events import ToolEvent
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.trajectory import Segment, Trajectory, TranscriptEntry
from agemem_jax.training.advantages import group_advantages
from agemem_jax.training.credit.rule import Episode, Group
from tests.rewards.builders import TASK

# One token for each character, as ids of its code point.
PROMPT = 7


def decode(ids):
    return "".join(chr(each) for each in ids)


def trajectory(*steps, events=(), task=TASK):
    """An episode of steps (stage, prompt number, response), a segment for each."""
    segments, transcript = [], []
    for number, (stage, prompt, response) in enumerate(steps):
        ids = [PROMPT, prompt, *map(ord, response)]
        sampled = np.array([False, False, *[True] * len(response)])
        segments.append(
            Segment(
                np.array(ids, np.int32), sampled, np.where(sampled, number, -1).astype(np.int32),
                np.where(sampled, -0.5, 0.0).astype(np.float32),
            )
        )  # fmt: skip
        transcript.append(TranscriptEntry(stage, number, "act", response))
        transcript.append(TranscriptEntry(stage, number + 1, "tool_result", "Fine."))
    return Trajectory(task, segments, list(events), transcript, [2] * len(steps), {})


def episode(total, *steps, place=0, events=(), task_reward=None, **fields):
    components = {"task": total if task_reward is None else task_reward}
    played = trajectory(*steps, events=events)
    return Episode(played, Reward(total, components, {}), place, decode, **fields)


def stored(step, memory_id, content, effect="added", stage=1):
    return ToolEvent(
        stage, step, "Add_memory", {}, ok=True, effect=effect, memory_id=memory_id, content=content
    )


def compare(values):
    values = np.asarray(values, float)
    if len(values) < 2:
        return np.zeros(len(values), np.float32)
    return group_advantages(values[None])[0]


def group(*episodes):
    return Group(list(episodes), compare, collections.Counter())


def by_definition(values):
    """(x - mean) / (std + 1e-6), with the deviation of a sample; zeros where all are equal."""
    values = np.asarray(values, float)
    if len(values) < 2 or values.max() == values.min():
        return np.zeros(len(values))
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return (values - mean) / (deviation + 1e-6)


def scored(rule, one, judge):
    """The group with what the rule's first hook says of each of its episodes."""
    for each in one.episodes:
        each.score = rule.score_episode(each, judge)
    return one
