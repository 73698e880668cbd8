"""The trained agent in use: memories that last, conversations, endpoints.

May import every other room but training.
"""
