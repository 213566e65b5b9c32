//! What actors, the statistics writer and the snapshot thread tell the I/O thread.

use crate::cli::exit::Exit;
use crate::clock;
use crate::engine::actor::{FromActor, Report};
use crate::engine::hosts::{Host, Hosts};
use crate::engine::io::{IoThread, Owned};
use crate::log::Log;
use crate::state::SnapshotEvent;
use crate::stats::StatsEvent;

impl<L: Log, H: Hosts<L::Batch>> IoThread<L, H> {
    pub(super) fn actor_reports(&mut self) -> bool {
        let mut busy = false;
        while let Ok(message) = self.wiring.reports.1.try_recv() {
            busy = true;
            self.actor_report(message);
        }
        busy
    }

    fn actor_report(&mut self, message: FromActor) {
        let FromActor { partition, epoch, report } = message;
        let running = match self.owned.get_mut(&partition) {
            Some(Owned::Running(running)) if running.epoch == epoch => Some(running),
            _ => None,
        };
        match (report, running) {
            (Report::Parked(state), _) => self.parking.arrived(partition, epoch, state),
            (_, None) => {}
            (Report::Applied(applied), Some(running)) => {
                running.in_flight -= 1;
                running.next = applied.next;
                if applied.has_shed_statistics && !running.has_shed_statistics {
                    running.has_shed_statistics = true;
                    self.wiring.snapshots.suspend(partition);
                }
                self.wiring.monitor.applied(partition, &applied);
                if let Some(effects) = applied.effects {
                    self.cycle.effects(partition, effects);
                }
                self.note_live(partition);
            }
            (Report::Acknowledged(effects), _) => self.cycle.effects(partition, effects),
            (Report::Flush { flush, pending_statistics }, _) => {
                let committed = self.cycle.committed(partition).map(|progress| progress.next.offset);
                self.wiring.statistics.taken(partition, flush, committed);
                // Both at once: rows that only change hands never look as if they had arrived.
                self.wiring.monitor.statistics_under_way(self.wiring.statistics.rows_waiting());
                self.wiring.monitor.statistics_pending(partition, pending_statistics);
            }
            (Report::Snapshot { delta, through, whole }, _) => {
                self.wiring.snapshots.taken(partition, delta, through, whole);
            }
        }
    }

    pub(super) fn statistics_events(&mut self) -> bool {
        let mut busy = false;
        while let Ok(event) = self.wiring.statistics_events.try_recv() {
            busy = true;
            if let StatsEvent::Acknowledged { partition, through } = event
                && self.wiring.statistics.acknowledged(partition, through)
                && let Some(Owned::Running(running)) = self.owned.get(&partition)
                && running.actor.flush_acknowledged(through).is_err()
            {
                self.wiring.supervisor.fail(format!("the actor of partition {partition} is gone"));
            }
            match &event {
                StatsEvent::Unavailable { .. } => self.database_up_since_ms = None,
                _ => {
                    self.database_up_since_ms.get_or_insert_with(clock::monotonic_ms);
                }
            }
            if let StatsEvent::IdentityMismatch { found } = &event {
                self.wiring.supervisor.leave(
                    Exit::Refused,
                    format!(
                        "the statistics schema belongs to {found}. What to do: point stats.url at this group's own \
                         schema, or at an empty one; if the log itself was deleted or replaced, restore it"
                    ),
                );
            }
            self.wiring.monitor.statistics(&event);
        }
        busy
    }

    pub(super) fn snapshot_events(&mut self) -> bool {
        let mut busy = false;
        while let Ok(event) = self.wiring.snapshot_events.try_recv() {
            busy = true;
            if let SnapshotEvent::Fatal { error, .. } = &event {
                self.wiring.supervisor.fail(format!("the state store cannot be written any more: {error}"));
            }
            self.wiring.snapshots.event(event, &mut self.wiring.monitor);
        }
        busy
    }
}
