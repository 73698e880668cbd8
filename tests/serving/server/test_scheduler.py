import queue
import threading

import pytest

from agemem_jax.serving.server.scheduler import Failure, OutOfTime, QueueFull, Sampling, Update


def prompt(chat, number, words=20):
    return tuple(chat.encode_plain(" ".join(f"word{number} {i}" for i in range(words))))


class Listener:
    """Collects what a scheduler tells."""

    def __init__(self):
        self.queue = queue.Queue()

    def __call__(self, update):
        self.queue.put(update)

    def result(self):
        tokens = []
        while True:
            update = self.queue.get(timeout=60)
            if isinstance(update, Failure):
                raise update
            tokens += update.token_ids
            if update.done:
                return tokens, update.cached


def ask(scheduler, prompt, **sampling):
    listener = Listener()
    ticket = scheduler.submit(
        prompt, Sampling(**{"max_tokens": 16, "seed": 0, "temperature": 0.0} | sampling), listener
    )
    return ticket, listener


def test_greedy_answers_are_those_given_alone_whatever_runs_beside(scheduler, chat):
    prompts = [prompt(chat, number, 5 + 9 * number) for number in range(9)]
    alone = [ask(scheduler, each)[1].result()[0] for each in prompts]
    beside = [ask(scheduler, each, temperature=1.5, seed=7) for each in prompts[::2]]
    together = [ask(scheduler, each)[1] for each in prompts]
    assert [listener.result()[0] for listener in together] == alone
    for _, listener in beside:
        listener.result()


def test_a_seed_gives_the_same_answer_and_another_seed_another(scheduler, chat):
    def tokens(seed):
        return ask(scheduler, prompt(chat, 1), temperature=1.0, seed=seed)[1].result()[0]

    assert tokens(3) == tokens(3) == tokens(3 + 2**32)
    assert tokens(3) != tokens(-4)


def test_tokens_come_chunk_by_chunk_and_the_last_update_tells_what_caches_held(scheduler, chat):
    _, first = ask(scheduler, prompt(chat, 2))
    updates = [first.queue.get(timeout=60) for _ in range(2)]
    assert [len(update.token_ids) for update in updates] == [8, 8]
    assert [update.done for update in updates] == [False, True]
    assert isinstance(updates[0], Update) and len(updates[0].log_probs) == 8
    assert ask(scheduler, prompt(chat, 2))[1].result()[1] == len(prompt(chat, 2)) - 1


def test_a_conversation_goes_on_in_the_slot_that_holds_it(scheduler, chat):
    one = prompt(chat, 3)
    tokens, _ = ask(scheduler, one)[1].result()
    copied = scheduler.engine.stats.copied_tokens
    _, cached = ask(scheduler, (*one, *tokens, 9, 9))[1].result()
    assert cached == len(one) + len(tokens) - 1
    assert scheduler.engine.stats.copied_tokens == copied


def test_a_cancelled_request_frees_its_slot_and_is_told_no_more(scheduler, chat):
    running = [ask(scheduler, prompt(chat, n), max_tokens=500) for n in range(4)]
    waiting = [ask(scheduler, prompt(chat, n), max_tokens=500) for n in range(3)]
    for _, listener in running:
        listener.queue.get(timeout=60)
    for ticket, _ in (*running, *waiting):
        scheduler.cancel(ticket)
    assert len(ask(scheduler, prompt(chat, 5))[1].result()[0]) == 16
    for _, listener in running:
        while not listener.queue.empty():
            assert not listener.queue.get().done
    assert all(listener.queue.empty() for _, listener in waiting)
    assert scheduler.load.running == scheduler.load.waiting == 0


def test_a_full_queue_refuses_all_of_what_comes_at_once(make_scheduler, chat):
    scheduler = make_scheduler(max_waiting=1)  # not started: nothing leaves the queue
    for _ in range(4 + 1 - 2):
        ask(scheduler, prompt(chat, 0))
    requests = [(prompt(chat, 0), Sampling(1, 0), Listener())] * 3
    with pytest.raises(QueueFull, match="3 requests wait"):
        scheduler.submit_all(requests)
    assert scheduler.load.waiting == 3
    scheduler.submit_all(requests[:2])


def test_a_request_that_takes_too_long_ends_with_a_sentence(make_scheduler, chat):
    scheduler = make_scheduler(max_seconds=0.0)
    scheduler.start()
    with pytest.raises(OutOfTime, match="longer than 0 seconds"):
        ask(scheduler, prompt(chat, 0))[1].result()
    scheduler.close()


def test_what_fails_in_the_engine_ends_what_ran_and_nothing_else(scheduler, chat, monkeypatch):
    alone = ask(scheduler, prompt(chat, 4))[1].result()[0]
    broken = threading.Event()
    step = scheduler.engine.step

    def fails_once():
        if not broken.is_set():
            broken.set()
            raise MemoryError("no room")
        return step()

    monkeypatch.setattr(scheduler.engine, "step", fails_once)
    with pytest.raises(Failure, match="MemoryError"):
        ask(scheduler, prompt(chat, 5))[1].result()
    assert ask(scheduler, prompt(chat, 4))[1].result()[0] == alone


def test_an_engine_that_cannot_be_mended_leaves_nobody_waiting(make_scheduler, chat, monkeypatch):
    scheduler = make_scheduler()
    monkeypatch.setattr(scheduler.engine, "step", lambda: 1 / 0)
    monkeypatch.setattr(scheduler.engine, "release", lambda: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    listeners = [ask(scheduler, prompt(chat, n))[1] for n in range(6)]
    scheduler.start()
    for listener in listeners:
        with pytest.raises(Failure):
            listener.result()
    scheduler.close()
    assert not scheduler.alive
    with pytest.raises(QueueFull):
        ask(scheduler, prompt(chat, 0))


def test_closing_tells_everybody(make_scheduler, chat):
    scheduler = make_scheduler()
    listeners = [ask(scheduler, prompt(chat, n), max_tokens=500)[1] for n in range(6)]
    scheduler.start()
    scheduler.close()
    for listener in listeners:
        with pytest.raises(Failure, match="closing"):
            listener.result()
    with pytest.raises(QueueFull):
        ask(scheduler, prompt(chat, 0))
