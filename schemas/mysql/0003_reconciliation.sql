-- What reconciliation found, and the rule versions that it follows. The LONGTEXT columns hold JSON documents; plain text
-- keeps them byte for byte and reads the same on both servers.

CREATE TABLE IF NOT EXISTS reconciliation_runs (
  run_id      VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  range_start DATETIME(3) NOT NULL COMMENT 'first window start of the range, UTC',
  range_end   DATETIME(3) NOT NULL COMMENT 'exclusive, UTC',
  started_at  DATETIME(3) NOT NULL COMMENT 'UTC',
  finished_at DATETIME(3) NULL COMMENT 'UTC; NULL while it runs, or when it was interrupted',
  partial     BOOLEAN     NOT NULL DEFAULT FALSE,
  repair      BOOLEAN     NOT NULL DEFAULT FALSE,
  source      LONGTEXT    NULL COMMENT 'JSON: topic, partitions and offsets that were read',
  counts      LONGTEXT    NULL COMMENT 'JSON: breaks by class',
  repaired    BIGINT      NOT NULL DEFAULT 0,
  remaining   BIGINT      NOT NULL DEFAULT 0,
  PRIMARY KEY (run_id),
  KEY reconciliation_runs_by_range (range_start, range_end)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;

CREATE TABLE IF NOT EXISTS reconciliation_breaks (
  run_id       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  break_number BIGINT      NOT NULL COMMENT 'from 1, in the order of the report',
  class        VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'stats_missing, alert_missing, ...',
  break_key    LONGTEXT    NOT NULL COMMENT 'JSON',
  expected     LONGTEXT    NULL COMMENT 'JSON',
  found        LONGTEXT    NULL COMMENT 'JSON',
  source       LONGTEXT    NULL COMMENT 'JSON: partitions and offsets of the records behind it',
  repaired     BOOLEAN     NOT NULL DEFAULT FALSE,
  PRIMARY KEY (run_id, break_number),
  KEY reconciliation_breaks_by_class (class, run_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;

CREATE TABLE IF NOT EXISTS rule_history (
  rule_id          VARCHAR(128) CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */ NOT NULL,
  version          INT UNSIGNED NOT NULL,
  source_partition INT          NOT NULL,
  first_offset     BIGINT       NOT NULL COMMENT 'first record of the partition that this version decides',
  content          LONGTEXT     NOT NULL COMMENT 'JSON: the rule as configured',
  recorded_at      DATETIME(3)  NOT NULL COMMENT 'UTC',
  PRIMARY KEY (rule_id, version, source_partition)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;
