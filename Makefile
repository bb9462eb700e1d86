# What a developer types. Everything is cached below target/ and in the compilers' own caches.
.DEFAULT_GOAL := help
.PHONY: help crds demo demo-down

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

crds: ## write the CRD from the code into crds/
	cargo run --quiet -- crd > crds/multiarch.dev_multiarchimages.yaml.new
	mv crds/multiarch.dev_multiarchimages.yaml.new crds/multiarch.dev_multiarchimages.yaml

demo: ## the whole thing, live: a cluster, builds for two architectures, the proof (needs Rust and Go; KEEP=1 leaves it up)
	@examples/demo/demo.sh

demo-down: ## end what make demo KEEP=1 left running
	@examples/demo/demo.sh down
