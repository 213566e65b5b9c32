#!/usr/bin/env bash
# Everything that must hold before a change goes in, cheapest first. Its last line is `N passed, N failed`, the sum over
# all test binaries. Fails when a test failed, when anything before the tests failed, or when no test ran at all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

step "install"
scripts/install.sh all

step "shell scripts"
scripts=(scripts/*.sh benches/peers/run.sh .ci/run)
for script in "${scripts[@]}"; do bash -n "$script"; done
if command -v shellcheck >/dev/null 2>&1; then shellcheck "${scripts[@]}"; fi

step "formatting"
cargo fmt --check

step "lints"
cargo clippy --release --all-targets -- -D warnings

results="$(mktemp)"
trap 'rm -f "$results"' EXIT
status=0
run_tests() {
  step "cargo test --release $*"
  cargo test --release --no-fail-fast "$@" | tee -a "$results" || status=1
}

run_tests --lib --bins
# These share one broker and one database per test binary: more at a time than this only makes them wait for each other.
RUST_TEST_THREADS="${RUST_TEST_THREADS:-2}" run_tests --test '*'
run_tests --doc
# Whatever is used after it was freed, freed twice or lost makes the test binary fail. It runs in the package's folder.
memory="$(mktemp -d)"
trap 'rm -rf "$results" "$memory"' EXIT
host="$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')"
valgrind="valgrind --log-file=$memory/%p --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite"
export "CARGO_TARGET_${host}_RUNNER=$valgrind --show-leak-kinds=definite --suppressions=tests/valgrind.supp"
run_tests --lib log::kafka::native
unset "CARGO_TARGET_${host}_RUNNER"
# The last count must be of some tests, and every process of them must have been watched and found clean.
if grep '^test result:' "$results" | tail -n 1 | grep -q ' 0 passed' || [ -z "$(ls -A "$memory")" ]; then
  echo "valgrind has watched no test"
  status=1
elif [ -n "$(grep -L 'ERROR SUMMARY: 0 errors' "$memory"/*)" ]; then
  cat "$memory"/*
  echo "valgrind found something"
  status=1
fi
# The library once more, with deliberate errors that can be switched on: the simulation must find each of them.
run_tests --features mutants --test simulation simulation_finds_each_error

step "benchmarks, tiny: they still work"
cargo test --release --bench '*' -- --quick || status=1

step "result"
awk -v status="$status" '
  /^test result:/ {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
    }
  }
  END {
    if (status != 0 && failed == 0) print "a test binary did not build or did not finish"
    if (passed + failed == 0) print "no test ran"
    printf "%d passed, %d failed\n", passed, failed
    exit (status != 0 || failed > 0 || passed + failed == 0) ? 1 : 0
  }' "$results"
