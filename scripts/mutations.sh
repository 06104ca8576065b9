#!/usr/bin/env bash
# mutations.sh [NAME...]: breaks the relay on purpose, by each patch of simulation/mutations in turn, and demands that the
# simulation finds the invariant broken that the patch names, within SEEDS (1000) schedules. The relay as it is has to pass
# the same schedules.
#
# Each patch breaks nothing before its name is chosen at run time (MUTATION), so all of them go into one build, or into a
# few where they touch the same lines. Works on a copy of the work tree.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SEEDS=${SEEDS:-1000}
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
COPY=$TARGET/mutations
LIB=relay/src/lib.rs
export CARGO_TARGET_DIR=$TARGET
unset MUTATION

main() {
  scripts/need.sh rust build
  command -v patch >/dev/null || die "no patch found; on Debian or Ubuntu: apt-get install -y patch"
  local -a names=("$@")
  if ((${#names[@]} == 0)); then
    names=(simulation/mutations/*.patch)
    names=("${names[@]##*/}")
    names=("${names[@]%.patch}")
  fi
  copy
  printf '%-36s%-30s%s\n' mutation 'caught by' 'seed, schedules, seconds'
  cat simulation/mutations/mutant.rs >>"$COPY/$LIB"
  local -a applied left failed=()
  local name
  while ((${#names[@]} > 0)); do
    applied=() left=()
    for name in "${names[@]}"; do
      if apply "$name"; then applied+=("$name"); else left+=("$name"); fi
    done
    ((${#applied[@]} > 0)) || die "does not apply any more: ${left[*]}"
    build || die "cannot be built with ${applied[*]}; see $COPY.log"
    for name in "${applied[@]}"; do
      mutate "$name" || failed+=("$name")
    done
    for name in "${applied[@]}"; do
      patched "$name" -R
    done
    names=("${left[@]}")
  done
  # The relay as it is; also, nothing that is built from the work tree later is to hold any of this.
  cp "$LIB" "$COPY/$LIB"
  build || die "the copy is not what it was"
  printf 'as it is: '
  "$TARGET/debug/simulate" --seeds "$SEEDS" | grep 'seeds in' || die "it breaks a promise: make simulate SEEDS=$SEEDS"
  ((${#failed[@]} == 0)) || die "not caught: ${failed[*]}"
  printf 'all caught, in %d min\n' $(((SECONDS + 59) / 60))
}

die() {
  printf 'mutations.sh: %s\n' "$*" >&2
  exit 1
}

# What git knows or would take in, with its times, so that nothing is built twice.
copy() {
  local file
  rm -rf "$COPY"
  mkdir -p "$COPY"
  git ls-files -z -co --exclude-standard |
    while IFS= read -rd '' file; do [[ ! -f $file ]] || printf '%s\0' "$file"; done |
    tar --null --files-from=- -cf - | tar -xf - -C "$COPY"
}

# With the features of `make test`, whose dependencies are there already.
build() { (cd "$COPY" && cargo test --quiet --workspace --all-features --test simulate --no-run 2>"$COPY.log"); }

patched() {
  local name=$1
  patch -d "$COPY" -p1 -s --no-backup-if-mismatch "${@:2}" <"simulation/mutations/$name.patch"
}

# False if it meets another patch.
apply() {
  local name=$1
  [[ -f simulation/mutations/$name.patch ]] || die "there is no simulation/mutations/$name.patch"
  patched "$name" --dry-run -F0 >/dev/null && patched "$name" -F0
}

mutate() {
  local name=$1 invariant said status=0
  invariant=$(sed -n 's/^Caught by: //p' "simulation/mutations/$name.patch")
  [[ $invariant ]] || die "$name.patch does not say what catches it"
  said=$(MUTATION=$name "$TARGET/debug/simulate" --seeds "$SEEDS" --expect "$invariant" 2>&1 | grep "^$invariant: \|^Error: ") ||
    status=1
  [[ $said == "$invariant: "* ]] || status=1
  printf '%-36s%-30s%s\n' "$name" "$invariant" "${said#"$invariant": }"
  return "$status"
}

main "$@"
