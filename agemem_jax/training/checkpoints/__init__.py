"""Checkpoints of a run: what is saved, when, where, and how it is read back."""
