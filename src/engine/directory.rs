//! The partition actors that run here, for those who only want to look.
//!
//! The I/O thread enters and removes them; whoever asks gets a copy of the addresses and never holds the lock while it
//! waits. A look goes through the actor's own mailbox, between two batches, so what it sees is one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use parking_lot::RwLock;
use tokio::time::timeout;

use crate::domain::ids::PartitionId;
use crate::engine::actor::{LookUp, PartitionActor};
use crate::http::{Answering, UserInPartition, Users};

/// An actor that has its mailbox full of batches answers behind them.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module head. A clone is another handle to the same directory.
#[derive(Clone, Default)]
pub struct ActorDirectory {
    actors: Arc<RwLock<BTreeMap<PartitionId, Addr<PartitionActor>>>>,
}

impl ActorDirectory {
    pub fn enter(&self, partition: PartitionId, actor: Addr<PartitionActor>) {
        self.actors.write().insert(partition, actor);
    }

    pub fn remove(&self, partition: PartitionId) {
        self.actors.write().remove(&partition);
    }
}

impl Users for ActorDirectory {
    fn look_up(&self, user_id: &str) -> Answering<'_, Vec<UserInPartition>> {
        let actors: Vec<_> = self.actors.read().iter().map(|(&partition, actor)| (partition, actor.clone())).collect();
        let user_id: Arc<str> = Arc::from(user_id);
        Box::pin(async move {
            // All are asked before the first answer is awaited, so the waits are not added up.
            let asked: Vec<_> = actors
                .into_iter()
                .map(|(partition, actor)| {
                    let question = LookUp(Arc::clone(&user_id));
                    (partition, actix::spawn(async move { timeout(PATIENCE, actor.send(question)).await }))
                })
                .collect();
            let mut answers = Vec::with_capacity(asked.len());
            for (partition, answer) in asked {
                // Out of time, or the actor has ended since: either way it does not say.
                let counts = answer.await.ok().and_then(Result::ok).and_then(Result::ok);
                answers.push(UserInPartition { partition, counts });
            }
            answers
        })
    }
}
