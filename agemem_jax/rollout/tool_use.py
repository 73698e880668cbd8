"""What the calls of a response do to the context and to the long-term memory.

One half of an episode; stages and turns, the other one, are in `episode.py`. Whatever is
wrong with a call becomes an event and a sentence that the policy reads, never an error.
"""

import abc
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from agemem_jax.memory import operations
from agemem_jax.protocol import prompts
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.protocol.events import Event, ToolEvent
from agemem_jax.protocol.messages import Context, Kind, Message
from agemem_jax.protocol.parser import InvalidCall
from agemem_jax.protocol.tools import ToolCall
from agemem_jax.rollout.requests import MemoryRequest, Request, SimilarityRequest

if TYPE_CHECKING:
    from agemem_jax.rollout.episode import EpisodeConfig

Play = Generator[Request, Any, Any]


class ToolUse(abc.ABC):
    """The state of an episode that tools read and change, and the tools.

    Attributes:
      config: the rules.
      chat: the chat format.
      context: C_t.
      memory: contents of M_t by id, as the events say.
      events: what happened so far.
      stage: 1, 2 or 3.
      summaries: how many were written for the current response.
    """

    config: "EpisodeConfig"
    chat: ChatEncoder
    context: Context
    memory: dict[str, str]
    events: list[Event]
    stage: int
    summaries: int

    @abc.abstractmethod
    def generate(self, context: Context, max_tokens: int, purpose: str = "act") -> Play:
        """Asks for a response to `context`, records it, returns it as a message."""

    def run_calls(self, calls: Sequence[ToolCall | InvalidCall], step: int) -> Play:
        """Runs the calls of one response, so many of them; what the policy reads, in lines."""
        self.summaries = 0
        lines = []
        limit = self.config.max_calls
        for call in calls[:limit]:
            event = yield from self.run_tool(call, step)
            self.events.append(event)
            lines.append(prompts.tool_result_text(event))
        beyond = calls[limit:]
        if beyond:
            error = f"Only the first {limit} calls of a reply are run; {len(beyond)} were not."
            lines.append(prompts.error_text(error))
            tokens = self.context.num_tokens
            for call in beyond:
                base = self.event_base(call, step, tokens)
                self.events.append(ToolEvent(**base, ok=False, error=error, tokens_after=tokens))
        return lines

    def event_base(self, call: ToolCall | InvalidCall, step: int, tokens: int) -> dict[str, Any]:
        arguments = call.arguments if isinstance(call, ToolCall) else {"raw": call.raw}
        return {
            "stage": self.stage, "step": step, "name": call.name, "arguments": arguments,
            "tokens_before": tokens,
        }  # fmt: skip

    def run_tool(self, call: ToolCall | InvalidCall, step: int) -> Play:
        """Runs one call; whatever is wrong with it becomes an event, never an error."""
        before = self.context.num_tokens
        base = self.event_base(call, step, before)
        if not isinstance(call, ToolCall):
            return ToolEvent(**base, ok=False, error=call.error, tokens_after=before)
        if call.name not in self.config.tools:
            error = f"{call.name} is not available here; use one of {list(self.config.tools)}."
            return ToolEvent(**base, ok=False, error=error, tokens_after=before)
        if call.name == "Filter_context":
            outcome = yield from self.filter_context(call.arguments["criteria"])
        elif call.name == "Summary_context":
            outcome = yield from self.summarise_context(call.arguments["span"])
        else:
            outcome = yield from self.use_memory(call)
        return ToolEvent(**base, **outcome, tokens_after=self.context.num_tokens)

    def use_memory(self, call: ToolCall) -> Play:
        arguments = call.arguments
        match call.name:
            case "Add_memory":
                metadata = dict(arguments.get("metadata") or {})
                if arguments.get("memory_type"):
                    metadata["memory_type"] = arguments["memory_type"]
                operation = operations.Add(content=arguments["content"], metadata=metadata)
            case "Update_memory":
                operation = operations.Update(
                    memory_id=arguments["memory_id"], content=arguments["content"],
                    metadata=arguments.get("metadata"),
                )  # fmt: skip
            case "Delete_memory":
                operation = operations.Delete(memory_id=arguments["memory_id"])
            case "Retrieve_memory":
                operation = operations.Retrieve(
                    query=arguments["query"],
                    top_k=arguments.get("top_k") or self.config.top_k,
                    metadata_filter=arguments.get("metadata_filter"),
                )
        result = yield MemoryRequest(operation)
        content = arguments.get("content") if result.ok else None
        if result.ok and call.name == "Delete_memory":
            self.memory.pop(result.memory_id)
        elif result.ok and content is not None:
            self.memory[result.memory_id] = content
        return {
            "ok": result.ok, "changed": result.changed, "error": result.error,
            "memory_id": result.memory_id, "content": content, "retrieved": result.entries,
        }  # fmt: skip

    def editable(self) -> list[int]:
        """Messages a context tool may touch: all but pinned ones and the call itself."""
        last = len(self.context.messages) - 1
        return [i for i, m in enumerate(self.context.messages) if not m.pinned and i != last]

    def filter_context(self, criteria: str) -> Play:
        """Removes the messages whose similarity to `criteria` is at least θ (section 3.2)."""
        candidates = self.editable()
        texts = tuple(self.context.messages[i].text for i in candidates)
        scores = (yield SimilarityRequest(texts, criteria)) if texts else []
        removed = frozenset(
            index
            for index, score in zip(candidates, scores, strict=True)
            if score >= self.config.filter_threshold
        )
        self.context = self.context.without(removed)
        content = f"{len(removed)}"
        return {"ok": True, "changed": bool(removed), "content": content}

    def summarise_context(self, span: str) -> Play:
        """Replaces messages by a summary that the policy writes as a step of its own."""
        candidates = self.editable()
        if span != "all":
            candidates = candidates[-int(span) :]
        if not candidates:
            return {"ok": False, "changed": False, "error": "There is no message to summarise."}
        chosen = Context(tuple(self.context.messages[i] for i in candidates))
        prompt = Context(
            (
                self.chat.message("system", prompts.summary_prompt(), Kind.SYSTEM),
                self.chat.message("user", chosen.text, Kind.TASK_MESSAGE),
            )
        )
        room = self.config.max_context_tokens - len(self.chat.generation_prompt)
        if prompt.num_tokens > room:
            error = f"Choose fewer messages: these take {prompt.num_tokens} tokens at once."
            return {"ok": False, "changed": False, "error": error}
        limit = self.config.max_summaries
        if self.summaries >= limit:
            written = "summary is" if limit == 1 else "summaries are"
            error = f"Only {limit} {written} written for one reply."
            return {"ok": False, "changed": False, "error": error}
        self.summaries += 1
        written = yield from self.generate(prompt, self.config.max_summary_tokens, "summary")
        text = written.text.strip()
        if not text:
            return {"ok": False, "changed": False, "error": "The summary was empty."}
        summary = self.summary_message(text)
        self.context = self.context.replace(frozenset(candidates), summary)
        return {"ok": True, "changed": True, "content": text}

    def summary_message(self, text: str) -> Message:
        return self.chat.message("user", prompts.summary_text(text), Kind.SUMMARY)
