"""The policy in use: agents and memories that last, OpenAI's interfaces, continuous batching.

May import every other room but training.
"""
