#!/bin/sh
# Installs the Debian packages that the tests need and this machine lacks.
set -eu

need=""
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || need="$need mosquitto"
command -v strace >/dev/null || need="$need strace"
command -v systemd-analyze >/dev/null || need="$need systemd"
command -v dbus-daemon >/dev/null || need="$need dbus"
command -v promtool >/dev/null || need="$need prometheus"
command -v mbpoll >/dev/null || need="$need mbpoll"
[ -e /usr/include/modbus/modbus.h ] || need="$need libmodbus-dev"
command -v cc >/dev/null || need="$need gcc libc6-dev"
[ -z "$need" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    # shellcheck disable=SC2086  # a list of words on purpose
    apt-get install -q -y --no-install-recommends $need >/dev/null
else
    echo "The tests need these Debian packages:$need" >&2
    echo "Install them with: sudo apt-get install$need" >&2
    exit 1
fi
