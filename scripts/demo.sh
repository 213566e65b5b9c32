#!/usr/bin/env bash
# Builds what is needed and runs the demo: no broker, no database server. Arguments go to `tallyguard demo`, for example
# `scripts/demo.sh --for 30s --crash-every 5s`; `tallyguard demo --help` has them all.
#
#   TALLYGUARD_BIN=     a binary to use instead of building one
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -z "${TALLYGUARD_BIN:-}" ]; then
  "$root/scripts/install.sh" build
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/tallyguard/target}"
  echo "demo: building (a first build takes about 15 minutes on two cores)"
  cargo build --release --bin tallyguard --manifest-path "$root/Cargo.toml"
  TALLYGUARD_BIN="$CARGO_TARGET_DIR/release/tallyguard"
fi
exec "$TALLYGUARD_BIN" demo "$@"
