#!/usr/bin/env bash
# Installs qaworker on a systemd host, from the checkout it lies in; run it as root. Run it again to
# upgrade, or after a change of QAWORKER_TASK_HARD_LIMIT_S. It starts nothing.
#
#   deploy/install.sh [--prefix DIR] [--workers N]   DIR is /opt/qaworker, N is 4 at first; then as before
#   deploy/install.sh --dry-run                      says what it would do, and does nothing
#   deploy/install.sh --uninstall                    stops all, and keeps settings, key, data and logs
#
# Exit codes: 0 done, 2 wrong usage, 69 no suitable Python or systemd, 77 not root, 78 a wrong
# setting in /etc/qaworker/qaworker.env, else those of what failed.
set -euo pipefail

source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=
workers=
action=install
is_dry=

etc=/etc/qaworker
units=/etc/systemd/system
wrapper=/usr/local/bin/qaworker
scripts=(start_celery.sh celery_monitor.sh)

fail() {
  echo "install.sh: $2" >&2
  exit "$1"
}

# Where the command on PATH says that it is installed, else the default.
find_prefix() {
  local found=
  if [[ -e $wrapper ]]; then found=$(sed -n 's|^exec \(.*\)/venv/bin/qaworker .*|\1|p' "$wrapper"); fi
  echo "${found:-/opt/qaworker}"
}

# LoadCredential= and its %d came with 250.
require_systemd() {
  local version
  if [[ ! -d /run/systemd/system ]]; then
    fail 69 "systemd does not run here: deploy/supervisord.conf is for hosts without it"
  fi
  version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  if [[ $version -lt 250 ]]; then fail 69 "systemd $version is too old: 250 is the oldest with what the units use"; fi
}

# Does it, or only says so.
run() {
  if [[ $is_dry ]]; then
    echo "would run: $*"
  else
    "$@"
  fi
}

# write FILE MODE: gives the file what is on standard input. Renamed into place: nobody reads a half.
write() {
  if [[ $is_dry ]]; then
    cat >/dev/null
    echo "would write: $1"
    return
  fi
  install -D -m "$2" /dev/stdin "$1.new"
  mv "$1.new" "$1"
}

# Units and scripts name the default prefix.
rendered() {
  sed "s|/opt/qaworker|$prefix|g" "$1"
}

# Not from PATH: root's own Python may lie where the user qaworker cannot read it.
find_python() {
  local python
  for python in /usr/bin/python3 /usr/local/bin/python3 /usr/{,local/}bin/python3.1[1-9]; do
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  fail 69 "no Python 3.11 or newer with venv in /usr/bin or /usr/local/bin: apt-get install python3 python3-venv"
}

add_user() {
  if id qaworker >/dev/null 2>&1; then return; fi
  run useradd --system --user-group --home-dir /var/lib/qaworker --no-create-home \
    --shell /usr/sbin/nologin qaworker
}

install_program() {
  local python
  python=$(find_python)
  if [[ ! -x $prefix/venv/bin/python ]]; then run "$python" -m venv --clear "$prefix/venv"; fi
  local pip=("$prefix/venv/bin/python" -m pip --disable-pip-version-check --quiet)
  run "${pip[@]}" install --requirement "$source/requirements.txt"
  # From a copy: what setuptools writes stays out of the checkout, and the copy holds no module that
  # a former build left.
  run install -d "$prefix/source"
  run cp -r "$source/"{pyproject.toml,README.md,LICENSE,qaworker} "$prefix/source"
  run "${pip[@]}" install --no-deps --force-reinstall "$prefix/source"
  run rm -rf "$prefix/source"
  local script
  for script in "${scripts[@]}"; do
    write "$prefix/bin/$script" 0755 <"$source/bin/$script"
    run ln -sf "$prefix/bin/$script" "/usr/local/bin/$script"
  done
  write "$prefix/deploy/supervisord.conf" 0644 <"$source/deploy/supervisord.conf"
}

# Settings and key are the operator's: what is there stays.
install_settings() {
  if [[ ! -e $etc/qaworker.env ]]; then
    write "$etc/qaworker.env" 0640 <"$source/deploy/qaworker.env"
    run chgrp qaworker "$etc/qaworker.env"
  fi
  if [[ ! -e $etc/openai_api_key ]]; then
    write "$etc/openai_api_key" 0600 </dev/null
  fi
}

# An operator's `qaworker workers` sees what the units see.
install_wrapper() {
  write "$wrapper" 0755 <<WRAPPER
#!/bin/sh
# qaworker with this installation's settings; those in the environment win.
export QAWORKER_ENV_FILE="\${QAWORKER_ENV_FILE-$etc/qaworker.env}"
if [ -r $etc/openai_api_key ] && [ -z "\${OPENAI_API_KEY-}" ]; then
  export OPENAI_API_KEY_FILE="\${OPENAI_API_KEY_FILE-$etc/openai_api_key}"
fi
exec $prefix/venv/bin/qaworker "\$@"
WRAPPER
}

install_units() {
  local unit
  for unit in "$source"/deploy/systemd/*; do
    rendered "$unit" | write "$units/${unit##*/}" 0644
  done
  local count=${workers:-4} names
  if [[ $workers || ! -e $units/qa-celery.service.d/workers.conf ]]; then
    names=$(seq -f 'qa-celery@%g.service' -s ' ' "$count")
    printf '# Written by install.sh --workers N; to be replaced as a whole.\n[Unit]\nWants=%s\n' "$names" |
      write "$units/qa-celery.service.d/workers.conf" 0644
  fi
  if [[ $is_dry ]]; then
    echo "would write: $units/qa-celery@.service.d/timeout.conf"
  else
    local timeout_s
    timeout_s=$("$wrapper" config --get QAWORKER_STOP_TIMEOUT_S)
    printf '# By install.sh, from QAWORKER_TASK_HARD_LIMIT_S.\n[Service]\nTimeoutStopSec=%s\n' "$timeout_s" |
      write "$units/qa-celery@.service.d/timeout.conf" 0644
  fi
  write /etc/tmpfiles.d/qaworker.conf 0644 <"$source/deploy/tmpfiles.d/qaworker.conf"
  run systemd-tmpfiles --create /etc/tmpfiles.d/qaworker.conf
  if [[ -d /etc/logrotate.d ]]; then
    rendered "$source/deploy/logrotate.d/qaworker" | write /etc/logrotate.d/qaworker 0644
  fi
  run systemctl daemon-reload
  # Where it runs, it is to run what was just installed: nobody but Prometheus notices.
  run systemctl try-restart qa-celery-exporter.service
}

say_next() {
  if systemctl --quiet is-active 'qa-celery@*'; then
    echo "installed; the workers go on as they are until: systemctl reload qa-celery (one after the other)"
    return
  fi
  echo "installed; now"
  echo "  1. write the API key into $etc/openai_api_key, and what differs from the defaults into $etc/qaworker.env"
  echo "  2. qaworker check"
  echo "  3. systemctl enable --now qa-celery"
}

# Whoever owns workers here, and until they have drained: they run what is about to be removed.
stop_all() {
  if [[ -e $units/qa-celery.service ]]; then
    run systemctl disable --now qa-celery-monitor.timer qa-celery-exporter.service qa-celery.service
    # A stop of an umbrella that has failed does not wait for them.
    run systemctl stop 'qa-celery@*.service'
  fi
  if [[ -x $prefix/venv/bin/python && -x $prefix/bin/start_celery.sh ]]; then
    run "$prefix/bin/start_celery.sh" stop
  fi
}

uninstall() {
  stop_all
  local unit
  for unit in "$source"/deploy/systemd/*; do
    run rm -f "$units/${unit##*/}"
  done
  run rm -rf "$units/qa-celery.service.d" "$units/qa-celery@.service.d"
  run systemctl daemon-reload
  run rm -f /etc/logrotate.d/qaworker /etc/tmpfiles.d/qaworker.conf "$wrapper" "${scripts[@]/#//usr/local/bin/}"
  run rm -rf "$prefix/venv" "$prefix/bin" "$prefix/deploy" /run/qaworker /run/qaworker.env
  # For what is somebody else's in it.
  if [[ -d $prefix ]]; then run rmdir --ignore-fail-on-non-empty "$prefix"; fi
  if [[ $is_dry ]]; then return; fi
  local kept="$etc, /var/lib/qaworker, /var/log/qaworker"
  # Written by nobody but the operator: whom the monitor is to tell.
  if [[ -d $units/qa-celery-monitor.service.d ]]; then kept+=", $units/qa-celery-monitor.service.d"; fi
  echo "removed; kept: $kept and the user qaworker"
}

parse() {
  while (($#)); do
    case $1 in
      --prefix | --workers)
        if [[ -z ${2-} ]]; then fail 2 "$1 wants a value"; fi
        declare -g "${1#--}=$2"
        shift
        ;;
      --dry-run) is_dry=1 ;;
      --uninstall) action=uninstall ;;
      -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
      *) fail 2 "unknown option $1; -h lists them" ;;
    esac
    shift
  done
  prefix=${prefix:-$(find_prefix)}
  if [[ ! $prefix =~ ^/[A-Za-z0-9._/-]+$ ]]; then
    fail 2 "--prefix wants an absolute path of letters, digits, and . _ - /"
  fi
  # As start_celery.sh takes them.
  if [[ $workers && (! $workers =~ ^[1-9][0-9]{0,2}$ || $workers -gt 256) ]]; then
    fail 2 "--workers wants a number from 1 to 256"
  fi
}

main() {
  parse "$@"
  if [[ ! $is_dry && $(id -u) != 0 ]]; then fail 77 "run it as root, or with sudo"; fi
  if [[ ! $is_dry ]]; then require_systemd; fi
  umask 022
  if [[ $action == uninstall ]]; then
    uninstall
    return
  fi
  add_user
  install_settings
  install_program
  install_wrapper
  install_units
  if [[ ! $is_dry ]]; then say_next; fi
}

main "$@"
