"""Stands in for experiments/train.py in the tests of restarts: ends as it is told to.

WORKDIR/plan.json has a list for each process, with an entry for each start: a number is the
exit status, "kill" the end by SIGKILL, "save" waits for SIGTERM and then exits with 75, and
"hang" ignores it. The last entry holds for all further starts. What a process was started
with is written to WORKDIR/PROCESS.START.
"""

import json
import os
import pathlib
import signal
import sys
import time

PATIENCE = 60.0  # seconds; no test waits as long


def main(arguments):
    values = dict(a.removeprefix("--").split("=", 1) for a in arguments if "=" in a)
    workdir = pathlib.Path(values["workdir"])
    process = int(values.get("process_id", os.environ.get("SLURM_PROCID", 0)))
    start = len(list(workdir.glob(f"{process}.*")))
    plan = json.loads((workdir / "plan.json").read_text())[process]
    action = plan[min(start, len(plan) - 1)]
    signals = {"save": lambda *_: sys.exit(75), "hang": signal.SIG_IGN}
    if action in signals:
        signal.signal(signal.SIGTERM, signals[action])
    told = {"arguments": arguments, "port": os.environ.get("JAX_COORDINATOR_PORT")}
    unfinished = workdir / f"unfinished.{process}"  # tests read what is there while this is written
    unfinished.write_text(json.dumps(told))
    unfinished.rename(workdir / f"{process}.{start}")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action in signals:
        time.sleep(PATIENCE)
        return f"Error: SIGTERM did not come within {PATIENCE:.0f} s."
    return int(action)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
