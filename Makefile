# What people run. `make help` lists it; every target works in a fresh clone.

SHELL := /bin/bash
.DEFAULT_GOAL := help
export OUTBOX_CACHE ?= $(HOME)/.cache/outbox-relay

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

.PHONY: build
build: ## build everything
	@scripts/need.sh rust build
	cargo build --workspace --all-targets

.PHONY: lint
lint: ## format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

.PHONY: test
test: ## format, lints, every test; installs what it needs, no Docker
	@scripts/test.sh

.PHONY: simulate
simulate: ## seeded schedules of faults through the pipeline, under virtual time: SEEDS=10000, FROM=1
	cargo run -p outbox-relay-simulation -- --seeds $(or $(SEEDS),10000) --from $(or $(FROM),1)
	cargo run -p outbox-relay-simulation -- --seed $(or $(FROM),1) --everywhere --stride $(or $(STRIDE),11)
	cargo run -p outbox-relay-simulation -- --seed 6 --everywhere --stride $(or $(STRIDE),11)

.PHONY: mutations
mutations: ## the relay broken on purpose, a line at a time: the simulation must notice (MUTATIONS="name name" for some)
	@scripts/mutations.sh $(MUTATIONS)

.PHONY: chaos
chaos: ## relays, brokers and lines taken away at random, KILLS=100; the verifier judges (SEED repeats a run)
	@scripts/need.sh rust build java
	CHAOS_KILLS=$(or $(KILLS),100) $(if $(SEED),CHAOS_SEED=$(SEED)) \
	  cargo test -p outbox-relay --test chaos -- --nocapture

.PHONY: conformance
conformance: ## CQL, CDC, drivers, clients, scylla_cdc's reader against a ScyllaDB node: SCYLLA=host:port; without it, the sandbox
	@scripts/need.sh rust build java maven python go
	$(if $(SCYLLA),SCYLLA_CONTACT_POINT=$(SCYLLA)) cargo test --workspace --all-features --no-fail-fast \
	  --test semantics --test differential --test cdc --test cdc_reader --test driver --test clients \
	  $(if $(SCYLLA),-- --skip sandbox_only::)

.PHONY: generate
generate: ## rewrite what is generated from the types: resource definition, reference, error texts, children
	UPDATE_GENERATED=1 cargo test -p outbox-relay-crds --features kubernetes --test contract
	UPDATE_GENERATED=1 cargo test -p outbox-relay-operator --test desired
	UPDATE_GENERATED=1 cargo test -p outbox-relay-operator --test chart

.PHONY: demo
demo: ## orders through sandbox, relay and real Kafka for 30 s; ends with the verifier's table
	@scripts/demo.sh

.PHONY: dev
dev: ## the same parts, kept running
	@scripts/demo.sh dev

.PHONY: tutorial
tutorial: ## the steps of docs/tutorial.md as they stand there, and whether each does what the page says
	@scripts/need.sh python && scripts/tutorial.py

.PHONY: demo-failures
demo-failures: ## broker outages, refused batches, kill -9, poison events; the verifier after each
	@scripts/failures.sh

.PHONY: integration-test
integration-test: ## each part of the flow once: PASS or FAIL
	@scripts/integration.sh

.PHONY: images
images: ## container images of relay, operator, orders and sandbox, with Docker
	@scripts/images.sh

.PHONY: e2e
e2e: ## everything as pods of a real cluster, the verifier after each change and failure: CLUSTER=kind or CLUSTER=host (root)
	@scripts/e2e.sh

.PHONY: e2e-monitoring
e2e-monitoring: ## a real Prometheus scrapes relays and operators; alerts and dashboard have their metrics: CLUSTER=host (root) or kind
	@CLUSTER=$(or $(CLUSTER),host) scripts/e2e.sh monitoring

.PHONY: alerts
alerts: ## each alert of the chart fires when it should and says what it should; builds promtool once
	@scripts/need.sh go
	@scripts/kubernetes.sh promtool test rules charts/alerts-test.yaml

.PHONY: dashboard
dashboard: ## the chart's dashboard is one by Grafana's own schema
	@scripts/dashboard.sh

.PHONY: kind
kind: ## a cluster in Docker with operator, relay and orders, to try things
	@scripts/kind.sh up

.PHONY: fuzz
fuzz: ## the fuzz targets, a minute each (FUZZ_SECONDS); needs cargo-fuzz
	@scripts/fuzz.sh

.PHONY: audit
audit: ## dependencies: licences, sources, bans, but not advisories, whose database is on the network; needs cargo-deny
	@cargo deny --version >/dev/null 2>&1 || { . ./versions.env; \
	  echo "cargo-deny is missing; install with: cargo install --locked cargo-deny --version $$CARGO_DENY_VERSION" >&2; exit 1; }
	cargo deny check bans licenses sources

.PHONY: bench
bench: ## speed and memory of the relay beside bare librdkafka and driver; some 15 minutes on a quiet machine
	@scripts/bench.sh

.PHONY: bench-sandbox
bench-sandbox: ## inserts/s and log rows/s of the sandbox, with its client on the same cores: ROWS=200000 ROUNDS=5
	cargo run --release -p outbox-sandbox --example throughput -- $(or $(ROWS),200000) $(or $(ROUNDS),5)

.PHONY: query-load
query-load: ## what the relay asks of ScyllaDB, per cursor, stream and event: RATES="0 200 2000", CLEANUP=Delete
	@scripts/query-load.sh

.PHONY: polling-load
polling-load: ## the log read and the table polled, side by side: latency, reads, deletes, CPU; RATES="100 1000 10000"; some 12 minutes
	@scripts/polling-load.sh

.PHONY: bench-operator
bench-operator: ## a thousand OutboxRelays on a real API server: time, memory and requests of the operator; some 6 minutes once built
	@scripts/kubernetes.sh install
	cargo test --profile $(or $(PROFILE),release) --workspace --all-features --test kubernetes -- --ignored --nocapture bench::

.PHONY: metrics
metrics: ## what the relay of `make dev` counts
	@scripts/metrics.sh

.PHONY: clean
clean: ## remove what was built; the cache of foreign tools stays
	cargo clean
