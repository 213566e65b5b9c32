#!/usr/bin/env bash
# A live run on a real Kafka broker and a real MariaDB: generated traffic in, alerts on the terminal, a summary at the
# end. Everything lives in a temporary folder and on free ports of 127.0.0.1, and is gone afterwards.
#
#   DEMO_SECONDS=30     how long traffic flows
#   DEMO_RATE=200       transactions a second
#   DEMO_USERS=300      users they belong to
#   DEMO_SEED=7         the same seed gives the same users and amounts
#   TALLYGUARD_BIN=     a binary to use instead of building one
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
seconds="${DEMO_SECONDS:-30}" rate="${DEMO_RATE:-200}" users="${DEMO_USERS:-300}" seed="${DEMO_SEED:-7}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tallyguard"

say() { printf 'demo: %s\n' "$*"; }
fail() {
  printf 'demo: error: %s\n' "$1" >&2
  if [ -n "${2:-}" ]; then tail -n 30 "$2" >&2 || true; fi
  exit 1
}

"$root/scripts/install.sh" kafka
"$root/scripts/install.sh" mariadb
if [ -z "${TALLYGUARD_BIN:-}" ]; then
  "$root/scripts/install.sh" build
  export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
  say "building (a first build takes about 15 minutes on two cores)"
  cargo build --release --bin tallyguard --manifest-path "$root/Cargo.toml"
  TALLYGUARD_BIN="$CARGO_TARGET_DIR/release/tallyguard"
fi

# The reaper ends what this script starts, also when this script is killed; fd 9 is what keeps it waiting, so no child
# may inherit it.
work="$(mktemp -d "${TMPDIR:-/tmp}/tallyguard-demo.XXXXXX")"
exec 9> >(exec "$root/scripts/reaper.sh")
reaper=$!
echo "remove $work" >&9
finish() {
  exec 9>&-
  wait "$reaper" 2>/dev/null || true
}
trap finish EXIT
trap 'say "interrupted"; exit 130' INT TERM

# Starts a command in the background with its output in a file; its process id is then in $started.
start() {
  local log="$1"
  shift
  "$@" >>"$log" 2>&1 </dev/null 9>&- &
  started=$!
  echo "watch $started" >&9
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
  local port
  while :; do
    port=$((15000 + RANDOM % 17000))
    answers "$port" || break
  done
  echo "$port"
}
# wait_for SECONDS WHAT PID LOG COMMAND...: until the command succeeds; fails with the log when the process ends first.
wait_for() {
  local deadline=$((SECONDS + $1)) what="$2" pid="$3" log="$4"
  shift 4
  until "$@"; do
    kill -0 "$pid" 2>/dev/null || fail "$what ended" "$log"
    [ "$SECONDS" -lt "$deadline" ] || fail "$what did not answer in time" "$log"
    sleep 0.2
  done
}
http_get() {
  local line
  {
    exec 3<>"/dev/tcp/127.0.0.1/$http_port" || return 1
  } 2>/dev/null
  printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$1" >&3
  timeout 5 cat <&3 || true
  exec 3>&-
}
is_ready() { http_get /readyz | head -n 1 | grep -q ' 200'; }

broker_port="$(free_port)" controller_port="$(free_port)" database_port="$(free_port)" http_port="$(free_port)"
say "starting a Kafka broker and a MariaDB server in $work"
start "$work/broker.log" "$root/scripts/broker.sh" "$work/broker" "$broker_port" "$controller_port"
broker=$started
start "$work/database.log" "$root/scripts/database.sh" "$work/database" "$database_port"
database=$started
wait_for 90 "the Kafka broker" "$broker" "$work/broker.log" answers "$broker_port"
wait_for 90 "MariaDB" "$database" "$work/database.log" answers "$database_port"

config="$work/tallyguard.toml"
cat >"$config" <<TOML
[instance]
id = "demo"
state_dir = "$work/state"

[source]
kind = "kafka"
topic = "transactions"
group = "tallyguard"

[kafka]
brokers = "127.0.0.1:$broker_port"

[[rules]]
id = "velocity-1m"
version = 1
window = "1m"
max_transactions = 10
severity = "high"

[alerts]
topic = "alerts"
late_topic = "transactions.late"
dead_letter_topic = "transactions.dead-letter"

[stats]
enabled = true
url = "mysql://tallyguard@127.0.0.1:$database_port/tallyguard"
password = "tallyguard"

[http]
listen = "127.0.0.1:$http_port"
TOML
"$TALLYGUARD_BIN" topics create --config "$config" >"$work/topics.log" 2>&1 9>&- ||
  fail "the topics could not be created" "$work/topics.log"

start "$work/service.log" "$TALLYGUARD_BIN" run --config "$config"
service=$started
# An independent reader: Kafka's own console consumer, which shows only what is committed.
start "$work/alerts.ndjson" java -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$cache/kafka-4.1.1/libs/*" \
  org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "127.0.0.1:$broker_port" \
  --topic alerts --from-beginning --isolation-level read_committed
wait_for 60 "tallyguard" "$service" "$work/service.log" is_ready

in_plain_words() {
  awk '
    function field(name) {
      if (!match($0, "\"" name "\":(\"[^\"]*\"|[0-9]+)")) return "?"
      value = substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
      gsub(/"/, "", value)
      return value
    }
    /^\{/ {
      printf "  ALERT (%s) %s: %s, in the minute of %s, seen at transaction %s\n", \
        field("severity"), field("user_id"), field("reason"), field("window_start"), field("transaction_id")
      fflush()
    }'
}
# Bash starts no background pipe with a single process id worth watching: the reaper watches both ends.
exec 8< <(exec tail -n +1 -F "$work/alerts.ndjson" 2>/dev/null 9>&-)
echo "watch $!" >&9
in_plain_words <&8 9>&- &
echo "watch $!" >&9

say "status: http://127.0.0.1:$http_port/api/v1/status   dashboard: http://127.0.0.1:$http_port/"
say "$rate transactions a second by $users users for $seconds s; an alert at the 11th of a user within a minute:"
start "$work/generate.log" "$TALLYGUARD_BIN" generate --config "$config" --events $((rate * seconds)) \
  --users "$users" --rate "$rate" --seed "$seed"
generator=$started

deadline=$((SECONDS + seconds))
while [ "$SECONDS" -lt "$deadline" ]; do
  kill -0 "$service" 2>/dev/null || fail "tallyguard ended" "$work/service.log"
  sleep 0.5
done
# The generator may still have its last second to send; then the pipeline gets a moment to commit it.
for _ in {1..50}; do
  kill -0 "$generator" 2>/dev/null || break
  sleep 0.1
done
generator_code=0
if kill -0 "$generator" 2>/dev/null; then kill "$generator"; else wait "$generator" || generator_code=$?; fi
[ "$generator_code" -eq 0 ] || fail "the load generator left with $generator_code" "$work/generate.log"
sleep 2

printf '\n'
say "summary"
http_get /metrics | sed -n 's/^tallyguard_records_total{outcome="\([a-z_]*\)"} \(.*\)/  records \1: \2/p'
printf '  alerts committed: %s\n' "$(grep -c '^{' "$work/alerts.ndjson" || true)"
if command -v mariadb >/dev/null 2>&1; then
  mariadb --no-defaults -S "$work/database/mariadb.sock" -u root -N tallyguard -e \
    'SELECT CONCAT("  order statistics: ", COUNT(*), " rows, ", COALESCE(SUM(transaction_count), 0), " transactions") FROM order_stats' \
    2>/dev/null || printf '  order statistics: none yet\n'
fi
kill -TERM "$service"
service_code=0
wait "$service" || service_code=$?
echo "forget $service" >&9
printf '  tallyguard left with exit code %s\n' "$service_code"
exit "$service_code"
