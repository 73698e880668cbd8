"""What /metrics tells Prometheus: requests, tokens, times, and how busy slots and queue are."""

import math
from collections.abc import Sequence

import prometheus_client as prometheus

from agemem_jax.serving.server.replies import Reply
from agemem_jax.serving.server.scheduler import Scheduler

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, scheduler: Scheduler):
        self.registry = prometheus.CollectorRegistry()
        self._scheduler = scheduler

        def make(kind, name, text, labels=(), **options):
            return kind(f"agemem_{name}", text, labels, registry=self.registry, **options)

        self.requests = make(
            prometheus.Counter, "requests", "Answered requests.", ("path", "status")
        )
        self.prompt_tokens = make(prometheus.Counter, "prompt_tokens", "Tokens of prompts.")
        self.cached_tokens = make(
            prometheus.Counter, "cached_tokens", "Tokens of prompts that caches held."
        )
        self.sampled_tokens = make(prometheus.Counter, "sampled_tokens", "Tokens of responses.")
        self.first_token = make(
            prometheus.Histogram, "first_token_seconds",
            "From a request's submission to its first tokens.", buckets=_SECONDS,
        )  # fmt: skip
        self.seconds = make(
            prometheus.Histogram, "request_seconds",
            "From a request's submission to its last token.", buckets=_SECONDS,
        )  # fmt: skip
        for name, text in (("waiting", "Requests that wait for a slot."),
                           ("running", "Slots that are in use."), ("slots", "Slots.")):  # fmt: skip
            gauge = make(prometheus.Gauge, name, text)
            gauge.set_function(lambda name=name: getattr(scheduler.load, name))
        self._usual = 1.0  # seconds that a request takes, the latest counting most

    def count(self, prompt_tokens: int, replies: Sequence[Reply], seconds: float) -> None:
        """A request was answered to its end."""
        self.prompt_tokens.inc(prompt_tokens * len(replies))
        self.cached_tokens.inc(sum(reply.cached for reply in replies))
        self.sampled_tokens.inc(sum(reply.tokens for reply in replies))
        self.seconds.observe(seconds)
        self._usual += 0.1 * (seconds - self._usual)

    def wait_estimate(self) -> int:
        """Whole seconds after which a slot is likely to be free."""
        load = self._scheduler.load
        return max(1, min(60, math.ceil(self._usual * load.waiting / max(1, load.slots))))

    def render(self) -> tuple[bytes, str]:
        """The text for Prometheus, and its content type."""
        return prometheus.generate_latest(self.registry), prometheus.CONTENT_TYPE_LATEST
