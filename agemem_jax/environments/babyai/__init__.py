"""BabyAI, a world of rooms with doors, keys, balls and boxes, told and played in words.

`sight.py` says what is seen, `moves.py` what can be done, `expert.py` plays it well,
`simulator.py` is all that knows minigrid, and `environment.py` puts them together.
"""

from agemem_jax.environments.babyai.environment import BabyAI

__all__ = ["BabyAI"]
