# One command verifies what CI verifies: `make test`. Everything is installed on first use; see scripts/install.sh.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test chaos bench fmt clean

CACHE_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tallyguard
# Outside the tree, so that every checkout and every CI run shares one build of the dependencies.
export CARGO_TARGET_DIR ?= $(CACHE_DIR)/target

help: ## show the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## live traffic, alerts and the dashboard, without a broker or a database server (ARGS="--for 30s")
	@scripts/demo.sh $(ARGS)

test: ## formatting, lints, every test; ends with one line of counts
	@scripts/test.sh

chaos: ## half an hour of faults on a real broker, from a seed (MINUTES=30 SEED=1000)
	@scripts/install.sh all
	@TALLYGUARD_CHAOS_MINUTES=$(or $(MINUTES),30) TALLYGUARD_CHAOS_SEED=$(or $(SEED),1000) \
	  cargo test --release --test chaos rounds_of_chaos -- --ignored --nocapture

bench: ## the benchmarks, Flink and Kafka Streams among them (about two hours)
	@scripts/install.sh bench
	@cargo bench

fmt: ## format the Rust sources
	@cargo fmt

clean: ## remove the build and the downloaded broker
	@rm -rf "$(CARGO_TARGET_DIR)" "$(CACHE_DIR)/kafka-"*
