# Two commands for newcomers: `make demo` and `make test`. Both install what is missing, asking nothing.

SHELL := /bin/bash
export PATH := $(shell deploy/install/rust-path)
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
# The demo and the privileged tests make network namespaces.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env=PATH,KEEP,MILLRACE_BIN,TERM)
KEEP ?=

.PHONY: help demo test bench gate binaries tools clean
help:
	@echo 'make demo          two nodes with pods on this machine, in namespaces; KEEP=1 leaves them up'
	@echo 'make test          the gate, then every test'
	@echo 'make bench         the figures, into target/bench/report.json'
	@echo 'make gate          what every commit passes: cargo gate [check..]'
	@echo 'make binaries      release binaries, into $(TARGET)/release'

demo:
	@deploy/install/build-tools demo
	@$(MAKE) --no-print-directory binaries
	@$(SUDO) env KEEP='$(KEEP)' MILLRACE_BIN='$(TARGET)/release' tests/demo/run

test: tools
	@cargo gate </dev/null
	@tests/gate/suite

gate: tools
	@cargo gate

bench:
	@deploy/install/build-tools demo
	@$(SUDO) true # asks once, before the build
	cargo run --locked --release --package benches --

# The CNI binary is copied to hosts of any kind, so it is static; only its last step needs to know.
binaries:
	cargo build --locked --release --package millrace-dataplane --package millrace-control --package hugepages --bins
	cargo rustc --locked --release --package millrace-cni --bin millrace-cni -- -Ctarget-feature=+crt-static

tools:
	@deploy/install/build-tools tests
	@deploy/install/cargo-deny

clean:
	cargo clean
