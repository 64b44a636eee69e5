#!/usr/bin/env bash
# Runs every fuzz target for the given time (default 20s).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-20s}
grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' internal sdk | while read -r file; do
  dir=$(dirname "$file")
  sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file" | while read -r target; do
    echo "== $dir $target"
    (cd "$dir" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" .)
  done
done
