#!/usr/bin/env bash
# Makes .venv from the exact versions in requirements.txt, with --dev from requirements-dev.txt too;
# does nothing when it is up to date. The other scripts here call it.
# Exit codes: 0 .venv is ready, 69 there is no suitable Python, else pip's.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

fail() {
  echo "${0##*/}: $1" >&2
  exit 69
}

is_recent() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the name of a Python that can make a virtual environment.
find_python() {
  local name recent=
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if ! is_recent "$name"; then continue; fi
    if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$name"
      return
    fi
    recent=${recent:-$name}
  done
  if [[ $recent ]]; then
    local version
    version=$("$recent" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    fail "$version has no venv module: install $version-venv (Debian, Ubuntu: apt-get install python3-venv)"
  fi
  fail "Python 3.11 or newer is needed: install python3.11 and python3.11-venv (Debian, Ubuntu), or python@3.12 (Homebrew)"
}

# A virtual environment does not survive being moved, nor the removal of its Python.
is_usable() {
  "$venv/bin/python" -c 'import pip' 2>/dev/null && grep -qF "$venv/" "$venv/bin/pip"
}

install() {
  if ! is_usable; then
    local python
    python=$(find_python)
    echo "making .venv with $("$python" --version); this takes a minute, once" >&2
    "$python" -m venv --clear "$venv"
  fi
  # Compiled when imported: most of it never is.
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-compile)
  "${pip[@]}" "$@"
  # Keeps what setuptools writes on the way out of the tree.
  printf '[egg_info]\negg_base = %s\n' "$venv" >"$venv/build.cfg"
  DIST_EXTRA_CONFIG=$venv/build.cfg "${pip[@]}" --no-deps --editable "$root"
}

main() {
  cd "$root"
  local files=(requirements.txt) stamp=$venv/made-from
  if [[ ${1-} == --dev ]]; then
    files+=(requirements-dev.txt)
    stamp=$venv/made-from-dev
  fi
  if cat pyproject.toml "${files[@]}" | cmp -s - "$stamp" && is_usable; then return; fi
  install "${files[@]/#/--requirement=}"
  cat pyproject.toml "${files[@]}" >"$stamp"
}

main "$@"
