#!/usr/bin/env bash
# Looks once at Redis, the queues and the workers, and tells people what is wrong; for cron, and for
# Nagios and its likes. The units of systemd run `qaworker monitor` themselves.
#
#   bin/celery_monitor.sh [--mail ADDRESS] [--slack URL] [--webhook URL] [--heal] [-h, for the rest]
#
# What is relative, such as var/log or a file of addresses, is so to the installation.
# Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN; one line on standard output says why.
set -euo pipefail

main() {
  local script root installed=/etc/qaworker/qaworker.env
  # It may be called by a link from anywhere on PATH.
  script=$(readlink -f "${BASH_SOURCE[0]}")
  root=${script%/bin/*}
  cd "$root"
  if [[ -x venv/bin/python ]]; then
    # What deploy/install.sh installed has its settings there; a loss of them is not to be overlooked.
    export QAWORKER_ENV_FILE=${QAWORKER_ENV_FILE-$installed}
    exec venv/bin/python -m qaworker monitor "$@"
  fi
  if [[ -x .venv/bin/python ]]; then exec .venv/bin/python -m qaworker monitor "$@"; fi
  echo "QAWORKER UNKNOWN: not installed in $root: run bin/venv.sh, or sudo deploy/install.sh"
  exit 3
}

main "$@"
