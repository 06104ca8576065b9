# What people run. `make help` lists it; every target works in a fresh clone.

SHELL := /bin/bash
.DEFAULT_GOAL := help
export OUTBOX_CACHE ?= $(HOME)/.cache/outbox-relay

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

.PHONY: build
build: ## build everything
	@scripts/need.sh rust build
	cargo build --workspace --all-targets

.PHONY: lint
lint: ## format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

.PHONY: test
test: ## everything that CI runs; installs what it needs, no Docker
	@scripts/test.sh

.PHONY: clean
clean: ## remove what was built; the cache of foreign tools stays
	cargo clean
