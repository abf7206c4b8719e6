# Keyhole. `make demo` shows it, `make test` tests it; both install what they
# need on Debian (as root or through sudo). `make help` lists the rest.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN     := bin
TOOLS   := $(CURDIR)/$(BIN)/tools
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)

# What the tests and the linter run, by exact version.
GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
# The Go vulnerability database, as the module that it is published as.
# `make vuln VULNDB=latest` takes today's.
VULNDB := v0.0.0-20261105234957-e22db6528018

RUN_DIR  ?= keyhole-dev
FUZZTIME ?= 3s

.PHONY: help build deps deps-run test check fuzz lint vuln demo run soak-audit load soak bench bench-rotation bench-open clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: ## bin/keyholed (the gateway) and bin/keyhole (the CLI)
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/keyholed ./cmd/keyholed
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/keyhole ./cmd/keyhole

deps-run: # what a development gateway needs of the system
	@.ci/install softhsm2-util:softhsm2 openssl:openssl

deps: deps-run # and what the tests need besides
	@.ci/install pkcs11-tool:opensc p11-kit:p11-kit jose:jose curl:curl \
		/usr/sbin/rsyslogd:rsyslog '/usr/lib/*/rsyslog/lmnsd_gtls.so:rsyslog-gnutls' \
		'/usr/lib/postgresql/*/bin/initdb:postgresql' /usr/sbin/haproxy:haproxy \
		'/usr/lib/*/pkcs11/p11-kit-client.so:p11-kit-modules' '/usr/lib/*/libsoftokn3.so:libnss3' certutil:libnss3-tools '/usr/lib/*/libp11-kit.so.0:libp11-kit0' gcc:gcc \
		systemd-analyze:systemd

test: deps check fuzz lint vuln ## everything: tests with the race detector, fuzzing in brief, lint, known vulnerabilities

check: ## the tests, with the race detector, in random order
	go test -race -shuffle=on -count=1 -timeout 30m ./...

fuzz: ## each fuzz target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) .ci/fuzz

lint: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) ## go vet, staticcheck, the floor rules (depguard) and more
	$< run ./...

vuln: $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION) ## known vulnerabilities in what is linked
	go run golang.org/x/vulndb/cmd/indexdb@$(VULNDB) -out $(BIN)/vulndb \
		-vulns "$$(go mod download -json golang.org/x/vulndb@$(VULNDB) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/data/osv"
	.ci/vuln $< $(CURDIR)/$(BIN)/vulndb

demo: deps-run build ## a gateway from nothing: keys, signatures, a rotation, the audit log
	@integration/demo.sh

run: deps-run build ## a development gateway in RUN_DIR, until Ctrl-C
	@exec $(BIN)/keyholed dev --dir $(RUN_DIR)

soak-audit: deps ## a hundred kills of the gateway under load, and its audit log verified after each
	KEYHOLE_AUDIT_KILLS=100 go test -count=1 -timeout 60m -run '^TestAuditSurvivesKills$$' -v ./integration

load: deps-run build ## overload: goodput, waits and refusals at four times the peak
	KEYHOLE_BIN=$(CURDIR)/$(BIN) KEYHOLE_LOAD=10s go test -count=1 -timeout 30m -run '^TestOverload$$' -v ./integration

soak: deps-run build ## memory under a million bad tokens and failed decrypts, and half an hour of everything
	KEYHOLE_SOAK_UNWRAPS=1000000 go test -count=1 -timeout 60m -run '^TestFailedUnwrapsLeaveNothing$$' -v ./hsm
	KEYHOLE_BIN=$(CURDIR)/$(BIN) KEYHOLE_SOAK=1000000 KEYHOLE_SOAK_TIME=30m go test -count=1 -timeout 120m -run '^TestSoak' -v ./integration

bench: deps-run build ## speed against the bare token, as ratios; writes docs/benchmarks.{json,md} and a picture
	go run ./integration/bench -commit $(VERSION) -out docs/benchmarks.json

bench-rotation: deps-run build ## what rotations cost: one each second for a minute, and 1,000 keys due at once
	go run ./integration/bench -rotation

bench-open: ## opening and verifying an audit log of ten million records (needs 6 GB)
	KEYHOLE_BENCH_RECORDS=10000000 go test -run '^$$' -bench '^BenchmarkOpenVouched$$' -benchtime 5x -timeout 60m ./audit
	go test -run '^$$' -bench '^BenchmarkVerify$$' ./audit/verify

clean: ## remove what was built; RUN_DIR stays
	rm -rf $(BIN)

$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/golangci-lint $@

$(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	mv $(TOOLS)/govulncheck $@
