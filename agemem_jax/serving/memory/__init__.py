"""Memories that last: those of many users in one SQLite file."""
