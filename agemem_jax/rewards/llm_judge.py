"""A judge behind any OpenAI-compatible endpoint, with the offline judge as its net.

A batch runs concurrently within bounds; transient failures are retried with growing,
random pauses; known prompts are answered from a disk cache. A reply that says no score,
or an endpoint that cannot be reached, is logged, counted and replaced by the offline
score, never by 0. The key comes from the environment at the moment of use; it is in no
attribute, message or cache.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import diskcache
import openai
import tenacity
from absl import logging

from agemem_jax.rewards import judge_replies
from agemem_jax.rewards.judges import AnswerItem, EntriesItem, Judge, OfflineJudge, StorageItem

API_KEY_VARIABLE = "AGEMEM_JUDGE_API_KEY"


@dataclasses.dataclass(frozen=True)
class LLMJudgeConfig:
    """Where the judge is and how patiently it is asked.

    Attributes:
      base_url: of the endpoint, such as "http://localhost:8000/v1".
      model: the model that the endpoint serves.
      timeout: of one attempt, in seconds.
      max_concurrency: requests under way at once.
      cache_dir: where scores are kept from run to run; None keeps none.
      max_attempts: tries of one request.
      first_pause, longest_pause: bounds of the random pauses between tries, in seconds.
      give_up_after: failed requests in a row after which the rest of a batch is scored
        offline right away, so that a dead endpoint costs a moment and not hours.
      max_tokens: limit of a reply.
      api_key_variable: the environment variable that holds the key. An endpoint without
        keys needs none.
    """

    base_url: str
    model: str
    timeout: float = 60.0
    max_concurrency: int = 8
    cache_dir: str | None = None
    max_attempts: int = 4
    first_pause: float = 0.5
    longest_pause: float = 20.0
    give_up_after: int = 8
    max_tokens: int = 256
    api_key_variable: str = API_KEY_VARIABLE

    def __post_init__(self):
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"judge.base_url is {self.base_url!r}; it must start with http:// or https://."
            )
        if not self.model:
            raise ValueError("judge.model is empty; it must name a model of the endpoint.")
        for name in ("max_concurrency", "max_attempts", "give_up_after", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"judge.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("timeout", "first_pause", "longest_pause"):
            if not getattr(self, name) > 0:
                raise ValueError(f"judge.{name} is {getattr(self, name)}; it must be above 0.")


@dataclasses.dataclass
class JudgeStats:
    """What became of the questions to the judge, counted by distinct prompt of a batch.

    Attributes:
      calls: requests to the endpoint, retries not counted.
      cache_hits: questions that the cache answered.
      unknown: replies without a readable score; the offline score stands in.
      failures: requests that failed or were given up; the offline score stands in.
    """

    calls: int = 0
    cache_hits: int = 0
    unknown: int = 0
    failures: int = 0


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

    def score_answers(self, items: Sequence[AnswerItem]) -> list[float]:
        """How right each answer is."""
        return self._score(items, judge_replies.answer_prompt, self._fallback.score_answers)

    def score_storage(self, items: Sequence[StorageItem]) -> list[float]:
        """How useful and true each entry is."""
        return self._score(items, judge_replies.storage_prompt, self._fallback.score_storage)

    def score_relevance(self, items: Sequence[EntriesItem]) -> list[float]:
        """How well each set of retrieved entries serves its question."""
        return self._score(items, judge_replies.relevance_prompt, self._fallback.score_relevance)

    def score_memories(self, items: Sequence[EntriesItem]) -> list[float]:
        """How well each memory holds the supporting facts (MQ)."""
        return self._score(items, judge_replies.memories_prompt, self._fallback.score_memories)

    def _score(
        self,
        items: Sequence[Any],
        write_prompt: Callable[[Any], str],
        score_offline: Callable[[Sequence[Any]], list[float]],
    ) -> list[float]:
        prompts = [write_prompt(item) for item in items]
        distinct = list(dict.fromkeys(prompts))
        with self._open_cache() as cache:
            known = {prompt: cache.read(self._cache_key(prompt)) for prompt in distinct}
            asked = [prompt for prompt in distinct if known[prompt] is None]
            self.stats.cache_hits += len(distinct) - len(asked)
            if asked:
                for prompt, score in zip(asked, _run(self._ask_all(asked)), strict=True):
                    known[prompt] = score
                    if score is not None:
                        cache.write(self._cache_key(prompt), score)
        missing = [i for i, prompt in enumerate(prompts) if known[prompt] is None]
        scores = [known[prompt] for prompt in prompts]
        if missing:
            logging.warning(
                "The judge at %s scored %d of %d items; the others got their offline score.",
                self.config.base_url, len(items) - len(missing), len(items),
            )  # fmt: skip
            offline = score_offline([items[i] for i in missing])
            for index, score in zip(missing, offline, strict=True):
                scores[index] = score
        return scores

    # --- Endpoint ----------------------------------------------------------------

    async def _ask_all(self, prompts: Sequence[str]) -> list[float | None]:
        """Scores of the prompts, None where there is none."""
        config = self.config
        # Without an explicit key the client would send that of another service.
        key = os.environ.get(config.api_key_variable) or "none"
        gate = asyncio.Semaphore(config.max_concurrency)
        failed_in_a_row = 0

        async def ask(client: openai.AsyncOpenAI, prompt: str) -> float | None:
            nonlocal failed_in_a_row
            async with gate:
                if failed_in_a_row >= config.give_up_after:
                    self.stats.failures += 1
                    return None
                self.stats.calls += 1
                try:
                    reply = await self._request(client, prompt)
                except Exception as error:  # whatever the endpoint does, training goes on
                    failed_in_a_row += 1
                    self.stats.failures += 1
                    logging.warning("Judge request failed: %s", _describe(error))
                    return None
                failed_in_a_row = 0
            score = judge_replies.parse_score(reply)
            if score is None:
                self.stats.unknown += 1
                logging.warning("The judge's reply states no score: %r", reply[:120])
            return score

        async with openai.AsyncOpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout, max_retries=0
        ) as client:
            return list(await asyncio.gather(*(ask(client, prompt) for prompt in prompts)))

    async def _request(self, client: openai.AsyncOpenAI, prompt: str) -> str:
        config = self.config
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(config.max_attempts),
            wait=tenacity.wait_random_exponential(
                multiplier=config.first_pause, max=config.longest_pause
            ),
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                # The client's own limit is per read; this one is for the whole attempt.
                async with asyncio.timeout(config.timeout):
                    completion = await client.chat.completions.create(
                        model=config.model,
                        messages=[{"role": "user", "content": prompt}],
                        temperature=0.0,
                        max_tokens=config.max_tokens,
                    )
                return _text_of(completion)
        raise AssertionError("unreachable: the last attempt returns or raises")

    # --- Cache -------------------------------------------------------------------

    def _cache_key(self, prompt: str) -> str:
        text = json.dumps([self.config.model, prompt])
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()

    @contextlib.contextmanager
    def _open_cache(self) -> Iterator["_Cache"]:
        if self.config.cache_dir is None:
            yield _Cache(None)
            return
        try:
            store = diskcache.Cache(self.config.cache_dir)
        except _CACHE_ERRORS as error:
            logging.warning("The judge's cache %s is unusable: %s", self.config.cache_dir, error)
            yield _Cache(None)
            return
        with contextlib.closing(store):
            yield _Cache(store)


_CACHE_ERRORS = (OSError, sqlite3.Error, diskcache.Timeout)


class _Cache:
    """Scores by key; one that fails is as good as none."""

    def __init__(self, store: diskcache.Cache | None):
        self._store = store

    def read(self, key: str) -> float | None:
        if self._store is None:
            return None
        try:
            value = self._store.get(key)
        except _CACHE_ERRORS as error:
            logging.warning("The judge's cache cannot be read: %s", error)
            return None
        return value if isinstance(value, float) and 0 <= value <= 1 else None

    def write(self, key: str, score: float) -> None:
        if self._store is None:
            return
        try:
            self._store.set(key, score)
        except _CACHE_ERRORS as error:
            logging.warning("The judge's cache cannot be written: %s", error)


def _run(coroutine: Coroutine[Any, Any, list[float | None]]) -> list[float | None]:
    """Runs to the end, also where the caller's thread has an event loop (a server)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (openai.APIConnectionError, TimeoutError)):
        return True
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and (status in (408, 409, 425, 429) or status >= 500)


def _describe(error: BaseException) -> str:
    """Type and status alone: a server's message may repeat the key."""
    status = getattr(error, "status_code", None)
    return type(error).__name__ + (f" (status {status})" if status else "")


def _text_of(completion: Any) -> str:
    """The reply's text; "" for a reply without one, as endpoints of all kinds send."""
    choices = getattr(completion, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    content = getattr(message, "content", None)
    return content if isinstance(content, str) else ""
