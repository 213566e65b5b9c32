-- The last valid record of each order by (partition, offset); filled when stats.orders is true.

CREATE TABLE IF NOT EXISTS orders (
  order_id         VARCHAR(128) CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */ NOT NULL,
  user_id          VARCHAR(128) CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */ NOT NULL,
  merchant_id      VARCHAR(128) CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */ NOT NULL,
  amount_minor     BIGINT      NOT NULL COMMENT 'minor units of the currency',
  currency         CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  status           VARCHAR(64) CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */ NULL,
  event_time       DATETIME(3) NOT NULL COMMENT 'UTC',
  source_partition INT         NOT NULL,
  source_offset    BIGINT      NOT NULL,
  PRIMARY KEY (order_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;
