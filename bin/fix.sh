#!/usr/bin/env bash
# Mends what bin/lint.sh complains of, as far as that can be done mechanically.
# Exit codes: 0 all that can be is mended, 1 something is left to a person, 69 no suitable Python.
set -euo pipefail

# Brings the Japanese catalogue up to the messages in the code; what is new waits in it for words.
translate() {
  local place=qaworker/locale/ja/LC_MESSAGES template
  template=$(mktemp)
  find qaworker -name '*.py' | sort |
    xgettext --files-from=- --from-code=UTF-8 --add-location=file --output="$template"
  # A date would make every run a change.
  sed -i '/^"POT-Creation-Date/d' "$template"
  msgmerge --quiet --no-fuzzy-matching --no-wrap "$place/qaworker.po" "$template" |
    msgattrib --no-obsolete --no-wrap --output-file="$place/qaworker.po"
  rm "$template"
  msgcat "$place/qaworker.po" "$place/click.po" |
    msgfmt --check-format --output-file="$place/qaworker.mo" -
}

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if [[ ${1-} == -h || ${1-} == --help ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' bin/fix.sh
    return
  fi
  bin/venv.sh --dev
  if command -v shfmt >/dev/null; then shfmt -i 2 -ci -w bin/*.sh deploy/*.sh .ci/run; fi
  if command -v msgfmt >/dev/null; then translate; fi
  .venv/bin/ruff format
  .venv/bin/ruff check --fix
}

main "$@"
