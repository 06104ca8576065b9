#!/usr/bin/env bash
# mutations.sh [NAME...]: breaks the relay on purpose, by each patch of simulation/mutations in turn, and demands that the
# simulation finds the invariant broken that the patch names, within SEEDS (1000) schedules. The relay as it is has to pass
# the same schedules. Works on a copy of the work tree; only the crates between relay and simulation are built again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SEEDS=${SEEDS:-1000}
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
COPY=$TARGET/mutations
export CARGO_TARGET_DIR=$TARGET

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
  build || die "the relay cannot be built as it is"
  printf '%-36s%-30s%s\n' mutation 'caught by' 'seed, schedules, seconds'
  local name failed=()
  for name in "${names[@]}"; do
    mutate "$name" || failed+=("$name")
  done
  build || die "the copy is not what it was"
  "$TARGET/debug/simulate" --seeds "$SEEDS" | tail -n 1
  ((${#failed[@]} == 0)) || die "not caught: ${failed[*]}"
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

mutate() {
  local name=$1 patch=$PWD/simulation/mutations/$1.patch invariant said status=0
  [[ -f $patch ]] || die "there is no simulation/mutations/$name.patch"
  invariant=$(sed -n 's/^Caught by: //p' "$patch")
  [[ $invariant ]] || die "$patch does not say what catches it"
  patch -d "$COPY" -p1 -s --no-backup-if-mismatch <"$patch" || die "$patch does not apply any more"
  if build; then
    said=$("$TARGET/debug/simulate" --seeds "$SEEDS" --expect "$invariant" 2>&1 | tail -n 1) || status=1
  else
    said="cannot be built; see $COPY.log" status=1
  fi
  printf '%-36s%-30s%s\n' "$name" "$invariant" "${said#"$invariant": }"
  patch -d "$COPY" -p1 -s -R --no-backup-if-mismatch <"$patch"
  return "$status"
}

main "$@"
