#!/usr/bin/env bash
# Compares the product with the bare relay and direct access on a Kafka of its own, and prints the table of docs/performance.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export GOTOOLCHAIN=auto
# The broker's second compiler matters here; tests go without it.
export BROKERS_JVM_OPTS=${BROKERS_JVM_OPTS:--XX:TieredStopAtLevel=4}
# shellcheck disable=SC2016 # the inner shell expands it
SLUICE_TEST_OLD=none exec test/brokers-run.sh bash -c 'go run ./test/bench/compare -bootstrap "$SLUICE_TEST_KAFKA" -sluice bin/sluice "$@"' compare "$@"
