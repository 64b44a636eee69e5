#!/usr/bin/env bash
# Compares proto/ with that of the last tag; the first release has none to compare with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true)
if [[ -z "$tag" ]]; then
  echo "breaking: no tag yet, nothing to compare with"
  exit 0
fi
exec go tool -modfile=tools/buf.mod buf breaking --against ".git#ref=$tag"
