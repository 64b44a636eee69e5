#!/usr/bin/env bash
# Starts the brokers that the tests need, exports their addresses, runs the
# command, and ends those that it started.
#
#   test/brokers-run.sh COMMAND [ARG]...
#
# SLUICE_TEST_KAFKA       the newest 4.x
# SLUICE_TEST_KAFKA_OLD   VERSION=ADDRESS,... of the older versions
# SLUICE_TEST_OLD         which older versions to start (default: all proven ones; "none")
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
kafka=$here/brokers/kafka.sh

# A run folder and ports of its own, so that a set that a person has up is left alone.
export BROKERS_HOME=${BROKERS_HOME:-$HOME/.cache/sluice-brokers}
export BROKERS_RUN=${BROKERS_RUN:-$BROKERS_HOME/test-$$}
started=()
stop() {
  local name
  for name in ${started[@]+"${started[@]}"}; do "$kafka" destroy "$name" || true; done
  rm -rf "$BROKERS_RUN"
}
trap stop EXIT
trap 'exit 130' INT TERM

free_base() { # the first base port from $1 on with nothing at its usual offsets
  local p=$1 q
  while :; do
    for q in 0 20 40 60; do
      if (exec 3<>"/dev/tcp/127.0.0.1/$((p + q))") 2>/dev/null; then p=$((p + 100)) && continue 2; fi
    done
    echo "$p" && return
  done
}

start() { # NAME VERSION BASE
  local base
  base=$(free_base "$3")
  started+=("$1")
  "$kafka" start "$1" "$2" --base-port "$base"
}

start k44 "${SLUICE_KAFKA_VERSION:-4.4.0}" 21092
old=${SLUICE_TEST_OLD:-3.9.2 2.8.2 1.1.1 0.10.2.2}
[[ "$old" != none ]] || old=''
base=22092
for v in $old; do
  start "k${v//./}" "$v" "$base"
  base=$((base + 200))
done
"$kafka" wait k44 --timeout 120
export SLUICE_TEST_BROKERS=$here/brokers
SLUICE_TEST_KAFKA=$("$kafka" bootstrap k44)
export SLUICE_TEST_KAFKA
SLUICE_TEST_KAFKA_OLD=''
for v in $old; do
  "$kafka" wait "k${v//./}" --timeout 120
  SLUICE_TEST_KAFKA_OLD+="${SLUICE_TEST_KAFKA_OLD:+,}$v=$("$kafka" bootstrap "k${v//./}")"
done
export SLUICE_TEST_KAFKA_OLD
echo "brokers: Kafka ${SLUICE_KAFKA_VERSION:-4.4.0} at $SLUICE_TEST_KAFKA${SLUICE_TEST_KAFKA_OLD:+, $SLUICE_TEST_KAFKA_OLD}"
"$@"
