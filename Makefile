# Targets are listed by `make`. Everything a build or a test needs is fetched by
# the ordinary clients of Go and Maven; nothing has to be installed by hand.
export GOTOOLCHAIN := auto
SHELL := /bin/bash
GO := go
# The SDK's module asks for an older Go than the tools do.
TOOLCHAIN := go$(shell awk '$$1 == "go" { print $$2 }' go.mod)
TOOL = $(GO) tool -modfile=tools/$(1).mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/sluice-mq/sluice/internal/telemetry.version=$(VERSION)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: build
build: ## Build bin/sluice
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice

.PHONY: release
release: ## Build bin/sluice so that anyone can build the same bytes again
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice

.PHONY: run
run: build ## Run the product on its embedded store, anonymous work on the loopback allowed
	exec bin/sluice server --dev

.PHONY: test
test: ## Run everything: checks, unit tests with the race detector, real brokers, end to end (what .ci/run runs)
	test/run.sh

.PHONY: check
check: fmt-check lint imports gen-check unit ## What must pass before a merge; needs no broker

.PHONY: fmt
fmt: ## Format Go and proto files
	$(call TOOL,lint) gofumpt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')
	$(call TOOL,buf) buf format -w

.PHONY: fmt-check
fmt-check:
	@bad=$$($(call TOOL,lint) gofumpt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); \
	if [ -n "$$bad" ]; then echo "not formatted (make fmt):"; echo "$$bad"; exit 1; fi
	$(call TOOL,buf) buf format -d --exit-code

.PHONY: lint
lint: ## Lint Go and proto files
	$(call TOOL,buf) buf lint
	$(call TOOL,lint) golangci-lint run ./...
	cd sdk/go && GOTOOLCHAIN=$(TOOLCHAIN) $(GO) tool -modfile=../../tools/lint.mod golangci-lint run ./...

.PHONY: gen
gen: ## Generate Go from proto/, and the reference pages from the code
	$(call TOOL,buf) buf generate
	$(GO) generate ./...

.PHONY: gen-check
gen-check: ## Fail when generated files are not current
	test/gen-check.sh

.PHONY: breaking
breaking: ## Fail when proto/ breaks clients of the last tag
	test/breaking.sh

.PHONY: imports
imports: ## Hold the table of who may import whom
	$(GO) test ./test/imports/

.PHONY: unit
unit: ## Unit tests with the race detector
	$(GO) test -race ./internal/... ./cmd/...
	cd sdk/go && $(GO) test -race ./...

.PHONY: test-brokers
test-brokers: ## Driver conformance on real brokers (starts them)
	test/brokers-run.sh $(GO) test -count=1 -timeout 20m ./internal/mq/... ./test/...

.PHONY: e2e
e2e: ## End-to-end tests of the binary on the embedded store
	$(GO) test -count=1 -timeout 15m ./test/e2e/

.PHONY: fault
fault: ## Break brokers and nodes under load, every message counted (not in `make test` yet: see docs/testing.md)
	SLUICE_TEST_OLD=none SLUICE_TEST_REQUIRE=kafka test/brokers-run.sh $(GO) test -count=1 -v -timeout 20m ./test/fault/

.PHONY: bench
bench: build ## Compare the product with a bare relay and direct access, on a Kafka of its own
	test/bench/run.sh

.PHONY: fuzz
fuzz: ## Fuzz every decoder for 20 s each
	test/fuzz.sh 20s
