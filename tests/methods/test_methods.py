"""Methods under test as changes to the episode."""

import pytest

from agemem_jax.methods.registry import find_method, find_methods
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.tools.registry import TOOL_NAMES

BASE = EpisodeConfig(max_rounds=5)


def test_agemem_and_its_ablation_without_rl_play_by_the_rules_of_the_run():
    for name, trained in (("agemem", True), ("agemem_norl", False)):
        assert find_method(name).episode(BASE) == BASE
        assert find_method(name).trained is trained


def test_any_method_can_have_the_weights_after_rl():
    own, trained = find_method("no_memory"), find_method("no_memory+rl")
    assert trained.trained and not own.trained and trained.title == "No-Memory + RL"
    assert find_method("agemem+rl").title == "AgeMem", "it says so already"

    class Player:
        def rules(self, episode):
            return episode

    assert trained.rules(Player(), BASE) == own.rules(Player(), BASE)
    with pytest.raises(ValueError, match="There is no method 'nothing'"):
        find_method("nothing+rl")


def test_rag_variants_retrieve_at_each_step_and_have_no_context_tools():
    for name in ("agemem_rag", "agemem_norl_rag"):
        rules = find_method(name).episode(BASE)
        assert rules.retrieve_each_step and rules.max_rounds == 5
        assert set(rules.tools) == {"Add_memory", "Update_memory", "Delete_memory",
                                    "Retrieve_memory"}  # fmt: skip


def test_without_memory_nothing_is_told_before_the_query_and_no_tool_works():
    rules = find_method("no_memory").episode(BASE)
    assert rules.stages == (2, 3) and rules.tools == ()
    assert set(BASE.tools) == set(TOOL_NAMES)


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(ValueError, match="no method 'agemen'; it must be one of .*no_memory"):
        find_methods(["agemem", "agemen"])
