#!/usr/bin/env bash
# Starts, stops, replaces and shows the worker processes of this host, for operators and cron:
#
#   bin/start_celery.sh start|stop|restart|status [-w N] [-l LEVEL] [--via systemd|supervisor|pid]
#                       [--timeout S] [--force] [--json] [-h]
#
# Exit codes: 0 done, 1 not all workers do what was asked, 2 the command line is wrong, 69 qaworker is
# not installed here, 75 Redis is away or another start or stop is at work, 77 it takes root, 78 a
# setting is wrong; status: 0 running, 1 degraded, 3 stopped, 4 unknown.
set -euo pipefail

main() {
  local script root installed=/etc/qaworker/qaworker.env
  # It may be called by a link from anywhere on PATH.
  script=$(readlink -f "${BASH_SOURCE[0]}")
  root=${script%/bin/*}
  # What is relative, such as var/run, is so to here.
  cd "$root"
  if [[ -x venv/bin/python ]]; then
    # What deploy/install.sh installed has its settings there; a loss of them is not to be overlooked.
    export QAWORKER_ENV_FILE=${QAWORKER_ENV_FILE-$installed}
    exec venv/bin/python -m qaworker.cli.service "$@"
  fi
  if [[ -x .venv/bin/python ]]; then exec .venv/bin/python -m qaworker.cli.service "$@"; fi
  echo "start_celery.sh: qaworker is not installed in $root: run bin/venv.sh, or sudo deploy/install.sh" >&2
  exit 69
}

main "$@"
