# What a developer types. Everything is cached below target/ and in the compilers' own caches.
.DEFAULT_GOAL := help
SHELL := /bin/bash
DEVCLUSTER := target/devcluster/bin/devcluster
.PHONY: help demo demo-down deps check deny audit test bench bench-builds bench-registry bench-tools docs fuzz crds devcluster image image-test release

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
	cd tests/devcluster/tools/gitops && go vet ./health
	cd tests/devcluster/tools/metrics && go vet .
	cd tests/devcluster/tools/charts && go vet ./promql

DENY := target/tools/bin/cargo-deny
AUDITABLE2CDX := target/tools/bin/auditable2cdx

# Unoptimised, it is built in two minutes and checks in two seconds.
$(DENY):
	CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug --root target/tools --version 0.20.2 cargo-deny

deny: $(DENY) ## licences and sources of the dependencies, and that there is one TLS and one HTTP stack
	$(DENY) check bans licenses sources

audit: $(DENY) ## known vulnerabilities of the dependencies; fetches RustSec's database, and fails where it cannot
	@RUST_BACKTRACE=0 $(DENY) check advisories || { echo "NOT AUDITED, or not clean: see above"; exit 1; }

# The tests' cluster is built with progress first; each test then finds it. It goes when cargo goes.
test: check deny devcluster $(AUDITABLE2CDX) ## everything: formatting, lints, licences, unit tests, tests on a real cluster, the book
	$(DEVCLUSTER) build --all
	cargo test --no-fail-fast
	$(MAKE) docs

bench: devcluster ## speed, requests and memory on the development cluster, as tables (twelve minutes; BENCH_STEADY=600 seconds, BENCH_IMAGES=1000)
	$(DEVCLUSTER) build
	cargo bench --bench operator

bench-builds: devcluster ## builds beside buildctl by hand, caches, and 200 kills (ten minutes; BENCH_BUILDS=20 BENCH_KILLS=200 BENCH_ONLY=overhead,wall,cache,obsolete,kills)
	$(DEVCLUSTER) build
	cargo bench --bench builds

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

MDBOOK := target/tools/bin/mdbook
BOOK := target/book

$(MDBOOK):
	cargo install --quiet --locked --root target/tools --version 0.5.4 mdbook --no-default-features --features search

# What the pages link to beside themselves lies beside the book as it lies beside docs/, folders with a list of their files.
# mdBook takes every link to Markdown for a page of its own.
docs: $(MDBOOK) ## the documentation as a book, into target/book
	rm -rf $(BOOK)
	$(MDBOOK) build
	cp -r $(wildcard *.md LICENSE charts config crds examples src tests) $(BOOK)
	find $(BOOK)/docs -name '*.html' -exec sed -Ei 's#href="((\.\./)+([a-z-]+/)*[A-Z]+)\.html(\#[^"]*)?"#href="\1.md"#g' {} +
	@find $(BOOK) -type d ! -path '$(BOOK)/docs*' | while read -r folder; do \
		{ echo "<meta charset=utf-8><title>$${folder#$(BOOK)/}</title><pre>"; \
		  ls -p "$$folder" | grep -v '^index.html$$' | sed 's|.*|<a href="&">&</a>|'; } > "$$folder/index.html"; \
	done
	@echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' > $(BOOK)/index.html
	cargo test --quiet --test book -- --ignored
	@echo "$(BOOK)/index.html"

FUZZ := target/tools/bin/cargo-fuzz
TARGET ?= layer
SECONDS_EACH ?= 60

$(FUZZ):
	cargo install --quiet --locked --root target/tools --version 0.13.2 cargo-fuzz

fuzz: $(FUZZ) ## one fuzz target for a while (TARGET=layer SECONDS_EACH=60); needs a C++ compiler
	@mkdir -p fuzz/target/found/$(TARGET)
	$(FUZZ) fuzz run --sanitizer none $(TARGET) fuzz/target/found/$(TARGET) fuzz/corpus/$(TARGET) -- \
		-max_total_time=$(SECONDS_EACH) -max_len=16384 -rss_limit_mb=1024 -timeout=10

crds: ## write the CRD from the code into crds/ and the chart, and docs/reference.md
	cargo run --quiet -- crd > crds/multiarch.dev_multiarchimages.yaml.new
	mv crds/multiarch.dev_multiarchimages.yaml.new crds/multiarch.dev_multiarchimages.yaml
	cp crds/multiarch.dev_multiarchimages.yaml charts/multiarch-operator/files/crds/
	MULTIARCH_WRITE_REFERENCE=1 cargo test --quiet --test book the_reference

BUILDX ?= docker buildx
PLATFORMS ?= linux/amd64,linux/arm64
IMAGE ?= target/image.oci.tar

image: ## the operator's own image by docker buildx, as target/image.oci.tar; pushes nothing (PLATFORMS=linux/amd64,linux/arm64 PROFILE=dist)
	@mkdir -p target
	$(BUILDX) build --platform $(PLATFORMS) --provenance mode=max --sbom true $(if $(PROFILE),--build-arg PROFILE=$(PROFILE)) \
		--build-arg REVISION=$$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
		--output type=oci,rewrite-timestamp=true,dest=target/image.oci.tar .

image-test: devcluster ## the operator builds its own image on the development cluster and works from it (20 minutes on 2 idle cores; PROFILE=dev: 15)
	$(DEVCLUSTER) build
	$(if $(PROFILE),PROFILE=$(PROFILE)) cargo test --test self_build -- --ignored --nocapture


$(AUDITABLE2CDX):
	CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug --root target/tools --version 0.1.0 auditable2cdx

release: $(AUDITABLE2CDX) devcluster ## a dry run of a release: all its files, into target/release-artifacts; pushes nothing (IMAGE=archive or reference)
	cargo build --quiet
	HELM=$$($(DEVCLUSTER) tool helm) MULTIARCH=target/debug/multiarch AUDITABLE2CDX=$(AUDITABLE2CDX) scripts/release.sh $(IMAGE)

demo: ## the whole thing, live: a cluster, builds for two architectures, the proof (needs Rust and Go; KEEP=1 leaves it up)
	@examples/demo/demo.sh

demo-down: ## end what make demo KEEP=1 left running
	@examples/demo/demo.sh down
