#!/usr/bin/env bash
# Builds the images of relay, operator, orders and sandbox with Docker, from the Dockerfile.
#
#   TAG=0.1.0                   the version of Cargo.toml unless given
#   BUILD_IMAGE, BASE_IMAGE     other images than the Dockerfile's, as from a mirror
#   PROFILE=dev                 quicker to build, slower to run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
TAG=${TAG:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}

docker version >/dev/null || {
  echo "images.sh: Docker is needed (its message stands above); without it, scripts/e2e/images.sh makes images for tests" >&2
  exit 1
}
arguments=()
for name in BUILD_IMAGE BASE_IMAGE PROFILE; do
  [[ ! ${!name:-} ]] || arguments+=(--build-arg "$name=${!name}")
done
for target in relay=outbox-relay operator=outbox-relay-operator orders=orders sandbox=outbox-sandbox; do
  docker build "${arguments[@]}" --target "${target%=*}" --tag "${target#*=}:$TAG" .
done
