"""Several end tokens: any of them ends a response, is trained as sampled, and stays in context."""

import dataclasses

import jax
import numpy as np

from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.rollout import decoding
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.generation import GenerationRequest
from agemem_jax.rollout.requests import Generated
from agemem_jax.tasks.task import Question, Task
from tests.rollout.test_engine import prompts, run

NEVER = -1
TASK = Task("t", Question("Who works at Pelmor?", "Ana"))


def request(slot, prompt, max_tokens=24):
    return GenerationRequest(slot, tuple(prompt), max_tokens, jax.random.key(slot), 1.0)


def test_a_response_ends_at_whichever_stop_token_is_sampled_first(model, weights, engine_config):
    asked = [request(slot, prompt) for slot, prompt in enumerate(prompts(20, 33, 9))]
    endless = Engine(engine_config, model, NEVER)
    endless.load(weights)
    whole = {slot: each.token_ids for slot, each in run(endless, *asked).items()}
    stops = (whole[0][9], whole[1][4], whole[2][14])
    engine = Engine(engine_config, model, stops)
    engine.load(weights)
    done = run(engine, *asked)
    ends = set()
    for slot, tokens in whole.items():
        first = next(i for i, token in enumerate(tokens) if token in stops)
        assert done[slot].token_ids == tokens[: first + 1]
        assert len(done[slot].log_probs) == first + 1
        ends.add(tokens[first])
    assert len(ends) > 1
    # The slot's next prompt finds all that was fed in the cache.
    before = dataclasses.replace(engine.stats)
    again = (*asked[0].prompt, *done[0].token_ids, 7)
    run(engine, request(0, again))
    assert engine.stats.prefilled_tokens - before.prefilled_tokens == 1


def test_several_stop_tokens_compile_no_more_programs_than_one(model, weights, engine_config):
    def programs(stop):
        before = decoding.decode_chunk._cache_size()
        engine = Engine(engine_config, model, stop)
        engine.load(weights)
        for length in (5, 40, 200):
            run(engine, *[request(s, p) for s, p in enumerate(prompts(length, length + 9))])
        return decoding.decode_chunk._cache_size() - before

    assert programs((11, 12, 13)) == programs(14)


class Ending:
    """A backend whose every response ends with the token `end`."""

    slots = 1

    def __init__(self, chat, end, *replies):
        self._chat, self._end, self._replies, self.prompts = chat, end, list(replies), []

    def begin(self, slot, rollout):
        pass

    def submit(self, slot, request):
        self.prompts.append(request.prompt)

    def step(self):
        ids = (*self._chat.encode(self._replies.pop(0)), self._end)
        return [(0, Generated(ids, -np.ones(len(ids), np.float32)))]


def test_the_end_token_that_was_sampled_is_trained_and_the_next_prompt_goes_on_behind_it(
    chat, store, episode_config
):
    end = chat.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    chat = ChatEncoder(chat.tokenizer, CHATML, [end])
    assert end in chat.stop_ids
    config = dataclasses.replace(episode_config, stages=(3,), max_rounds=2)
    calls = '[{"name": "Retrieve_memory", "arguments": {"query": "q"}}]'
    first = f"<think>x</think><tool_call>{calls}</tool_call>"
    backend = Ending(chat, end, first, "<think>x</think><answer>Ana</answer>")
    rules = EpisodeRules(config, chat)
    (trajectory,) = run_episodes([Rollout(TASK, jax.random.key(0))], rules, store, backend)
    assert not [event for event in trajectory.events if "Format" in type(event).__name__]
    assert trajectory.events[-1].answer == "Ana"
    (segment,) = trajectory.segments  # the second prompt continues the first response
    assert list(backend.prompts[1]) == segment.token_ids[: len(backend.prompts[1])].tolist()
    places = np.flatnonzero(segment.token_ids == end)
    assert segment.step_index[places].tolist() == [0, 1]
    np.testing.assert_array_equal(segment.log_probs[places], -1.0)
    # The turn is closed as the chat format does, by tokens that are no part of the action.
    stop, (first, _) = chat.stop_id, places
    assert segment.token_ids[first + 1] == stop and not segment.action_mask[first + 1]
    assert all("<|endoftext|>" not in entry.text for entry in trajectory.transcript)
