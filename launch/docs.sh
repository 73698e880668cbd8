#!/usr/bin/env bash
# Builds the documentation site into build/site, or shows it while it is written.
#
#   bash launch/docs.sh                # build/site/index.html opens from the folder, without a network
#   bash launch/docs.sh serve          # on http://127.0.0.1:8000, anew with every change
#
# Ends with an error where a link leads nowhere. More arguments go to mkdocs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt requirements-docs.txt
if (($#)); then
  exec mkdocs "$@"
fi
exec mkdocs build --strict
