# What a developer types. Everything is cached below target/ and in the compilers' own caches.
.DEFAULT_GOAL := help
.PHONY: help crds

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

crds: ## write the CRD from the code into crds/
	cargo run --quiet -- crd > crds/multiarch.dev_multiarchimages.yaml.new
	mv crds/multiarch.dev_multiarchimages.yaml.new crds/multiarch.dev_multiarchimages.yaml
