-- What reconciliation found, and the rule versions that it follows. JSON documents are kept as they were written.

CREATE TABLE IF NOT EXISTS reconciliation_runs (
  run_id      TEXT    NOT NULL PRIMARY KEY CHECK (length(run_id) <= 64),
  range_start TEXT    NOT NULL,           -- first window start of the range, UTC
  range_end   TEXT    NOT NULL,           -- exclusive, UTC
  started_at  TEXT    NOT NULL,           -- UTC
  finished_at TEXT    NULL,               -- UTC; NULL while it runs, or when it was interrupted
  partial     INTEGER NOT NULL DEFAULT 0, -- 0 or 1
  repair      INTEGER NOT NULL DEFAULT 0, -- 0 or 1
  source      TEXT    NULL,               -- JSON: topic, partitions and offsets that were read
  counts      TEXT    NULL,               -- JSON: breaks by class
  repaired    INTEGER NOT NULL DEFAULT 0,
  remaining   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS reconciliation_runs_by_range ON reconciliation_runs (range_start, range_end);

CREATE TABLE IF NOT EXISTS reconciliation_breaks (
  run_id       TEXT    NOT NULL CHECK (length(run_id) <= 64),
  break_number INTEGER NOT NULL, -- from 1, in the order of the report
  class        TEXT    NOT NULL, -- stats_missing, alert_missing, ...
  break_key    TEXT    NOT NULL, -- JSON
  expected     TEXT    NULL,     -- JSON
  found        TEXT    NULL,     -- JSON
  source       TEXT    NULL,     -- JSON: partitions and offsets of the records behind it
  repaired     INTEGER NOT NULL DEFAULT 0, -- 0 or 1
  PRIMARY KEY (run_id, break_number)
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS reconciliation_breaks_by_class ON reconciliation_breaks (class, run_id);

CREATE TABLE IF NOT EXISTS rule_history (
  rule_id          TEXT    NOT NULL CHECK (length(rule_id) <= 128),
  version          INTEGER NOT NULL,
  source_partition INTEGER NOT NULL,
  first_offset     INTEGER NOT NULL, -- first record of the partition that this version decides
  content          TEXT    NOT NULL, -- JSON: the rule as configured
  recorded_at      TEXT    NOT NULL, -- UTC
  PRIMARY KEY (rule_id, version, source_partition)
) STRICT, WITHOUT ROWID;
