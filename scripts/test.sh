#!/usr/bin/env bash
# Format, lints and every test, cheapest first. Foreign parts come into the cache once; a part that is missing fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@"
  printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

step "tools" scripts/need.sh rust build java maven python go openssl
step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets --all-features -- -D warnings
step "Kafka" scripts/kafka.sh install
step "Kubernetes" scripts/kubernetes.sh install control-plane helm
step "build" cargo test --workspace --all-features --no-run
step "tests" cargo test --workspace --all-features

# The whole flow, on ports that a running `make dev` does not use.
export BUILT=yes SCYLLA_PORT=19042 ADMIN_PORT=19000 KAFKA_PORT=19092 ORDERS_PORT=18080 RELAY_PORT=19090
unset SCYLLA KAFKA
step "integration" scripts/integration.sh
step "integration, plain layout" env SCHEMA=plain scripts/integration.sh
step "failures" scripts/failures.sh
