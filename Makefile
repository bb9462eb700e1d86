# What a developer types. Everything is cached below target/ and in the compilers' own caches.
.DEFAULT_GOAL := help
SHELL := /bin/bash
DEVCLUSTER := target/devcluster/bin/devcluster
.PHONY: help demo demo-down deps check test bench bench-registry bench-tools fuzz crds devcluster

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

devcluster:
	@go build -C tests/devcluster -o ../../$(DEVCLUSTER) .

deps: devcluster ## install the Debian packages that the tests need, or name them
	$(DEVCLUSTER) deps --install

check: ## formatting and lints
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	@unformatted=$$(gofmt -l tests/devcluster); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	cd tests/devcluster && go vet . && go test .

# The tests' cluster is built with progress first; each test then finds it. It goes when cargo goes.
test: check devcluster ## everything: formatting, lints, unit tests, tests on a real cluster
	$(DEVCLUSTER) build
	cargo test --no-fail-fast

bench: devcluster ## speed, requests and memory on the development cluster, as tables (BENCH_STEADY=600 seconds)
	$(DEVCLUSTER) build
	cargo bench --bench operator

bench-registry: devcluster bench-tools ## `multiarch index` beside crane, regctl, buildx, skopeo and curl, as tables (ten minutes; BENCH_RUNS=3 BENCH_LAYER_MIB=512 BENCH_FULL=1 BENCH_ONLY=publishing,again,throughput,startup)
	$(DEVCLUSTER) build
	cargo bench --bench registry

# The versions that the figures are of.
PEERS := github.com/google/go-containerregistry/cmd/crane@v0.22.0 github.com/regclient/regclient/cmd/regctl@v0.11.6 github.com/docker/buildx/cmd/buildx@v0.36.0

bench-tools: ## install the peers of make bench-registry into target/tools, or name what is missing
	@for peer in $(PEERS); do \
		name=$$(basename $${peer%@*}); \
		go version -m target/tools/$$name 2>/dev/null | grep -q "mod.*$${peer#*@}" && continue; \
		echo "go install $$peer"; GOBIN=$(CURDIR)/target/tools go install $$peer || exit 1; \
	done
	@for tool in skopeo curl; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	test -z "$$missing" || { echo "missing:$$missing; install them: apt-get install$$missing"; exit 1; }

FUZZ := target/tools/bin/cargo-fuzz
TARGET ?= layer
SECONDS_EACH ?= 60

$(FUZZ):
	cargo install --quiet --locked --root target/tools --version 0.13.2 cargo-fuzz

fuzz: $(FUZZ) ## one fuzz target for a while (TARGET=layer SECONDS_EACH=60); needs a C++ compiler
	@mkdir -p fuzz/target/found/$(TARGET)
	$(FUZZ) fuzz run --sanitizer none $(TARGET) fuzz/target/found/$(TARGET) fuzz/corpus/$(TARGET) -- \
		-max_total_time=$(SECONDS_EACH) -max_len=16384 -rss_limit_mb=1024 -timeout=10

crds: ## write the CRD from the code into crds/
	cargo run --quiet -- crd > crds/multiarch.dev_multiarchimages.yaml.new
	mv crds/multiarch.dev_multiarchimages.yaml.new crds/multiarch.dev_multiarchimages.yaml

demo: ## the whole thing, live: a cluster, builds for two architectures, the proof (needs Rust and Go; KEEP=1 leaves it up)
	@examples/demo/demo.sh

demo-down: ## end what make demo KEEP=1 left running
	@examples/demo/demo.sh down
