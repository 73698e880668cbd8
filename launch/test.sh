#!/usr/bin/env bash
# Sets up the environment, lints, and runs the tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-dev.txt
ruff check .
ruff format --check .
python -m pytest "$@"
