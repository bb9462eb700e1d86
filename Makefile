# What a developer types. Everything is cached below target/ and in the compilers' own caches.
.DEFAULT_GOAL := help
SHELL := /bin/bash
DEVCLUSTER := target/devcluster/bin/devcluster
.PHONY: help demo demo-down deps check test bench fuzz crds devcluster

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	cargo bench

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
