#!/usr/bin/env bash
# Becomes a MariaDB server of its own for tests and the demo.
#
#   scripts/database.sh DIR PORT [SERVER-OPTION …]
#
# DIR holds its data, its socket (DIR/mariadb.sock) and its log: the first call creates the system tables, later calls
# go on with what is there, also after a hard kill. It listens on 127.0.0.1 only and leaves the system's server alone.
# The process that was started becomes the server (exec). Accounts: root without a password through the socket only,
# and `tallyguard` with the password `tallyguard` over TCP. Needs `scripts/install.sh mariadb` to have run.
set -euo pipefail

dir="$1" port="$2"
PATH="$PATH:/usr/sbin:/usr/local/sbin"
as_user=()
if [ "$(id -u)" -eq 0 ]; then as_user=(--user=root); fi

mkdir -p "$dir"
if [ ! -e "$dir/data.complete" ]; then
  rm -rf "$dir/data"
  mariadb-install-db --no-defaults "${as_user[@]}" --datadir="$dir/data" --skip-test-db \
    --auth-root-authentication-method=normal >"$dir/install.log" 2>&1 || {
    cat "$dir/install.log" >&2
    exit 1
  }
  touch "$dir/data.complete"
fi

# Executed at every start; one statement a line.
cat >"$dir/init.sql" <<'SQL'
DROP USER IF EXISTS 'root'@'127.0.0.1', 'root'@'::1';
CREATE USER IF NOT EXISTS 'tallyguard'@'127.0.0.1' IDENTIFIED BY 'tallyguard';
GRANT ALL PRIVILEGES ON *.* TO 'tallyguard'@'127.0.0.1';
CREATE DATABASE IF NOT EXISTS tallyguard;
SQL

exec mariadbd --no-defaults "${as_user[@]}" --datadir="$dir/data" --socket="$dir/mariadb.sock" --port="$port" \
  --bind-address=127.0.0.1 --skip-name-resolve --init-file="$dir/init.sql" --pid-file="$dir/mariadb.pid" \
  --character-set-server=utf8mb4 --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --performance-schema=OFF "${@:3}"
