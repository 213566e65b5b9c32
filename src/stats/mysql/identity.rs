//! The row that says which log and group a schema belongs to.

use sqlx::Row;
use sqlx::mysql::MySqlConnection;

use crate::stats::Identity;

/// # Errors
/// Those of the database; a schema without the table included.
pub async fn read(connection: &mut MySqlConnection) -> Result<Option<Identity>, sqlx::Error> {
    let row = sqlx::query("SELECT cluster_id, topic, topic_id, consumer_group FROM order_stats_identity")
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        // Unchecked: sqlx takes a text for bytes when the server's default collation is a binary one.
        Ok(Identity {
            cluster_id: row.try_get_unchecked(0)?,
            topic: row.try_get_unchecked(1)?,
            topic_id: row.try_get_unchecked(2)?,
            group: row.try_get_unchecked(3)?,
        })
    })
    .transpose()
}

/// Claims a schema that belongs to no one yet, and says whose it is now. Of two that claim at once one wins.
///
/// # Errors
/// Those of the database.
pub async fn claim(connection: &mut MySqlConnection, identity: &Identity) -> Result<Identity, sqlx::Error> {
    if read(connection).await?.is_none() {
        // Not INSERT IGNORE: that would also cut a text that is too long.
        sqlx::query(
            "INSERT INTO order_stats_identity (singleton, cluster_id, topic, topic_id, consumer_group, claimed_at) \
             VALUES (1, ?, ?, ?, ?, UTC_TIMESTAMP(3)) ON DUPLICATE KEY UPDATE singleton = singleton",
        )
        .bind(&identity.cluster_id)
        .bind(&identity.topic)
        .bind(&identity.topic_id)
        .bind(&identity.group)
        .execute(&mut *connection)
        .await?;
    }
    read(connection).await?.ok_or(sqlx::Error::RowNotFound)
}
