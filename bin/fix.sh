#!/usr/bin/env bash
# Mends what bin/lint.sh complains of, as far as that can be done mechanically.
# Exit codes: 0 all that can be is mended, 1 something is left to a person, 69 no suitable Python.
set -euo pipefail

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' bin/fix.sh
    return
  fi
  bin/venv.sh --dev
  if command -v shfmt >/dev/null; then shfmt -i 2 -ci -w bin/*.sh .ci/run; fi
  .venv/bin/ruff format
  .venv/bin/ruff check --fix
}

main "$@"
