"""TC: how often the policy called each tool, in one way for training and evaluation."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from agemem_jax.protocol.events import ToolEvent
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class CallCounts:
    """Calls that the policy tried in one episode, those that failed included.

    What the episode retrieves by itself (`RetrievalEvent`) is no call.

    Attributes:
      by_tool: calls of each tool that was on offer. One of anything else stands nowhere here.
      calls: all calls.
      failed: those that did not do their work, of whatever name.
    """

    by_tool: Mapping[str, int]
    calls: int
    failed: int


def count_calls(trajectory: Trajectory) -> CallCounts:
    """The calls of one episode."""
    calls = [event for event in trajectory.events if isinstance(event, ToolEvent)]
    names = collections.Counter(call.name for call in calls)
    return CallCounts(
        by_tool={name: names[name] for name in trajectory.tools},
        calls=len(calls),
        failed=sum(not call.ok for call in calls),
    )


def calls_per_episode(episodes: Sequence[CallCounts]) -> dict[str, float]:
    """TC of section 4.1: the mean number of calls of each tool."""
    names = dict.fromkeys(name for each in episodes for name in each.by_tool)
    return {
        name: sum(each.by_tool.get(name, 0) for each in episodes) / len(episodes) for name in names
    }


def failed_share(episodes: Sequence[CallCounts]) -> float:
    """The share of all calls that failed, in [0, 1]; 0 without any call."""
    calls = sum(each.calls for each in episodes)
    return sum(each.failed for each in episodes) / max(1, calls)
