"""Train, evaluate and serve LLM agents that manage their own memory, in JAX."""
