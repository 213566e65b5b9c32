#!/usr/bin/env bash
# Provides what the build, the tests and the demo need, and says in one line each what it found or did.
#
#   scripts/install.sh build     compiler packages and the Rust toolchain
#   scripts/install.sh kafka     Java, Maven and the jars of a real Kafka broker
#   scripts/install.sh mariadb   the MariaDB server program (no system service is used or started)
#   scripts/install.sh peers     the programs that the benchmark compares with, built with Maven
#   scripts/install.sh chromium  the browser that the tests look at the dashboard with
#   scripts/install.sh valgrind  what watches the memory of the tests with `unsafe`, and counts the benchmarks' instructions
#   scripts/install.sh bench     what the benchmarks need: build, kafka, mariadb, peers, valgrind
#   scripts/install.sh all       what the tests need: all of them but the peers
#
# Needs: Debian or Ubuntu for what has to be installed (root or sudo); on another system it only checks, and names what
# is missing. Running it again changes nothing and takes well under a second.
set -euo pipefail

KAFKA_VERSION=4.1.1
SLF4J_VERSION=1.7.36
DEPENDENCY_PLUGIN=org.apache.maven.plugins:maven-dependency-plugin:3.8.1
CACHE_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/tallyguard"
KAFKA_DIR="$CACHE_DIR/kafka-$KAFKA_VERSION"

say() { printf 'install: %s\n' "$*"; }
fail() {
  printf 'install: error: %s\n' "$*" >&2
  exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif has sudo; then
    sudo "$@"
  else
    fail "must be root, or have sudo, to run: $*"
  fi
}

# The package lists are refreshed at most once a run, and only when something has to be installed.
lists_are_fresh=no
apt_install() {
  has apt-get || fail "please install: $* (there is no apt-get here to do it)"
  if [ "$lists_are_fresh" = no ]; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null || fail "apt-get update failed"
    lists_are_fresh=yes
  fi
  say "installing with apt-get: $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null ||
    fail "apt-get could not install: $*"
}

# Debian knows exactly what is there. Elsewhere the programs are looked for, and a missing library shows in the build.
install_build_packages() {
  local missing=() package tool
  if has dpkg-query; then
    for package in clang libclang-dev libssl-dev zlib1g-dev pkg-config make g++; do
      dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
  else
    for tool in clang pkg-config make g++; do
      has "$tool" || missing+=("$tool")
    done
  fi
  if [ "${#missing[@]}" -gt 0 ]; then apt_install "${missing[@]}"; fi
  say "build packages: present"
}

check_rust() {
  has cargo || fail "cargo is missing: install Rust 1.89 or newer with rustup"
  local version minor
  version="$(rustc --version | cut -d ' ' -f 2)"
  minor="${version#1.}"
  minor="${minor%%.*}"
  [ "$minor" -ge 89 ] || fail "Rust $version is too old: 1.89 or newer is needed"
  cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt >/dev/null 2>&1 || fail "rustfmt is missing"
  cargo clippy --version >/dev/null 2>&1 || rustup component add clippy >/dev/null 2>&1 || fail "clippy is missing"
  say "rust: $version"
}

java_major() {
  has java || return 0
  java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1
}

install_java() {
  local major
  major="$(java_major)"
  if [ "${major:-0}" -lt 17 ]; then
    if has apt-cache && [ -n "$(apt-cache search --names-only '^openjdk-17-jre-headless$' 2>/dev/null)" ]; then
      apt_install openjdk-17-jre-headless
    else
      apt_install default-jre-headless
    fi
    major="$(java_major)"
    [ "${major:-0}" -ge 17 ] || fail "Java 17 or newer is needed, found: ${major:-none}"
  fi
  say "java: $major"
}

# The jars are gathered beside their final place and renamed into it as the last step, so that the folder is either
# complete or absent, also after an interruption and with two runs at once.
install_kafka_jars() {
  if [ -d "$KAFKA_DIR/libs" ]; then
    say "kafka $KAFKA_VERSION: present in $KAFKA_DIR"
    return
  fi
  has mvn || apt_install maven
  mkdir -p "$CACHE_DIR"
  local work attempt done=no
  work="$(mktemp -d "$CACHE_DIR/kafka-download.XXXXXX")"
  # shellcheck disable=SC2064 # the folder of this run, expanded now
  trap "rm -rf '$work'" EXIT
  write_pom >"$work/pom.xml"
  say "kafka $KAFKA_VERSION: downloading the broker's jars with Maven"
  for attempt in 1 2 3; do
    if mvn -q -B -f "$work/pom.xml" "$DEPENDENCY_PLUGIN:copy-dependencies" \
      -DoutputDirectory="$work/kafka/libs" -DincludeScope=runtime >"$work/maven.log" 2>&1; then
      done=yes
      break
    fi
    say "kafka $KAFKA_VERSION: attempt $attempt failed"
  done
  if [ "$done" = no ]; then
    tail -n 20 "$work/maven.log" >&2
    fail "Maven could not fetch Kafka $KAFKA_VERSION"
  fi
  ls "$work/kafka/libs/kafka_2.13-$KAFKA_VERSION.jar" "$work/kafka/libs/kafka-tools-$KAFKA_VERSION.jar" >/dev/null
  mv -T "$work/kafka" "$KAFKA_DIR" 2>/dev/null || [ -d "$KAFKA_DIR/libs" ] || fail "could not create $KAFKA_DIR"
  rm -rf "$work"
  trap - EXIT
  say "kafka $KAFKA_VERSION: installed in $KAFKA_DIR"
}

write_pom() {
  cat <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tallyguard</groupId>
  <artifactId>kafka-broker</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>$SLF4J_VERSION</version></dependency>
  </dependencies>
</project>
POM
}

# Only the server program and its tables are wanted. The full package would register and start a system service.
install_mariadb() {
  PATH="$PATH:/usr/sbin:/usr/local/sbin"
  if ! has mariadbd || ! has mariadb-install-db; then
    apt_install mariadb-server-core mariadb-client-core
  fi
  has mariadbd || fail "mariadbd is still missing"
  has mariadb-install-db || fail "mariadb-install-db is still missing"
  say "mariadb: $(mariadbd --version | sed -n 's/.*Ver \([^ ]*\).*/\1/p')"
}

install_valgrind() {
  has valgrind || apt_install valgrind
  say "valgrind: present"
}

# Whatever has the name already is used: the tests need its debugging pipe and nothing else of it. A page without any font
# has no text to look at.
install_chromium() {
  local name program=
  for name in chromium chromium-browser google-chrome; do
    if has "$name"; then
      program="$name"
      break
    fi
  done
  if [ -z "$program" ]; then
    apt_install chromium fonts-dejavu-core
    program=chromium
  fi
  has "$program" || fail "chromium is still missing"
  say "chromium: $("$program" --version 2>/dev/null | sed 's/[^0-9]*\([0-9.]*\).*/\1/')"
}

# Built anew when a source is newer than the build. Whoever runs another build at the same time uses another cache.
install_peers() {
  local source dir="$CACHE_DIR/peers"
  source="$(cd "$(dirname "${BASH_SOURCE[0]}")/../benches/peers" && pwd)"
  if [ ! -e "$dir/built" ] || [ -n "$(find "$source" -type f -newer "$dir/built" -print -quit)" ]; then
    has javac || apt_install openjdk-17-jdk-headless
    has mvn || apt_install maven
    mkdir -p "$dir"
    say "peers: building with Maven"
    mvn -q -B -f "$source/pom.xml" -Dpeers.output="$dir" package >"$dir/maven.log" 2>&1 || {
      tail -n 20 "$dir/maven.log" >&2
      fail "Maven could not build $source"
    }
    touch "$dir/built"
  fi
  say "peers: present in $dir"
}

case "${1:-all}" in
  build)
    install_build_packages
    check_rust
    ;;
  kafka)
    install_java
    install_kafka_jars
    ;;
  mariadb) install_mariadb ;;
  chromium) install_chromium ;;
  valgrind) install_valgrind ;;
  bench)
    install_build_packages
    check_rust
    install_java
    install_kafka_jars
    install_mariadb
    install_peers
    install_valgrind
    ;;
  peers)
    install_java
    install_peers
    ;;
  all)
    install_build_packages
    check_rust
    install_java
    install_kafka_jars
    install_mariadb
    install_chromium
    install_valgrind
    ;;
  *)
    printf 'usage: %s [build|kafka|mariadb|chromium|valgrind|peers|bench|all]\n' "$0" >&2
    exit 2
    ;;
esac
