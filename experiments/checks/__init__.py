"""Proofs that take minutes or hours, and are run by hand; tests have their short forms."""
