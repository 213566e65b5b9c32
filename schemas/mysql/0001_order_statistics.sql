-- Order statistics, how far they reach, and whose they are.
--
-- Rules for every file here: MySQL 8.0.17+ and MariaDB 10.6+ both accept it; each statement may run again, because DDL
-- commits by itself and a crash can fall between two statements; a statement ends with a semicolon at the end of a line.
-- Rights needed: SELECT, INSERT, UPDATE to write; CREATE, CREATE VIEW and DROP (for OR REPLACE) to apply these files.
--
-- Why the ids look as they do. Ids compare byte for byte: case, accents and trailing blanks count. utf8mb4_bin pads with
-- blanks, so 'm-1' and 'm-1 ' would be one merchant. VARBINARY would be exact, but most drivers hand it out as bytes and
-- dashboards show it as hexadecimal. Both servers have an unpadded binary collation of utf8mb4, only under different
-- names, and each ignores the other's conditional comment: /*M! */ speaks to MariaDB, /*!80017 */ to MySQL from 8.0.17
-- on (MariaDB skips the numbers 50700 to 99999). An older MySQL stops here with a syntax error rather than take a wrong
-- collation. The literal in WHERE merchant_id = 'm-1' takes on the column's collation, so the index is used.

CREATE TABLE IF NOT EXISTS order_stats_identity (
  singleton      TINYINT       NOT NULL COMMENT 'always 1: one schema belongs to one log and one group',
  cluster_id     VARCHAR(255)  NOT NULL,
  topic          VARCHAR(255)  NOT NULL,
  topic_id       VARCHAR(255)  NOT NULL COMMENT 'a topic that was deleted and created again has another one',
  consumer_group VARCHAR(1024) NOT NULL,
  claimed_at     DATETIME(3)   NOT NULL COMMENT 'UTC',
  PRIMARY KEY (singleton),
  CONSTRAINT order_stats_identity_is_one_row CHECK (singleton = 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;

CREATE TABLE IF NOT EXISTS order_stats_by_partition (
  window_start      DATETIME(3) NOT NULL COMMENT 'start of the minute, UTC',
  merchant_id       VARCHAR(128) CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */ NOT NULL,
  currency          CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  source_partition  INT           NOT NULL,
  transaction_count BIGINT        NOT NULL,
  order_count       BIGINT        NOT NULL COMMENT 'distinct orders within the row',
  amount_minor      DECIMAL(38,0) NOT NULL COMMENT 'sum, in minor units of the currency',
  max_amount_minor  BIGINT        NOT NULL,
  source_offset     BIGINT        NOT NULL COMMENT 'last record that changed the row; it only moves forward',
  updated_at        DATETIME(3)   NOT NULL COMMENT 'UTC',
  reconciled_at     DATETIME(3)   NULL COMMENT 'UTC; set by a repair, and from then on the service leaves the row alone',
  PRIMARY KEY (window_start, merchant_id, currency, source_partition)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;

CREATE TABLE IF NOT EXISTS order_stats_progress (
  source_partition INT         NOT NULL,
  source_offset    BIGINT      NOT NULL COMMENT 'the next record to be taken in: every record before it is in the tables',
  watermark        DATETIME(3) NULL COMMENT 'just before that record, UTC; NULL before the first valid record',
  updated_at       DATETIME(3) NOT NULL COMMENT 'UTC',
  PRIMARY KEY (source_partition)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;

-- SUM of an integer is a DECIMAL on both servers; the counts are cast back, so that programs get integers. A condition
-- on the grouped columns is pushed down to the primary key.
CREATE OR REPLACE VIEW order_stats AS
SELECT
  window_start,
  merchant_id,
  currency,
  CAST(SUM(transaction_count) AS SIGNED) AS transaction_count,
  CAST(SUM(order_count) AS SIGNED) AS order_count,
  CAST(SUM(amount_minor) AS DECIMAL(38,0)) AS amount_minor,
  MAX(max_amount_minor) AS max_amount_minor
FROM order_stats_by_partition
GROUP BY window_start, merchant_id, currency;
