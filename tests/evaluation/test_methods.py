"""Methods under test as changes to the episode."""

import pytest

from agemem_jax.evaluation.evaluate import find_methods
from agemem_jax.evaluation.methods import METHODS
from agemem_jax.protocol.tools import TOOL_NAMES
from agemem_jax.rollout.episode import EpisodeConfig

BASE = EpisodeConfig(max_rounds=5)


def test_agemem_and_its_ablation_without_rl_play_by_the_rules_of_the_run():
    for name, trained in (("agemem", True), ("agemem_norl", False)):
        assert METHODS[name].episode(BASE) == BASE
        assert METHODS[name].trained is trained


def test_rag_variants_retrieve_at_each_step_and_have_no_context_tools():
    for name in ("agemem_rag", "agemem_norl_rag"):
        rules = METHODS[name].episode(BASE)
        assert rules.retrieve_each_step and rules.max_rounds == 5
        assert set(rules.tools) == {"Add_memory", "Update_memory", "Delete_memory",
                                    "Retrieve_memory"}  # fmt: skip


def test_without_memory_nothing_is_told_before_the_query_and_no_tool_works():
    rules = METHODS["no_memory"].episode(BASE)
    assert rules.stages == (2, 3) and rules.tools == ()
    assert set(BASE.tools) == set(TOOL_NAMES)


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(ValueError, match="'agemen'; known: no_memory"):
        find_methods(["agemem", "agemen"])
