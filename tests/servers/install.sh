#!/bin/sh
# Installs the servers that the tests start: on Debian as root from its packages; elsewhere it only says what is missing.
set -eu
missing=""
command -v java >/dev/null || missing="$missing default-jre-headless"
command -v mvn >/dev/null || missing="$missing maven"
command -v iptables >/dev/null || missing="$missing iptables"
test -x /usr/bin/chromium || missing="$missing chromium"
test -x /usr/lib/postgresql/15/bin/postgres || missing="$missing postgresql-15"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # words are packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "not here, so some tests will be skipped:$missing"
fi
