#!/usr/bin/env bash
# Starts the standard set of clusters for tests, or what is down of it, waits
# for all of it, and prints the exports for a shell to eval.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
source "$here/lib.sh"

usage() {
  cat <<'EOT'
usage: up.sh [option]... [CLUSTER]...    out=$(test/brokers/up.sh) && eval "$out"
  CLUSTER          kafka kafka2 rmq5 rmq4; all four when none is named
  --brokers N      brokers of `kafka`, when it is new (default 1; 3 for fail-over tests)
  --proxy          RocketMQ 5's gRPC proxy too
  --offset P       adds P to every port (default 0), for a second set: give it a BROKERS_RUN of its own
  --timeout S      for each cluster (default 120)
environment: SLUICE_KAFKA_VERSION (4.4.0), SLUICE_KAFKA2_VERSION (4.4.0), SLUICE_RMQ5_VERSION (5.5.0),
  SLUICE_RMQ4_VERSION (4.9.7), and kafka.sh's and rocketmq.sh's own
EOT
}

brokers=() proxy=() offset=0 limit=120 clusters=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --proxy) proxy=(--proxy) ;;
    --brokers | --offset | --timeout)
      is_number "${2:-}" || die "$1 needs a number"
      case "$1" in
        --brokers) brokers=(--brokers "$2") ;;
        --offset) offset=$2 ;;
        --timeout) limit=$2 ;;
      esac
      shift
      ;;
    kafka | kafka2 | rmq5 | rmq4) clusters+=("$1") ;;
    -h | --help | help)
      usage
      exit
      ;;
    *)
      usage >&2
      die "what is '$1'?"
      ;;
  esac
  shift
done
((${#clusters[@]})) || clusters=(kafka kafka2 rmq5 rmq4)

bring_up() { # CLUSTER
  local tool version args=()
  tool=$here/kafka.sh
  case "$1" in
    kafka) version=${SLUICE_KAFKA_VERSION:-4.4.0} args=(--base-port $((29092 + offset)) ${brokers[@]+"${brokers[@]}"}) ;;
    kafka2) version=${SLUICE_KAFKA2_VERSION:-4.4.0} args=(--base-port $((29292 + offset))) ;;
    rmq5)
      tool=$here/rocketmq.sh version=${SLUICE_RMQ5_VERSION:-5.5.0}
      args=(--brokers 2 --base-port $((29876 + offset)) ${proxy[@]+"${proxy[@]}"})
      ;;
    rmq4) tool=$here/rocketmq.sh version=${SLUICE_RMQ4_VERSION:-4.9.7} args=(--base-port $((30076 + offset))) ;;
  esac
  "$tool" start "$1" "$version" "${args[@]}" && "$tool" wait "$1" --timeout "$limit"
}

pids=() failed=''
for c in "${clusters[@]}"; do
  bring_up "$c" >&2 &
  pids+=($!)
done
for i in "${!pids[@]}"; do wait "${pids[i]}" || failed+=" ${clusters[i]}"; done
[[ -z "$failed" ]] || die "not up:$failed"

echo "export SLUICE_TEST_BROKERS=$(printf %q "$here")"
for c in "${clusters[@]}"; do
  case "$c" in
    kafka) echo "export SLUICE_TEST_KAFKA=$("$here/kafka.sh" bootstrap kafka)" ;;
    kafka2) echo "export SLUICE_TEST_KAFKA2=$("$here/kafka.sh" bootstrap kafka2)" ;;
    rmq5)
      echo "export SLUICE_TEST_RMQ5=$("$here/rocketmq.sh" namesrv rmq5)"
      ((${#proxy[@]} == 0)) || echo "export SLUICE_TEST_RMQ5_PROXY=$("$here/rocketmq.sh" proxy rmq5)"
      ;;
    rmq4) echo "export SLUICE_TEST_RMQ4=$("$here/rocketmq.sh" namesrv rmq4)" ;;
  esac
done
