//! The consumer group: static members, generations, sticky and cooperative rebalances.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tallyguard::domain::ids::PartitionId;
use tallyguard::log::LogEvent;

use crate::chance::{Broken, Chance};
use crate::kafka::{Refused, partition_id};

pub const SESSION_TIMEOUT_MS: u64 = 6_000;

/// Which process, of all that ever ran.
pub type Incarnation = u64;

struct Member {
    incarnation: Incarnation,
    last_poll_ms: u64,
    owned: BTreeSet<PartitionId>,
    /// Asked for, not given back yet.
    revoking: BTreeSet<PartitionId>,
    events: VecDeque<LogEvent>,
}

/// See the module head.
pub struct Group {
    chance: Arc<Chance>,
    generation: u32,
    members: BTreeMap<String, Member>,
    partitions: usize,
}

impl Group {
    pub fn new(chance: Arc<Chance>, partitions: usize) -> Self {
        Self { chance, generation: 0, members: BTreeMap::new(), partitions }
    }

    /// The topic has so many partitions from now on.
    pub fn extend(&mut self, partitions: usize) {
        self.partitions = partitions;
        self.rebalance();
    }

    /// A process joins under an id, taking over from whoever had it.
    pub fn join(&mut self, id: &str, incarnation: Incarnation) {
        let now = self.chance.now_ms();
        if let Some(member) = self.members.get_mut(id) {
            // A static member that comes back gets what it had, without a rebalance.
            self.chance.reached("static member replaced");
            let owned: BTreeSet<_> = std::mem::take(&mut member.owned);
            let events = VecDeque::from([LogEvent::Assigned(owned.iter().copied().collect())]);
            *member = Member { incarnation, last_poll_ms: now, owned, revoking: BTreeSet::new(), events };
        } else {
            let member = Member {
                incarnation,
                last_poll_ms: now,
                owned: BTreeSet::new(),
                revoking: BTreeSet::new(),
                events: VecDeque::new(),
            };
            self.members.insert(id.to_owned(), member);
        }
        self.rebalance();
    }

    pub fn leave(&mut self, id: &str, incarnation: Incarnation) {
        if self.members.get(id).is_some_and(|member| member.incarnation == incarnation) {
            self.members.remove(id);
            self.rebalance();
        }
    }

    /// The heartbeat and what it brings; `None`: the group does not know this process.
    pub fn poll(&mut self, id: &str, incarnation: Incarnation) -> Option<(u32, Vec<LogEvent>)> {
        let now = self.chance.now_ms();
        let generation = self.generation;
        let member = self.members.get_mut(id).filter(|member| member.incarnation == incarnation)?;
        member.last_poll_ms = now;
        Some((generation, member.events.drain(..).collect()))
    }

    /// Whether another process has the id.
    pub fn is_replaced(&self, id: &str, incarnation: Incarnation) -> bool {
        self.members.get(id).is_some_and(|member| member.incarnation != incarnation)
    }

    /// What is asked of whoever sends offsets: the membership, not the ownership of the partition.
    pub fn check(&self, (id, incarnation, generation): (&str, Incarnation, u32)) -> Result<(), Refused> {
        match self.members.get(id) {
            _ if self.chance.is_broken(Broken::OffsetsWithoutGeneration) => Ok(()),
            None => Err(Refused::UnknownMember),
            Some(member) if member.incarnation != incarnation => Err(Refused::Fenced),
            Some(_) if generation != self.generation => {
                self.chance.reached("offsets of a former generation refused");
                Err(Refused::IllegalGeneration)
            }
            Some(_) => Ok(()),
        }
    }

    /// Partitions that were asked for are given back.
    pub fn give_back(&mut self, id: &str, incarnation: Incarnation, partitions: &[PartitionId]) {
        let Some(member) = self.members.get_mut(id).filter(|member| member.incarnation == incarnation) else {
            return;
        };
        for partition in partitions {
            if member.revoking.remove(partition) {
                member.owned.remove(partition);
            }
        }
        self.rebalance();
    }

    /// Who has not been heard of for too long is out.
    pub fn expire(&mut self) {
        let (before, now) = (self.members.len(), self.chance.now_ms());
        let chance = Arc::clone(&self.chance);
        self.members.retain(|id, member| {
            let is_alive = now - member.last_poll_ms < SESSION_TIMEOUT_MS;
            if !is_alive {
                chance.note(|| format!("broker: the session of {id} has run out"));
                chance.reached("session ran out");
            }
            is_alive
        });
        if self.members.len() < before {
            self.rebalance();
        }
    }

    /// Sticky and cooperative: who has too much is asked for the rest; what is free goes to who has least.
    fn rebalance(&mut self) {
        let count = self.members.len();
        if count == 0 {
            return;
        }
        self.generation += 1;
        let all: BTreeSet<PartitionId> = (0..self.partitions).map(partition_id).collect();
        let most = all.len().div_ceil(count);
        let owned: BTreeSet<PartitionId> =
            self.members.values().flat_map(|member| member.owned.iter().copied()).collect();
        let mut free: VecDeque<PartitionId> = all.difference(&owned).copied().collect();
        let least = all.len() / count;
        let wants = self.members.values().any(|member| member.owned.len() < least) && free.is_empty();
        for member in self.members.values_mut() {
            let keeps = if wants { most } else { all.len() };
            let kept = member.owned.len() - member.revoking.len();
            let too_many: Vec<_> =
                member.owned.difference(&member.revoking).copied().take(kept.saturating_sub(keeps)).collect();
            if !too_many.is_empty() {
                member.revoking.extend(too_many.iter().copied());
                member.events.push_back(LogEvent::Revoked(too_many));
            }
        }
        while let Some(partition) = free.pop_front() {
            let member = self.members.values_mut().min_by_key(|member| member.owned.len()).expect("one at least");
            member.owned.insert(partition);
            member.events.push_back(LogEvent::Assigned(vec![partition]));
        }
    }

    /// Who has what, for a failing run.
    pub fn describe(&self) -> String {
        let members = self.members.iter().map(|(id, member)| {
            format!("{id} (process {}): {:?}, gives back {:?}", member.incarnation, member.owned, member.revoking)
        });
        format!("members of generation {}: {}", self.generation, members.collect::<Vec<_>>().join("; "))
    }
}
