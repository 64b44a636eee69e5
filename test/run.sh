#!/usr/bin/env bash
# Everything that a submission must pass, with a line per stage and its time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export GOTOOLCHAIN=auto

stage() { # NAME COMMAND...
  local name=$1 from=$SECONDS
  shift
  echo "=== $name"
  "$@" || {
    echo "=== $name FAILED after $((SECONDS - from)) s" >&2
    exit 1
  }
  echo "=== $name ok, $((SECONDS - from)) s"
}

stage build make --no-print-directory build
stage generated make --no-print-directory gen-check
stage breaking make --no-print-directory breaking
stage lint make --no-print-directory fmt-check lint
stage imports make --no-print-directory imports
stage unit make --no-print-directory unit
export SLUICE_TEST_REQUIRE=kafka,kafka-old,java
stage brokers test/brokers-run.sh go test -count=1 -p 1 -timeout 25m ./internal/mq/kafka/ ./internal/consume/ \
  ./test/imports/ ./test/docs/ ./test/e2e/ ./test/cluster/ ./test/native/ ./test/secure/ ./test/bench/... ./test/harness/
