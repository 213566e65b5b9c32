//! States of partitions that were handed over, kept for a while: a group that has grown and shrunk gives partitions back to
//! who had them, and then only what others took in between need be read again.
//!
//! A kept state is an offer, no more: a snapshot in memory. [`crate::protocol::recovery::decide`] takes it up where a snapshot
//! would serve, if there is none that reaches further.

use std::collections::BTreeMap;

use crate::domain::ids::PartitionId;
use crate::domain::partition::PartitionState;
use crate::engine::actor::Epoch;
use crate::protocol::metadata::LogIdentity;
use crate::protocol::recovery::ParkedHead;

/// How long a state is kept: what another instance has not touched for so long, it will have touched soon.
const KEPT_MS: u64 = 300_000;

/// A state, and the log that it was made from.
pub struct Parked {
    pub state: Box<PartitionState>,
    pub identity: LogIdentity,
}

impl Parked {
    #[must_use]
    pub fn head(&self) -> ParkedHead {
        ParkedHead {
            next: self.state.next(),
            identity: self.identity.clone(),
            parameters: self.state.parameters().clone(),
        }
    }
}

enum Place {
    /// The actor was asked for it.
    Awaited {
        epoch: Epoch,
        identity: LogIdentity,
    },
    Here(Parked),
}

/// See the module head.
#[derive(Default)]
pub struct Parking {
    places: BTreeMap<PartitionId, (u64, Place)>,
}

impl Parking {
    /// The partition's actor was asked for its state.
    pub fn expect(&mut self, partition: PartitionId, epoch: Epoch, identity: LogIdentity, now_ms: u64) {
        self.places.insert(partition, (now_ms, Place::Awaited { epoch, identity }));
    }

    /// The actor's answer; one that nobody waits for any more is dropped.
    pub fn arrived(&mut self, partition: PartitionId, epoch: Epoch, state: Box<PartitionState>) {
        let Some((_, place)) = self.places.get_mut(&partition) else { return };
        if let Place::Awaited { epoch: awaited, identity } = place
            && *awaited == epoch
        {
            *place = Place::Here(Parked { state, identity: identity.clone() });
        }
    }

    /// The partition came back, or went for good; in any case nothing is kept of it from here on.
    pub fn take(&mut self, partition: PartitionId) -> Option<Parked> {
        match self.places.remove(&partition) {
            Some((_, Place::Here(parked))) => Some(parked),
            _ => None,
        }
    }

    /// States that nobody has asked for in time.
    pub fn expired(&mut self, now_ms: u64) -> Vec<Parked> {
        let too_old = |(since_ms, _): &(u64, Place)| now_ms.saturating_sub(*since_ms) >= KEPT_MS;
        let old: Vec<_> =
            self.places.iter().filter(|(_, place)| too_old(place)).map(|(&partition, _)| partition).collect();
        old.into_iter().filter_map(|partition| self.take(partition)).collect()
    }
}
