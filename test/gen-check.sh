#!/usr/bin/env bash
# Fails when a generated file differs from what its source gives now.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
before=$(mktemp)
trap 'rm -f "$before"' EXIT
sums() { git ls-files -co --exclude-standard 'gen/' 'sdk/go/sluicev1/' 'docs/reference/' 'internal/rpc/data/openapi.json' | sort | xargs -r sha256sum; }
sums >"$before"
make --no-print-directory gen
if ! diff <(cat "$before") <(sums); then
  echo "generated files were not current: run 'make gen' and commit the result" >&2
  exit 1
fi
