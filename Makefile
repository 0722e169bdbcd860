# aether: everything that is done with this repository. `make help` lists it.

GO        ?= go
BIN       := bin
AGENT     := internal/guestagent/bin/aether-agent
CELL      := internal/cellbinary/bin/aether-cell
export CGO_ENABLED := 0
# What the peers and images are kept in; the same rule as internal/hostdir.
STATE     ?= $(or $(AETHER_STATE),/var/lib/aether)
LDFLAGS   := -s -w -X main.version=$(shell git describe --always --dirty 2>/dev/null || echo unknown)
# Tests that must not be skipped by `make test`: it has set these things up itself.
REQUIRE   := REQUIRE_DOCKER=1 REQUIRE_GVISOR=1 REQUIRE_QEMU=1 REQUIRE_IMAGE=1 REQUIRE_AGENT=1 REQUIRE_ROOT=1 \
             REQUIRE_KERNEL=1 REQUIRE_LAB=1 REQUIRE_IASL=1 REQUIRE_CC=1 REQUIRE_CHROMIUM=1 $(if $(wildcard /dev/kvm),REQUIRE_KVM=1)

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build agent
build: agent ## build bin/aether, one static binary
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/aether ./cmd/aether

agent: ## build what bin/aether carries inside: the guest agent, and the process of a VM
	$(GO) build -trimpath -ldflags '-s -w' -o $(AGENT) ./cmd/aether-agent
	$(GO) build -trimpath -ldflags '-s -w' -o $(CELL) ./cmd/aether-cell

.PHONY: peers peers-stop image kernels testdeps
testdeps: ## install what only the tests need (root, Debian)
	scripts/testdeps

peers: ## install, build and start the systems to be measured (root, Debian)
	scripts/peers

peers-stop: ## stop the Docker engine that `make peers` has started
	scripts/peers-docker stop

image: build ## make the guest image, a Debian with Python, unless it is there
	@if ! $(BIN)/aether image ls --quiet | grep -qx debian-python; then \
		mkdir -p $(STATE)/tmp && scripts/debian-rootfs $(STATE)/tmp/debian-python.tar && \
		$(BIN)/aether image build debian-python $(STATE)/tmp/debian-python.tar && \
		rm -f $(STATE)/tmp/debian-python.tar; \
	fi

kernels: build ## keep Debian's kernels for guests, Linux 6.1 and 6.12, unless they are there
	scripts/kernels

RUNS ?= 10
OUT  ?=
.PHONY: bench
bench: build peers image ## measure what this machine has, print the ranking, write the report
	$(BIN)/aether bench --runs $(RUNS) $(if $(OUT),--out $(OUT))

.PHONY: test unit conformance docs mcp load
test: testdeps check lint peers image kernels conformance mcp lab unit lab-test docs ## set up and run everything that CI runs

unit: agent ## all tests but the drivers', with the race detector
	CGO_ENABLED=1 $(REQUIRE) $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /internal/driver/)

# These look at the whole host for what a sandbox left behind, so they run one at a time.
conformance: agent ## the drivers against the real systems
	$(REQUIRE) $(GO) test -p 1 -timeout 40m ./internal/driver/...

mcp: testdeps build peers image ## MCP's conformance suite, and MCP clients from npm, against aether
	scripts/mcp-check

load: agent peers image ## 200 agents of two tenants at once for TIME on gVisor; OUT=DIRECTORY takes the raw result
	$(REQUIRE) AETHER_LOAD=$(or $(TIME),10m) $(if $(OUT),AETHER_LOAD_OUT=$(abspath $(OUT))) \
		$(GO) test -count 1 -timeout 60m -v -run 'TestLoad$$' ./internal/bench/load

docs: build ## run what the README says
	scripts/readme-check

.PHONY: lab lab-test
lab: build image kernels ## make the lab, a virtual machine with real KVM (docs/LAB.md)
	$(BIN)/aether lab build

lab-test: lab ## the tests that need real KVM, in the lab
	scripts/lab-test ./internal/kvm
	LABFLAGS="--mem 6144" TESTFLAGS="-test.v -test.run Linux" scripts/lab-test ./internal/machine ./internal/cell
	scripts/lab-test ./vmm
	LABFLAGS="--mem 6144" TESTFLAGS="-test.v -test.run Real/aethervm" scripts/lab-test ./internal/runtime
	scripts/lab-conformance

.PHONY: fork-bench
fork-bench: lab ## what copies cost beside KVM's own calls, natively and in the lab with --icount; results in bench/results
	scripts/fork-bench native
	scripts/fork-bench lab

.PHONY: scale-bench
scale-bench: agent ## what many copies of a guest of a few instructions cost on this host (root); OUT=FILE takes the samples
	$(GO) build -trimpath -o $(BIN)/scale-bench ./bench/scale
	$(BIN)/scale-bench -axis fanout $(if $(OUT),-out $(OUT))
	$(BIN)/scale-bench -axis share -n 1,2,4,8,16,32,64 $(if $(OUT),-out $(OUT))
	$(BIN)/scale-bench -axis sustain -n 10000 $(if $(OUT),-out $(OUT))
	$(BIN)/scale-bench -axis sustain -guest process -n 10000 $(if $(OUT),-out $(OUT))

.PHONY: race lint fuzz check generate tidy
race: agent ## all tests with the race detector, the drivers' too
	CGO_ENABLED=1 $(REQUIRE) $(GO) test -race -p 1 -timeout 60m ./...

lint: $(BIN)/golangci-lint ## golangci-lint with the rules of .golangci.yml
	$(BIN)/golangci-lint run ./...

$(BIN)/golangci-lint: tools/lint/go.mod
	$(GO) build -C tools/lint -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

FUZZTIME ?= 10s
fuzz: ## run every fuzz target for FUZZTIME each
	scripts/fuzz $(FUZZTIME)

generate: ## make generated files anew
	$(GO) generate ./...

tidy:
	$(GO) mod tidy

check: generate tidy ## fail if formatting, go.mod or generated files are not as committed
	@test -z "$$(gofmt -l bench cmd internal sandbox vmm vms)" || { echo "run gofmt on:"; gofmt -l bench cmd internal sandbox vmm vms; exit 1; }
	$(GO) vet ./...
	@git diff --exit-code -- go.mod go.sum '*.gen.go' '*_gen.go' docs || { echo "the above is not as committed"; exit 1; }

.PHONY: clean
clean: ## remove what was built here
	rm -rf $(BIN) $(AGENT) $(CELL)
