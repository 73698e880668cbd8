"""A process that is killed while it writes loses nothing that it acknowledged."""

from experiments.checks import kill_memory_writes


def test_every_acknowledged_write_outlives_a_kill(tmp_path):
    """experiments/checks/kill_memory_writes.py kills two hundred times."""
    assert kill_memory_writes.run(5, str(tmp_path), seed=3) >= 5
