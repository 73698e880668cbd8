"""Stands in for experiments/train.py where a test wants little: one sum over all processes.

    python tests/launch/sum_over_processes.py --distributed                  # finds its cluster
    python tests/launch/sum_over_processes.py --coordinator=127.0.0.1:5000 \
        --num_processes=2 --process_id=0
"""

import jax
import numpy as np
from absl import app, flags
from jax.experimental import multihost_utils

_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is.")
flags.DEFINE_bool("distributed", False, "Find the above by the cluster's manager.")


def main(argv):
    jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    numbers = multihost_utils.process_allgather(np.asarray(jax.process_index() + 1))
    print(
        f"process {jax.process_index()} of {jax.process_count()}: sum {numbers.sum()}, "
        f"{jax.local_device_count()} of {jax.device_count()} devices, arguments {argv[1:]}",
        flush=True,
    )


if __name__ == "__main__":
    app.run(main)
