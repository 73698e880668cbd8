"""Train, evaluate and serve LLM agents that manage their own memory, in JAX."""

__version__ = "0.1.0"  # setup.cfg reads it from here
