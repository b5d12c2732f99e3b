#!/usr/bin/env bash
# Installs the Debian packages that tests and checks want and that are missing; does nothing unless
# root on Debian. Called by test.sh and lint.sh. Exit codes: 0, or apt-get's.
set -euo pipefail

# Packages that bring a server, each with a unit of its own name.
readonly SERVERS=" prometheus prometheus-alertmanager prometheus-node-exporter redis-server "

missing() {
  command -v dbus-daemon >/dev/null || echo dbus
  command -v logrotate >/dev/null || echo logrotate
  command -v msgfmt >/dev/null || echo gettext
  command -v openssl >/dev/null || echo openssl
  command -v prometheus >/dev/null || echo prometheus
  command -v prometheus-alertmanager >/dev/null || echo prometheus-alertmanager
  command -v prometheus-node-exporter >/dev/null || echo prometheus-node-exporter
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
  # Where systemd runs, a package would start its server, now and at every boot.
  local package services=
  if [[ -d /run/systemd/system ]]; then
    for package in $packages; do
      if [[ $SERVERS == *" $package "* ]]; then services+=" $package"; fi
    done
  fi
  # shellcheck disable=SC2086 # one word for each package
  if [[ $services ]]; then systemctl mask --runtime $services; fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086
  apt-get install -qq -y --no-install-recommends $packages
  if [[ $services ]]; then
    # shellcheck disable=SC2086
    systemctl disable $services
    # shellcheck disable=SC2086
    systemctl unmask --runtime $services
  fi
}

main "$@"
