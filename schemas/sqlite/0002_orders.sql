-- The last valid record of each order by (partition, offset); filled when stats.orders is true.

CREATE TABLE IF NOT EXISTS orders (
  order_id         TEXT    NOT NULL PRIMARY KEY CHECK (length(order_id) <= 128),
  user_id          TEXT    NOT NULL CHECK (length(user_id) <= 128),
  merchant_id      TEXT    NOT NULL CHECK (length(merchant_id) <= 128),
  amount_minor     INTEGER NOT NULL, -- minor units of the currency
  currency         TEXT    NOT NULL CHECK (length(currency) = 3),
  status           TEXT    NULL CHECK (length(status) <= 64),
  event_time       TEXT    NOT NULL CHECK (length(event_time) = 23), -- UTC
  source_partition INTEGER NOT NULL,
  source_offset    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
