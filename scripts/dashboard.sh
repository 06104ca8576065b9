#!/usr/bin/env bash
# dashboard.sh   whether the chart's dashboard is one by Grafana's own schema; fetches that schema once
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"

CHECK=$ROOT/charts/dashboard-test
# A name of its own for whatever is checked with.
FOLDER=$CACHE/dashboard-test-$(cat "$CHECK"/* | sha256sum | cut -c 1-12)

"$ROOT/scripts/need.sh" npm
if [[ ! -d $FOLDER ]]; then
  partial=$FOLDER.partial.$$
  mkdir -p "$partial"
  trap 'rm -rf "$partial"' EXIT
  cp "$CHECK"/* "$partial/"
  (cd "$partial" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error)
  mv -T "$partial" "$FOLDER"
fi
node "$FOLDER/check.mjs" "$ROOT/charts/outbox-relay/files/dashboard.json"
