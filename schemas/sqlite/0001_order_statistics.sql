-- Order statistics, how far they reach, and whose they are: the tables of schemas/mysql for the embedded mode.
--
-- Rules for every file here: SQLite 3.37 or later; each statement may run again; a statement ends with a semicolon at
-- the end of a line. Times are UTC texts, 'YYYY-MM-DD HH:MM:SS.SSS', which sort like the times they say. Texts compare
-- byte for byte (the collation BINARY, SQLite's default): case, accents and trailing blanks count.

CREATE TABLE IF NOT EXISTS order_stats_identity (
  singleton      INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1), -- one schema belongs to one log and one group
  cluster_id     TEXT    NOT NULL,
  topic          TEXT    NOT NULL,
  topic_id       TEXT    NOT NULL, -- a topic that was deleted and created again has another one
  consumer_group TEXT    NOT NULL,
  claimed_at     TEXT    NOT NULL  -- UTC
) STRICT;

CREATE TABLE IF NOT EXISTS order_stats_by_partition (
  window_start      TEXT    NOT NULL CHECK (length(window_start) = 23), -- start of the minute, UTC
  merchant_id       TEXT    NOT NULL CHECK (length(merchant_id) <= 128),
  currency          TEXT    NOT NULL CHECK (length(currency) = 3),
  source_partition  INTEGER NOT NULL,
  transaction_count INTEGER NOT NULL,
  order_count       INTEGER NOT NULL, -- distinct orders within the row
  amount_minor      INTEGER NOT NULL, -- sum, in minor units of the currency; a larger one than 64 bits hold is refused
  max_amount_minor  INTEGER NOT NULL,
  source_offset     INTEGER NOT NULL, -- last record that changed the row; it only moves forward
  updated_at        TEXT    NOT NULL, -- UTC
  reconciled_at     TEXT    NULL,     -- UTC; set by a repair, and from then on the service leaves the row alone
  PRIMARY KEY (window_start, merchant_id, currency, source_partition)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS order_stats_progress (
  source_partition INTEGER NOT NULL PRIMARY KEY,
  source_offset    INTEGER NOT NULL, -- the next record to be taken in: every record before it is in the tables
  watermark        TEXT    NULL CHECK (length(watermark) = 23), -- just before that record, UTC; NULL before the first valid record
  updated_at       TEXT    NOT NULL  -- UTC
) STRICT;

-- The amounts are added in two parts, of whole thousand millions and of the rest, because SUM ends in an error beyond 64
-- bits. A sum that fits is an integer; a larger one is the text of its digits.
CREATE VIEW IF NOT EXISTS order_stats AS
SELECT
  window_start,
  merchant_id,
  currency,
  transaction_count,
  order_count,
  CASE
    WHEN high + low / 1000000000 < 9223372036 THEN (high + low / 1000000000) * 1000000000 + low % 1000000000
    ELSE printf('%d%09d', high + low / 1000000000, low % 1000000000)
  END AS amount_minor,
  max_amount_minor
FROM (
  SELECT
    window_start,
    merchant_id,
    currency,
    SUM(transaction_count) AS transaction_count,
    SUM(order_count) AS order_count,
    SUM(amount_minor / 1000000000) AS high,
    SUM(amount_minor % 1000000000) AS low,
    MAX(max_amount_minor) AS max_amount_minor
  FROM order_stats_by_partition
  GROUP BY window_start, merchant_id, currency
);
