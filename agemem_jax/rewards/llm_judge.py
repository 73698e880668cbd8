"""A judge behind any OpenAI-compatible endpoint, with the offline judge as its net.

Questions run concurrently within bounds, those that `ask_ahead` names while the episodes of
others still run; transient failures are retried with growing,
random pauses; known prompts are answered from a cache. A reply that says no score, or an
endpoint that cannot be reached, is logged, counted and replaced by the offline score,
never by 0, and never cached. The key comes from the environment at the moment of use; it
is in no attribute, message or cache.
"""

import asyncio
import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from absl import logging

from agemem_jax.rewards import judge_prompts, judge_replies, judge_requests
from agemem_jax.rewards.judge_cache import ScoreCache
from agemem_jax.rewards.judge_config import LLMJudgeConfig
from agemem_jax.rewards.judge_session import Fate, JudgeSession
from agemem_jax.rewards.judges import AnswerItem, EntriesItem, Judge, OfflineJudge, StorageItem

__all__ = ["JudgeStats", "LLMJudge", "LLMJudgeConfig"]

# Part of every key of the cache: raise it when replies are read in another way.
_VERSION = 2
_TRIAL = AnswerItem("What is the capital of France?", "Paris", "Paris")


@dataclasses.dataclass
class JudgeStats:
    """What became of the questions to the judge.

    Calls, cache hits, unknown replies and failures are counted by distinct prompt of a
    batch, scores and fallbacks by item. A call is counted when it is made, the rest when
    scores are asked for.

    Attributes:
      scores: that were asked for.
      calls: requests to the endpoint, retries not counted.
      cache_hits: questions that the cache answered.
      unknown: replies without a readable score.
      failures: requests that failed or were given up.
      fallbacks: scores that are the offline judge's, since there was no other.
    """

    scores: int = 0
    calls: int = 0
    cache_hits: int = 0
    unknown: int = 0
    failures: int = 0
    fallbacks: int = 0


class LLMJudge:
    """A `Judge` that asks a language model.

    Attributes:
      config: what it was built with.
      stats: counts since it was built.
    """

    def __init__(self, config: LLMJudgeConfig, fallback: Judge | None = None):
        self.config = config
        self.stats = JudgeStats()
        self._fallback = fallback or OfflineJudge()
        self._answer_prompt = judge_prompts.find_prompt(config.prompts[0])
        self._cache = ScoreCache(config.cache_dir)
        self._taken = JudgeStats()
        self._explained: set[str] = set()
        self._asks = True
        self._session: JudgeSession | None = None
        self._under_way: dict[str, concurrent.futures.Future[Fate]] = {}  # by prompt

    def score_answers(self, items: Sequence[AnswerItem]) -> list[float]:
        """How right each answer is, by the first of `config.prompts`."""
        return self._score(items, self._answer_prompt, self._fallback.score_answers)

    def answer_scorers(self) -> dict[str, Callable[[Sequence[AnswerItem]], list[float]]]:
        """By each of `config.prompts`."""

        def scorer(name: str) -> Callable[[Sequence[AnswerItem]], list[float]]:
            prompt = judge_prompts.find_prompt(name)
            return lambda items: self._score(items, prompt, self._fallback.score_answers)

        return {name: scorer(name) for name in self.config.prompts}

    def description(self) -> dict[str, Any]:
        """Model, endpoint and prompts, with all that these say."""
        return {
            "model": self.config.model,
            "base_url": self.config.base_url,
            "temperature": self.config.temperature,
            "prompts": judge_prompts.identify_all(self.config.prompts),
        }

    def score_storage(self, items: Sequence[StorageItem]) -> list[float]:
        """How useful and true each entry is."""
        return self._score(items, judge_prompts.storage_prompt, self._fallback.score_storage)

    def score_relevance(self, items: Sequence[EntriesItem]) -> list[float]:
        """How well each set of retrieved entries serves its question."""
        return self._score(items, judge_prompts.relevance_prompt, self._fallback.score_relevance)

    def score_memories(self, items: Sequence[EntriesItem]) -> list[float]:
        """How well each memory holds the supporting facts (MQ)."""
        return self._score(items, judge_prompts.memories_prompt, self._fallback.score_memories)

    def ask_ahead(
        self,
        answers: Sequence[AnswerItem] = (),
        storage: Sequence[StorageItem] = (),
        relevance: Sequence[EntriesItem] = (),
    ) -> None:
        """Starts to ask about items that will be scored later, and does not wait."""
        prompts = [
            *map(self._answer_prompt, answers),
            *map(judge_prompts.storage_prompt, storage),
            *map(judge_prompts.relevance_prompt, relevance),
        ]
        if self._asks:
            self._start([p for p in prompts if self._cache.read(self._cache_key(p)) is None])

    def take_counts(self) -> dict[str, int]:
        """The counts of `JudgeStats` since this was last called."""
        now, before = dataclasses.asdict(self.stats), dataclasses.asdict(self._taken)
        self._taken = JudgeStats(**now)
        return {name: count - before[name] for name, count in now.items()}

    def try_endpoint(self) -> str | None:
        """Has one right answer scored, past the cache and the counts.

        Returns:
          None if that went well, else what to change, as a sentence without its end.
        """

        async def try_it() -> judge_requests.Reply:
            async with judge_requests.open_client(self.config) as client:
                prompt = self._answer_prompt(_TRIAL)
                return await judge_requests.ask(client, self.config, prompt)

        try:
            reply = _run(try_it())
        except Exception as error:  # whatever the endpoint does is told in the same way
            return judge_requests.explain(error, self.config)
        score = judge_replies.parse_score(reply.text, cut=reply.cut)
        if score is None:
            return judge_requests.explain_unknown(reply, self.config)
        if score < 0.5:
            logging.warning(
                "The judge at %s gives a right answer %.2f.", self.config.base_url, score
            )
        return None

    def stop_asking(self) -> None:
        """From now on every score is the offline judge's, counted as failure and fallback."""
        self._asks = False

    def _score(
        self,
        items: Sequence[Any],
        write_prompt: Callable[[Any], str],
        score_offline: Callable[[Sequence[Any]], list[float]],
    ) -> list[float]:
        self.stats.scores += len(items)
        prompts = [write_prompt(item) for item in items]
        known = self._known_scores(list(dict.fromkeys(prompts)))
        missing = [i for i, prompt in enumerate(prompts) if known[prompt] is None]
        scores = [known[prompt] for prompt in prompts]
        if missing:
            self.stats.fallbacks += len(missing)
            logging.warning(
                "The judge at %s scored %d of %d items; the others got their offline score.",
                self.config.base_url, len(items) - len(missing), len(items),
            )  # fmt: skip
            offline = score_offline([items[i] for i in missing])
            for index, score in zip(missing, offline, strict=True):
                scores[index] = score
        return scores

    def _known_scores(self, prompts: Sequence[str]) -> dict[str, float | None]:
        """The judge's scores of distinct prompts, from the cache or the endpoint."""
        if not self._asks:
            self.stats.failures += len(prompts)
            return dict.fromkeys(prompts)
        known = {prompt: self._cache.read(self._cache_key(prompt)) for prompt in prompts}
        asked = [prompt for prompt in prompts if known[prompt] is None]
        self.stats.cache_hits += len(prompts) - len(asked)
        if asked:
            self._start(asked)
            new = {prompt: self._judged(self._under_way.pop(prompt).result()) for prompt in asked}
            if not self._under_way:
                self._session.close()
                self._session = None
            self._cache.write({self._cache_key(p): s for p, s in new.items() if s is not None})
            known |= new
        return known

    def _start(self, prompts: Sequence[str]) -> None:
        """Asks what is not under way yet."""
        for prompt in prompts:
            if prompt in self._under_way:
                continue
            if self._session is None:
                self._session = JudgeSession(self.config, self._count_call)
            self._under_way[prompt] = self._session.start(prompt)

    def _count_call(self) -> None:
        self.stats.calls += 1

    def _judged(self, fate: Fate) -> float | None:
        """The score that a reply states; None, counted and logged, where there is none."""
        if not isinstance(fate, judge_requests.Reply):
            self.stats.failures += 1
            if fate is not None:
                self._log_once(judge_requests.explain(fate, self.config))
            return None
        score = judge_replies.parse_score(fate.text, cut=fate.cut)
        if score is None:
            self.stats.unknown += 1
            cut = " and was cut off" if fate.cut else ""
            logging.warning("The judge's reply states no score%s: %r", cut, fate.text[:120])
        return score

    def _log_once(self, problem: str) -> None:
        """The same for hundreds of requests is said once, and counted each time."""
        if problem not in self._explained:
            self._explained.add(problem)
            logging.warning("%s.", problem)

    def _cache_key(self, prompt: str) -> str:
        """A digest of all that a score depends on."""
        config = self.config
        text = json.dumps(
            [
                _VERSION, config.base_url.rstrip("/"), config.model, config.temperature,
                config.max_tokens, config.max_tokens_parameter, config.reply_format, prompt,
            ]
        )  # fmt: skip
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs to the end, also where the caller's thread has an event loop (a server)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()
