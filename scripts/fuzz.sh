#!/usr/bin/env bash
# fuzz.sh [TARGET...]: runs the fuzz targets of sandbox/fuzz and relay/fuzz, FUZZ_SECONDS (60) each; what is found stands in
# their artifacts, and belongs into sandbox/fuzz-corpus or relay/fuzz-corpus once it is mended: the tests replay that.
#
# Needs cargo-fuzz (cargo install --locked cargo-fuzz) and a C++ compiler. The project's own, stable compiler builds the
# targets: libFuzzer wants its coverage, which is unstable, so it is told to allow that. No sanitizer: what is fuzzed has no
# unsafe code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/need.sh rust build
cargo fuzz --version >/dev/null 2>&1 || {
  echo "cargo-fuzz is missing; install with: cargo install --locked cargo-fuzz" >&2
  exit 1
}
export RUSTC_BOOTSTRAP=1
# Not the target folder of everything else: other flags would build all of it again.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for part in sandbox relay; do
  mapfile -t targets < <(cargo fuzz list --fuzz-dir "$part/fuzz")
  for target in "${targets[@]}"; do
    [[ $# == 0 || " $* " == *" $target "* ]] || continue
    printf '\n== %s: %d s\n' "$target" "${FUZZ_SECONDS:-60}"
    mkdir "$found/$target"
    # New inputs go into the first folder, which is thrown away; the second one is only read.
    cargo fuzz run --fuzz-dir "$part/fuzz" --sanitizer none "$target" "$found/$target" "$part/fuzz-corpus/$target" -- \
      -max_total_time="${FUZZ_SECONDS:-60}" -timeout=5 -print_final_stats=1
  done
done
