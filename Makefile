# Two commands for newcomers: `make demo` and `make test`. Both install what is missing, asking nothing.

SHELL := /bin/bash
# Rust may have come with `tools` a moment ago, to a place where this shell does not look.
with_rust := deploy/install/with-rust
cargo := $(with_rust) cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
export MILLRACE_BIN := $(TARGET)/release
export KEEP ?=
# Namespaces, taps and XDP need root; builds do not.
ifneq ($(shell id -u),0)
SUDO := sudo --preserve-env=KEEP,MILLRACE_BIN
RUNNER := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='sudo --preserve-env'
endif

.PHONY: help demo test gate bench binaries tools clean
help:
	@echo 'make demo      two nodes with pods on this machine, in namespaces; KEEP=1 leaves them up'
	@echo 'make test      the gate, then every test'
	@echo 'make gate      what every commit passes'
	@echo 'make bench     the figures, printed and in target/bench/report.json'
	@echo 'make binaries  what a node runs, in $(MILLRACE_BIN)'

demo:
	@deploy/install/build-tools demo
	@$(MAKE) --no-print-directory binaries
	@$(SUDO) tests/demo/run

test: tools
	@$(cargo) --locked gate </dev/null
	@$(with_rust) tests/gate/suite

gate: tools
	@$(cargo) --locked gate </dev/null

bench:
	@deploy/install/build-tools demo
	@$(MAKE) --no-print-directory binaries
	@$(RUNNER) $(cargo) run --locked --release --package benches --

# The CNI binary is copied to hosts of any kind, so it is static; only its last step needs to know.
binaries:
	$(cargo) build --locked --release --package millrace-dataplane --package millrace-control --package hugepages --bins
	$(cargo) rustc --locked --release --package millrace-cni --bin millrace-cni -- -Ctarget-feature=+crt-static

tools:
	@deploy/install/build-tools tests
	@$(with_rust) deploy/install/cargo-deny

clean:
	$(cargo) clean
