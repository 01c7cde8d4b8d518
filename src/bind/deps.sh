#!/bin/sh
# Installs the Debian packages named as arguments that are missing. Root, or sudo; elsewhere it names them.
missing=""
if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "esper: not a Debian or Ubuntu system; install the equivalents of: $*" >&2
  command -v luajit >/dev/null 2>&1 && exit 0
  exit 1
fi
for p in "$@"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q "ok installed" || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
run=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "esper: please install as root:$missing" >&2; exit 1; }
  run="sudo"
fi
echo "esper: installing$missing"
$run apt-get update -qq || echo "esper: apt-get update failed; trying with the lists at hand" >&2
# shellcheck disable=SC2086
$run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
  { echo "esper: apt-get could not install:$missing" >&2; exit 1; }
