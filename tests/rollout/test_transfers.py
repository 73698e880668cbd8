"""What a request costs the host is counted in transfers to the device."""

import jax
import numpy as np
import pytest

from agemem_jax.rollout import decoding
from agemem_jax.rollout.driver import PolicyBackend, Rollout
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.requests import Generate

FUNCTIONS = ("admit", "prefill", "copy", "decode_chunk")


@pytest.fixture
def calls(monkeypatch):
    """By function, how many arrays of the host each of its calls was given."""
    counted = {name: [] for name in FUNCTIONS}

    def watch(name):
        function = getattr(decoding, name)

        def watched(*arguments, **options):
            leaves = jax.tree.leaves((arguments, options))
            counted[name].append(sum(isinstance(leaf, np.ndarray) for leaf in leaves))
            with jax.transfer_guard_host_to_device("allow"):
                return function(*arguments, **options)

        monkeypatch.setattr(decoding, name, watched)

    for name in FUNCTIONS:
        watch(name)
    return counted


def test_requests_reach_the_device_in_one_transfer_however_many_they_are(
    model, weights, engine_config, calls
):
    engine = Engine(engine_config, model, 2)
    engine.load(weights)
    backend = PolicyBackend(engine)
    prompts = {slot: (5, 6, 7 + slot) for slot in range(4)}
    for slot in prompts:
        backend.begin(slot, Rollout(None, jax.random.key(slot)))
    for count, slots in enumerate((range(4), range(1), range(3))):
        for made in calls.values():
            made.clear()
        # Nothing else goes to the device: no key is folded, no array made.
        with jax.transfer_guard_host_to_device("disallow"):
            for slot in slots:
                backend.submit(slot, Generate(None, prompts[slot], 4, 1, count))
            while engine.pending:
                backend.step()
        assert calls["admit"] == [1]
        assert max(calls["prefill"], default=0) <= 4  # sources, slots, tokens, positions
        assert max(calls["copy"], default=0) <= 2
        assert set(calls["decode_chunk"]) == {0}
