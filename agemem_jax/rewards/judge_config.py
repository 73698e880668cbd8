"""Options of the judges: who scores, and what an endpoint is asked.

`JudgeConfig` is the section `judge` of a run's configuration; as an `LLMJudgeConfig` it
goes to `LLMJudge` as it is.
"""

import dataclasses
import math
import urllib.parse
from typing import Any

from agemem_jax.rewards import judge_prompts

API_KEY_VARIABLE = "AGEMEM_JUDGE_API_KEY"
TOKEN_PARAMETERS = ("max_tokens", "max_completion_tokens")
REPLY_FORMATS = ("json_object", "json_schema", "text")


@dataclasses.dataclass(frozen=True)
class LLMJudgeConfig:
    """Where the judge is, what it is sent, and how patiently it is asked.

    Every judge is asked in its prompt for `{"score": x}`, and a reply in words is read as
    well (see `judge_replies`). `reply_format` says what `response_format` adds to that:
    "json_object" is what OpenAI, vLLM, SGLang, llama.cpp and Ollama all take, hence the
    default. LM Studio refuses it and takes "json_schema", which holds the model to exactly
    this object but is unknown to older servers. "text" sends no `response_format` at all.

    Attributes:
      base_url: of the endpoint, such as "http://localhost:8000/v1".
      model: the model that the endpoint serves.
      prompts: by which it is asked about answers, by name in `judge_prompts` or as
        `package.module:attribute`. The first gives rewards and J; evaluations report all.
      temperature: of its replies; None sends none, as models that think demand.
      max_tokens: limit of a reply, thoughts included. A reply that was cut says no score.
      max_tokens_parameter: what carries this limit: "max_tokens" or, for OpenAI's newer
        models, "max_completion_tokens".
      reply_format: "json_object", "json_schema" or "text".
      timeout: of one attempt, in seconds.
      max_concurrency: requests under way at once.
      max_attempts: tries of one request.
      first_pause, longest_pause: bounds of the random pauses between tries, in seconds.
      give_up_after: failed requests in a row after which the rest of a batch is scored
        offline right away, so that a dead endpoint costs a moment and not hours.
      cache_dir: folder where scores are kept from run to run; None keeps none (in a run:
        a folder inside its work directory).
      api_key_variable: the environment variable that holds the key. An endpoint without
        keys needs none.
    """

    base_url: str
    model: str
    prompts: tuple[str, ...] = ("graded", "lenient")
    temperature: float | None = 0.0
    max_tokens: int = 1024
    max_tokens_parameter: str = "max_tokens"
    reply_format: str = "json_object"
    timeout: float = 60.0
    max_concurrency: int = 8
    max_attempts: int = 4
    first_pause: float = 0.5
    longest_pause: float = 20.0
    give_up_after: int = 8
    cache_dir: str | None = None
    api_key_variable: str = API_KEY_VARIABLE

    def __post_init__(self):
        self._check_settings()
        _check_url(self.base_url)
        if not isinstance(self.model, str) or not self.model.strip():
            raise ValueError(
                f"judge.model is {self.model!r}; it must name a model of the endpoint."
            )

    def _check_settings(self) -> None:
        """All but the endpoint, which an offline judge has none of."""
        for name in ("max_tokens", "max_concurrency", "max_attempts", "give_up_after"):
            value = _number(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"judge.{name} is {value}; it must be a whole number of at least 1."
                )
        for name in ("timeout", "first_pause", "longest_pause"):
            if _number(self, name) <= 0:
                raise ValueError(f"judge.{name} is {getattr(self, name)}; it must be above 0.")
        if self.temperature is not None and _number(self, "temperature") < 0:
            raise ValueError(
                f"judge.temperature is {self.temperature}; it must be 0 or more, or None to "
                "send none."
            )
        if not self.prompts or len(set(self.prompts)) < len(self.prompts):
            raise ValueError(
                f"judge.prompts is {self.prompts}; it must name one prompt or more, each once."
            )
        for name in self.prompts:
            try:
                judge_prompts.find_prompt(name)
            except ValueError as error:
                raise ValueError(f"judge.prompts: {error}") from error
        _check_choice(self, "max_tokens_parameter", TOKEN_PARAMETERS)
        _check_choice(self, "reply_format", REPLY_FORMATS)
        if not isinstance(self.api_key_variable, str) or not self.api_key_variable:
            raise ValueError(
                f"judge.api_key_variable is {self.api_key_variable!r}; it must name an "
                "environment variable."
            )
        if not isinstance(self.cache_dir, str | None):
            raise ValueError(f"judge.cache_dir is {self.cache_dir!r}; it must name a folder.")


@dataclasses.dataclass(frozen=True)
class JudgeConfig(LLMJudgeConfig):
    """Who scores answers and memories: the section `judge` of a run.

    Attributes:
      kind: "offline" (exact match, F1 and supporting facts) or "llm", which needs
        `base_url` and `model`.
      required: whether a run or an evaluation with an "llm" judge that fails when it is
        first tried is refused. It is by default, since scores of another judge than the
        one asked for answer another question; otherwise it begins on offline scores.
    """

    base_url: str = ""
    model: str = ""
    kind: str = "offline"
    required: bool = True

    def __post_init__(self):
        _check_choice(self, "kind", ("offline", "llm"))
        if not isinstance(self.required, bool):
            raise ValueError(f"judge.required is {self.required!r}; it must be True or False.")
        if self.kind == "offline":
            self._check_settings()
            return
        if not (self.base_url and self.model):
            raise ValueError("judge.kind is 'llm', which needs judge.base_url and judge.model.")
        super().__post_init__()

    @property
    def title(self) -> str:
        """The judge's name beside results."""
        return "offline" if self.kind == "offline" else f"{self.model} at {self.base_url}"


def _number(config: LLMJudgeConfig, name: str) -> float:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"judge.{name} is {value!r}; it must be a finite number.")
    return value


def _check_choice(config: LLMJudgeConfig, name: str, choices: tuple[str, ...]) -> None:
    value: Any = getattr(config, name)
    if value not in choices:
        raise ValueError(
            f"judge.{name} is {value!r}; it must be {' or '.join(map(repr, choices))}."
        )


def _check_url(url: Any) -> None:
    """Refuses what no server can be reached at; only a request tells whether one is there."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ValueError(f"judge.base_url is {url!r}; it must start with http:// or https://.")
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"judge.base_url is {url!r}, which is no address: {error}.") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "judge.base_url holds a user name or password, which would be written down with the "
            "run; keys are read from the environment variable that judge.api_key_variable names."
        )
    if not host or any(sign.isspace() for sign in url):
        raise ValueError(
            f"judge.base_url is {url!r}; it must name a host, as http://localhost:8000/v1 does."
        )
    if parts.query or parts.fragment:
        raise ValueError(f"judge.base_url is {url!r}; it must end before '?' and '#'.")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(
            f"judge.base_url is {url!r}; leave out /chat/completions, which is added to it."
        )
