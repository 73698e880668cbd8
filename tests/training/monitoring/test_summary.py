"""What became of the questions to a judge, among the metrics of an iteration."""

from agemem_jax.parallel import processes
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.training.monitoring.summary import with_judge_counts
from tests.rewards.endpoint import RIGHT, WRONG, Endpoint, judge_at


def test_every_iteration_tells_its_own_counts_over_all_processes(monkeypatch):
    other = {
        "scores": 10, "calls": 9, "cache_hits": 1, "unknown": 2, "failures": 3, "fallbacks": 5,
    }  # fmt: skip
    monkeypatch.setattr(processes, "gather", lambda value: [value, other])
    with Endpoint(lambda number, body: (200, "hm" if number == 1 else "0.5")) as endpoint:
        judge = judge_at(endpoint.url, max_concurrency=1)
        judge.score_answers([RIGHT, WRONG])
        first = with_judge_counts({"reward": 1.0}, judge)
        second = with_judge_counts({"reward": 1.0}, judge)
    assert first == {
        "reward": 1.0, "judge/scores": 12, "judge/calls": 11, "judge/cache_hits": 1,
        "judge/unknown": 3, "judge/failures": 3, "judge/fallbacks": 6,
    }  # fmt: skip
    assert second["judge/scores"] == 10 and second["judge/fallbacks"] == 5


def test_a_memory_quality_that_no_model_judged_says_so():
    judge = judge_at("http://127.0.0.1:9/v1")
    values = {"reward": 1.0, "memory_quality": 0.5}
    told = with_judge_counts(values, judge)
    assert told["memory_quality_offline"] == 0.5 and "memory_quality" not in told
    assert with_judge_counts(values, OfflineJudge()) == values
