#!/usr/bin/env bash
# Checks style, types, floors and shell scripts; changes nothing. bin/fix.sh mends what it can.
# Exit codes: 0 all is clean, 1 something is not (all is checked nevertheless), 69 no suitable Python.
set -euo pipefail

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' bin/lint.sh
    return
  fi
  bin/debian.sh
  bin/venv.sh --dev
  PATH=$PWD/.venv/bin:$PATH
  local status=0
  ruff check || status=1
  ruff format --check || status=1
  mypy || status=1
  lint-imports || status=1
  local scripts=(bin/*.sh deploy/*.sh .ci/run)
  if command -v shellcheck >/dev/null && command -v shfmt >/dev/null; then
    shellcheck "${scripts[@]}" || status=1
    shfmt -i 2 -ci -d "${scripts[@]}" || status=1
  elif [[ ${CI-} == true ]]; then
    echo "lint.sh: install shellcheck and shfmt" >&2
    status=1
  else
    echo "lint.sh: the shell scripts were not checked: install shellcheck and shfmt" >&2
  fi
  return "$status"
}

main "$@"
