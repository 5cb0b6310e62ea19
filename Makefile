# Two commands for newcomers: `make demo` and `make test`. Both install what is missing, asking nothing.

SHELL := /bin/bash
# Rust may have come with `tools` a moment ago, to a place where this shell does not look.
RUST := deploy/install/with-rust
CARGO := $(RUST) cargo
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
	@$(CARGO) gate </dev/null
	@$(RUST) tests/gate/suite

gate: tools
	@$(CARGO) gate </dev/null

bench:
	@deploy/install/build-tools demo
	@$(MAKE) --no-print-directory binaries
	@$(RUNNER) $(CARGO) run --locked --release --package benches --

# The CNI binary is copied to hosts of any kind, so it is static; only its last step needs to know.
binaries:
	$(CARGO) build --locked --release --package millrace-dataplane --package millrace-control --package hugepages --bins
	$(CARGO) rustc --locked --release --package millrace-cni --bin millrace-cni -- -Ctarget-feature=+crt-static

tools:
	@deploy/install/build-tools tests
	@$(RUST) deploy/install/cargo-deny

clean:
	$(CARGO) clean
