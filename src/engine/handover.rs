//! Giving partitions up without losing or repeating anything: on a rebalance, and when the process is asked to stop.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock;
use crate::domain::ids::PartitionId;
use crate::engine::hosts::Hosts;
use crate::engine::io::{IoThread, Owned};
use crate::log::Log;

/// How long records that were already handed to actors may take.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last commit may take before the partition is given up with its effects undecided: whoever takes it
/// over waits for the decision and replays.
const LAST_COMMIT: Duration = Duration::from_secs(20);
/// How long the database and the snapshot may take when the process stops.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// The two occasions on which partitions are given up.
pub trait Handover {
    /// Commits what the partitions have caused, then lets the group have them.
    fn hand_over(&mut self, partitions: &[PartitionId]);

    /// The same for all, with a last flush of statistics and a last snapshot.
    /// False when the last commit is not known to be decided.
    fn hand_over_everything(&mut self) -> bool;
}

impl<L: Log, H: Hosts<L::Batch>> Handover for IoThread<L, H> {
    fn hand_over(&mut self, partitions: &[PartitionId]) {
        tracing::info!("handing partitions {partitions:?} over");
        for &partition in partitions {
            self.wiring.monitor.revoking(partition);
        }
        let given: BTreeSet<_> = partitions.iter().copied().collect();
        self.drain_actors(&given);
        self.commit_everything();
        for &partition in partitions {
            self.park(partition);
        }
        self.log.stop(partitions, true);
    }

    fn hand_over_everything(&mut self) -> bool {
        tracing::info!("stopping: finishing what is under way");
        self.wiring.monitor.stopping();
        let all: BTreeSet<_> = self.owned.keys().copied().collect();
        self.drain_actors(&all);
        self.commit_everything();
        let is_decided = self.cycle.is_settled();
        self.last_writes();
        is_decided
    }
}

impl<L: Log, H: Hosts<L::Batch>> IoThread<L, H> {
    /// Waits until the actors have answered every batch that they were given; nothing new is read.
    fn drain_actors(&mut self, partitions: &BTreeSet<PartitionId>) {
        let deadline = clock::monotonic_now() + DRAIN;
        while clock::monotonic_now() < deadline && !self.wiring.supervisor.is_leaving() {
            self.wiring.monitor.heartbeat();
            self.actor_reports();
            let busy = self.owned.iter().any(|(partition, owned)| match owned {
                Owned::Running(running) => partitions.contains(partition) && running.in_flight > 0,
                _ => false,
            });
            if !busy {
                return;
            }
            self.log.wait(Duration::from_millis(1));
        }
    }

    /// Commits what there is, as long as the group does not say that it is somebody else's by now.
    fn commit_everything(&mut self) {
        let deadline = clock::monotonic_now() + LAST_COMMIT;
        while !self.cycle.is_settled() && clock::monotonic_now() < deadline && !self.wiring.supervisor.is_leaving() {
            self.losses();
            self.cycle.commit_at_once();
            self.wiring.monitor.heartbeat();
            if !self.commit() {
                self.log.wait(Duration::from_millis(5));
            }
        }
        if !self.cycle.is_settled() {
            tracing::warn!("the last commit is not decided in time; whoever takes the partitions over replays");
        }
    }

    /// One more flush and one more snapshot, so that the next start is short. Nothing depends on them.
    fn last_writes(&mut self) {
        let deadline = clock::monotonic_now() + LAST_WRITES;
        let actors: Vec<_> = self
            .owned
            .iter()
            .filter_map(|(partition, owned)| match owned {
                Owned::Running(running) => Some((*partition, running.actor.clone())),
                _ => None,
            })
            .collect();
        self.wiring.snapshots.request_last(&actors);
        self.wiring.statistics.request_last(&actors);
        while clock::monotonic_now() < deadline && !self.wiring.supervisor.is_leaving() {
            self.wiring.monitor.heartbeat();
            self.actor_reports();
            self.statistics_events();
            self.snapshot_events();
            self.wiring.snapshots.tick::<H::Host>(&[], clock::monotonic_ms(), &mut self.wiring.monitor);
            if self.wiring.snapshots.is_idle() && self.wiring.statistics.is_idle() {
                break;
            }
            self.log.wait(Duration::from_millis(5));
        }
        // What the last flush made final shortens the next replay.
        self.commit_everything();
    }
}
