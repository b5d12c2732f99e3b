#!/usr/bin/env bash
# Runs the tests: bin/test.sh [--fast] [options and paths for pytest].
# Without options all of them, two at a time; --fast leaves out the slow ones and runs three at a time.
# As root on Debian it installs the programs they want; elsewhere tests whose program is missing are
# skipped with the reason, and fail where CI=true.
# Exit codes: pytest's, 69 there is no suitable Python, 100 apt-get failed.
set -euo pipefail

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' bin/test.sh
    return
  fi
  bin/debian.sh
  bin/venv.sh --dev
  if [[ ${1-} == --fast ]]; then
    shift
    set -- -m "not slow" --numprocesses=3 --dist=loadgroup "$@"
  elif (($# == 0)); then
    set -- --numprocesses=2 --dist=loadgroup
  fi
  exec .venv/bin/python -m pytest "$@"
}

main "$@"
