# shellcheck shell=bash source-path=SCRIPTDIR
# Sourced after jvm.sh: a Go that is new enough. Distributions lag behind (Debian 12 has 1.19), but from there on any Go
# fetches a newer one as what it is published as, a module, verified like others. It goes into the cache; the machine's
# own stays as it is.

GO_HOME=$CACHE/go-$GO_VERSION

# The machine's Go if it is new enough, else the cache's, which then comes first in PATH and is fetched once.
require_go() {
  if new_go; then return; fi
  fetch_go
  unset GOROOT
  export PATH=$GO_HOME/bin:$PATH GOTOOLCHAIN=local
}

new_go() {
  local version
  version=$(GOTOOLCHAIN=local go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p')
  [[ $version && $(printf '%s\n' "$GO_MIN_VERSION" "$version" | sort -V | head -n 1) == "$GO_MIN_VERSION" ]]
}

# A lock of its own: whoever builds Kubernetes holds that of the cache.
fetch_go() {
  [[ -x $GO_HOME/bin/go ]] && return
  command -v go >/dev/null || die "no Go found; on Debian or Ubuntu: apt-get install -y golang-go"
  mkdir -p "$CACHE"
  (
    flock 9
    [[ -x $GO_HOME/bin/go ]] || fetch_go_locked 9>&-
  ) 9>"$CACHE/.go-lock" || exit 1
}

fetch_go_locked() {
  local here work=$GO_HOME.partial.$$ architecture module
  here=$(GOTOOLCHAIN=local go version)
  case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) die "Go $GO_MIN_VERSION or later is needed, this is $here: install a newer one" ;;
  esac
  module=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$architecture
  echo "fetching Go $GO_VERSION into $GO_HOME: $GO_MIN_VERSION or later is needed, this is $here" >&2
  rm -rf "$GO_HOME".partial.*
  mkdir -p "$work"
  # In a directory without go.mod, or that one's requirements would be looked at.
  (cd "$work" && GO111MODULE=on GOTOOLCHAIN=local GOFLAGS=-modcacherw GOPATH=$work GOMODCACHE=$work/mod \
    GOCACHE=$work/build go mod download "$module") >&2 || {
    rm -rf "$work"
    die "Go $GO_MIN_VERSION or later is needed, this is $here, and $module could not be fetched (Go's message stands above): install a newer one"
  }
  # A module's files are not executable; newer releases see to that themselves.
  chmod +x "$work/mod/$module"/bin/* "$work/mod/$module"/pkg/tool/*/*
  mv "$work/mod/$module" "$GO_HOME"
  rm -rf "$work"
}
