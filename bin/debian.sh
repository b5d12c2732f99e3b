#!/usr/bin/env bash
# Installs the Debian packages that tests and checks want and that are missing; does nothing unless
# root on Debian. Called by test.sh and lint.sh. Exit codes: 0, or apt-get's.
set -euo pipefail

missing() {
  command -v dbus-daemon >/dev/null || echo dbus
  command -v logrotate >/dev/null || echo logrotate
  command -v msgfmt >/dev/null || echo gettext
  command -v redis-server >/dev/null || echo redis-server
  command -v shellcheck >/dev/null || echo shellcheck
  command -v shfmt >/dev/null || echo shfmt
  command -v systemd-nspawn >/dev/null || echo systemd-container
  # Not the first on PATH alone: deploy/install.sh takes the system's own.
  /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

main() {
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then return; fi
  local packages
  packages=$(missing)
  if [[ -z $packages ]]; then return; fi
  # Where systemd runs, the package would start its server, now and at every boot.
  local is_service=
  if [[ $packages == *redis-server* && -d /run/systemd/system ]]; then is_service=1; fi
  if [[ $is_service ]]; then systemctl mask --runtime redis-server; fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086 # one word for each package
  apt-get install -qq -y --no-install-recommends $packages
  if [[ $is_service ]]; then
    systemctl disable redis-server
    systemctl unmask --runtime redis-server
  fi
}

main "$@"
