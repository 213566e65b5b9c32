//! A model of the commit cycle, checked in every state that it can come to: one partition, two processes, transactions of
//! protocol version 1, requests that are lost, late or sent twice, kills, rebalances, aborts by time-out.
//!
//! It is written apart from the service, after `docs/PROTOCOL.md`: it judges the protocol, as the simulation judges the code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

// The broker's side.
#[path = "protocol_model/cluster.rs"]
mod cluster;

// The service's side.
#[path = "protocol_model/process.rs"]
mod process;

use std::collections::{HashMap, VecDeque};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use crate::cluster::{Cluster, Fate, Id, Late, Refused, Request, Transaction};
use crate::process::{At, Belief, Mutant, Process, Step};

/// Source records; each causes one output.
const RECORDS: u8 = 2;
/// Two processes under one id can fence each other again and again, if time does not separate them: no further than this.
const EPOCH_MAX: u8 = 6;

/// How much may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    calls: u8,
    kills: u8,
    rebalances: u8,
    time_outs: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    cluster: Cluster,
    processes: Vec<Process>,
    left: Budget,
    /// The highest offset before which somebody believed everything to be committed: statistics and snapshots have left.
    released: u8,
    /// A process that could know that it was replaced has fenced its successor.
    successor_fenced: bool,
}

/// What a call suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    RequestLost,
    AnswerLost,
    /// It arrives when nobody waits for it any more.
    Late,
    /// It arrives twice, once of it late, and nothing is said about it.
    Twice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Call(usize, Trouble),
    /// Hears what the group has decided.
    Poll(usize),
    Start(usize),
    Kill(usize),
    Mark(Id, bool),
    Arrive(usize),
    TimeOut(Id),
    Rebalance(Id),
}

/// Two processes, and under which ids they run: the same one, or one each.
struct CommitProtocol {
    ids: [Id; 2],
    budget: Budget,
    mutant: Option<Mutant>,
}

impl CommitProtocol {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Sends a request and says what the process hears: `None` is a doubt.
    fn exchange(
        &self,
        state: &mut State,
        at: usize,
        request: Request,
        trouble: Trouble,
    ) -> Option<Result<u8, Refused>> {
        let (id, epoch) = (self.ids[at], state.processes[at].epoch);
        if trouble != Trouble::None {
            state.left.calls -= 1;
        }
        let late = Late {
            id,
            epoch,
            request,
            is_silent: trouble == Trouble::Twice && request == Request::End { commit: true },
        };
        match trouble {
            Trouble::None => Some(state.cluster.take(id, epoch, request)),
            Trouble::RequestLost => None,
            Trouble::AnswerLost => {
                let _ = state.cluster.take(id, epoch, request);
                None
            }
            Trouble::Late => {
                state.cluster.later(late);
                None
            }
            Trouble::Twice => {
                let answer = state.cluster.take(id, epoch, request);
                state.cluster.later(late);
                Some(answer)
            }
        }
    }

    /// The next call of a process; false when it has none to make, or must wait.
    fn call(&self, state: &mut State, at: usize, trouble: Trouble) -> bool {
        let process = state.processes[at];
        let is_replaced = self.is_replaced(state, at);
        let could_know = std::mem::replace(&mut state.processes[at].was_replaced, is_replaced);
        if matches!(process.at, At::Replace(_)) && could_know {
            state.successor_fenced = true;
        }
        match process.at {
            At::Initialise | At::Replace(_) => self.replace_writer(state, at, trouble),
            At::Working(belief, step) if belief.committed < RECORDS => self.work(state, at, belief, step, trouble),
            At::Abort(belief) => {
                let after = if self.is(Mutant::WriterIsKeptAfterAnAbort) {
                    At::Settle(belief)
                } else {
                    At::Probe(Some(belief))
                };
                let _ = self.exchange(state, at, Request::End { commit: false }, trouble);
                state.processes[at].at = after;
                true
            }
            _ if trouble == Trouble::None => self.ask(state, at),
            _ => false,
        }
    }

    /// Nobody lives who could end it; it ends by its time-out.
    fn is_orphaned(&self, state: &State, id: Id) -> bool {
        let epoch = state.cluster.coordinators[id].epoch;
        let mut processes = state.processes.iter().zip(self.ids);
        !processes.any(|(process, its)| its == id && process.epoch == epoch)
    }

    fn is_fault(&self, state: &State, action: Action) -> bool {
        match action {
            Action::Call(_, trouble) => trouble != Trouble::None,
            Action::TimeOut(id) => !self.is_orphaned(state, id),
            Action::Kill(_) | Action::Rebalance(_) => true,
            Action::Poll(_) | Action::Start(_) | Action::Mark(..) | Action::Arrive(_) => false,
        }
    }

    /// Another process has its id.
    fn is_replaced(&self, state: &State, at: usize) -> bool {
        state.cluster.members[self.ids[at]].is_some_and(|member| member != at)
    }

    fn replace_writer(&self, state: &mut State, at: usize, trouble: Trouble) -> bool {
        if trouble == Trouble::Twice {
            return false;
        }
        let before = state.clone();
        let answer = self.exchange(state, at, Request::Initialise, trouble);
        let process = &mut state.processes[at];
        if let Some(Ok(epoch)) = answer {
            process.epoch = epoch;
            match process.at {
                At::Replace(None) => process.at = At::Unassigned,
                At::Replace(Some(belief)) if self.is(Mutant::AmbiguousCommitIsRepeated) => {
                    process.go_on(belief, self.mutant);
                }
                At::Replace(Some(belief)) => process.at = At::Settle(belief),
                _ => process.at = At::Join,
            }
        } else if let At::Replace(belief) = process.at
            && !self.is(Mutant::MembershipIsNotAskedFor)
        {
            process.at = At::Probe(belief);
        }
        // Nothing but waiting, if nothing has moved at the broker.
        answer != Some(Err(Refused::Concurrent)) || before.cluster != state.cluster
    }

    fn work(&self, state: &mut State, at: usize, belief: Belief, step: Step, trouble: Trouble) -> bool {
        let process = state.processes[at];
        let is_commit = matches!(step, Step::Commit | Step::CommitOutput);
        // Of what else arrives twice the broker knows by its sequence number, or it changes nothing.
        let is_in_force = state.cluster.owner == self.ids[at] && state.cluster.generation == process.generation;
        if trouble == Trouble::Twice && !(is_commit && is_in_force) {
            return false;
        }
        let request = match step {
            Step::Produce => Request::Produce { record: belief.committed },
            Step::SendOffset => {
                Request::SendOffset { process: at, generation: process.generation, offset: belief.committed + 1 }
            }
            Step::Commit | Step::CommitOutput => Request::End { commit: true },
        };
        let answer = self.exchange(state, at, request, trouble);
        let process = &mut state.processes[at];
        match answer {
            // The client waits by itself.
            Some(Err(Refused::Concurrent)) if !is_commit => return false,
            Some(Ok(_)) => self.step_is_done(process, &mut state.released, belief, step),
            None if is_commit && self.is(Mutant::AmbiguousCommitIsBelieved) => {
                self.step_is_done(process, &mut state.released, belief, step);
            }
            Some(Err(Refused::NotAMember)) => process.at = At::Abort(belief),
            _ if self.is(Mutant::WriterIsReusedAfterATimeOut) => process.at = At::Settle(belief),
            _ if self.is(Mutant::MembershipIsNotAskedFor) => process.at = At::Replace(Some(belief)),
            _ => process.at = At::Probe(Some(belief)),
        }
        true
    }

    fn step_is_done(&self, process: &mut Process, released: &mut u8, belief: Belief, step: Step) {
        match Process::step_after(step, self.mutant) {
            Some(next) => process.at = At::Working(belief, next),
            None => {
                *released = (*released).max(belief.committed + 1);
                process.go_on(Belief { committed: belief.committed + 1, ..belief }, self.mutant);
            }
        }
    }

    /// What is asked of the group, and of the log.
    fn ask(&self, state: &mut State, at: usize) -> bool {
        let (cluster, id) = (&mut state.cluster, self.ids[at]);
        let process = &mut state.processes[at];
        let is_stable = cluster.is_stable() || self.is(Mutant::UnstableOffsetIsRead);
        let is_decided = !cluster.has_undecided_outputs() || self.is(Mutant::OpenOutputsAreNotWaitedFor);
        let committed = cluster.committed;
        let found = cluster.outputs.iter().filter(|output| output.fate == Fate::Committed);
        let found = found.fold(0, |found, output| found | 1 << output.record);
        let written = if self.is(Mutant::OutputsFoundAheadAreWrittenAgain) { 0 } else { found };
        match process.at {
            At::Join => {
                cluster.join(id, at);
                process.generation = cluster.generation;
                process.at = if cluster.owner == id { At::ReadOffset } else { At::Unassigned };
            }
            At::ReadOffset if is_stable => process.at = At::ReadOutputs { committed },
            At::ReadOutputs { committed: then } if is_stable && is_decided => {
                if then == committed {
                    process.go_on(Belief { committed, written }, self.mutant);
                } else {
                    process.at = At::ReadOffset;
                }
            }
            // Whoever was refused hears why before it tries once more.
            At::Probe(belief) if process.generation == cluster.generation || cluster.members[id] != Some(at) => {
                let is_replaced = cluster.members[id] != Some(at);
                if is_replaced {
                    *process = Process::new(At::Left);
                } else {
                    process.at = At::Replace(belief);
                }
            }
            At::Settle(belief) if is_stable && is_decided => {
                let is_written = found & (1 << belief.committed) != 0;
                if committed == belief.committed + 1 && is_written {
                    process.go_on(Belief { committed, written }, self.mutant);
                } else if committed == belief.committed || committed == belief.committed + 1 {
                    process.go_on(Belief { written, ..belief }, self.mutant);
                } else {
                    process.at = At::ReadOffset;
                }
            }
            _ => return false,
        }
        true
    }

    fn poll(&self, state: &mut State, at: usize) -> bool {
        let (cluster, id) = (&state.cluster, self.ids[at]);
        let process = &mut state.processes[at];
        if matches!(process.at, At::Down | At::Left | At::Initialise | At::Join) {
            return false;
        }
        if cluster.members[id] != Some(at) {
            *process = Process::new(At::Left);
            return true;
        }
        let before = *process;
        process.generation = cluster.generation;
        let has_lost = cluster.owner != id || cluster.owner_since > before.generation;
        if process.has_the_partition() && has_lost {
            process.at = if process.is_in_a_transaction() { At::Probe(None) } else { At::Unassigned };
        }
        if process.at == At::Unassigned && cluster.owner == id {
            process.at = At::ReadOffset;
        }
        *process != before
    }

    /// Every state that can be come to, and from how many of them the end cannot be reached any more without further faults.
    fn dead_ends(&self) -> (usize, usize) {
        let mut numbers: HashMap<State, usize> = HashMap::new();
        let mut came_from: Vec<Vec<usize>> = Vec::new();
        let (mut to_do, mut ends) = (VecDeque::new(), Vec::new());
        let mut number_of = |state: State, to_do: &mut VecDeque<(usize, State)>, came_from: &mut Vec<Vec<usize>>| {
            let next = numbers.len();
            *numbers.entry(state).or_insert_with_key(|state| {
                to_do.push_back((next, state.clone()));
                came_from.push(Vec::new());
                next
            })
        };
        for state in self.init_states() {
            number_of(state, &mut to_do, &mut came_from);
        }
        let mut actions = Vec::new();
        while let Some((number, state)) = to_do.pop_front() {
            if is_done(&state) {
                ends.push(number);
            }
            actions.clear();
            self.actions(&state, &mut actions);
            for action in actions.iter().copied() {
                let Some(next) = self.next_state(&state, action) else { continue };
                if !self.within_boundary(&next) {
                    // What lies behind is not looked at.
                    ends.push(number);
                    continue;
                }
                let next = number_of(next, &mut to_do, &mut came_from);
                if !self.is_fault(&state, action) {
                    came_from[next].push(number);
                }
            }
        }
        let mut leads_to_the_end = vec![false; came_from.len()];
        while let Some(number) = ends.pop() {
            if !std::mem::replace(&mut leads_to_the_end[number], true) {
                ends.extend(&came_from[number]);
            }
        }
        (came_from.len(), leads_to_the_end.iter().filter(|leads| !**leads).count())
    }
}

/// Every output is committed, once, and so are the offsets.
fn is_done(state: &State) -> bool {
    let is_written = |record| state.cluster.times_committed(record) == 1;
    state.cluster.committed == RECORDS && (0..RECORDS).all(is_written) && !state.cluster.is_deciding()
}

impl Model for CommitProtocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let asks_no_membership = self.is(Mutant::OffsetsWithoutGeneration);
        vec![State {
            cluster: Cluster::new(1 + self.ids[1], asks_no_membership),
            processes: vec![Process::new(At::Initialise), Process::new(At::Down)],
            left: self.budget,
            released: 0,
            successor_fenced: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, process) in state.processes.iter().enumerate() {
            match process.at {
                At::Left => continue,
                At::Down => {
                    actions.push(Action::Start(at));
                    continue;
                }
                _ => {}
            }
            actions.extend([Action::Call(at, Trouble::None), Action::Poll(at)]);
            if state.left.calls > 0 {
                let troubles = [Trouble::RequestLost, Trouble::AnswerLost, Trouble::Late, Trouble::Twice];
                actions.extend(troubles.map(|trouble| Action::Call(at, trouble)));
            }
            if state.left.kills > 0 {
                actions.push(Action::Kill(at));
            }
        }
        for (id, coordinator) in state.cluster.coordinators.iter().enumerate() {
            match coordinator.transaction {
                Transaction::Ending { topic, offsets, .. } => {
                    actions.extend(topic.then_some(Action::Mark(id, true)));
                    actions.extend(offsets.then_some(Action::Mark(id, false)));
                }
                Transaction::Open if state.left.time_outs > 0 || self.is_orphaned(state, id) => {
                    actions.push(Action::TimeOut(id));
                }
                _ => {}
            }
            let owner = state.cluster.owner;
            let is_silent = state.cluster.late.iter().any(|late| late.id == owner && late.is_silent);
            let can_own = owner != id && state.cluster.members[id].is_some() && !is_silent;
            if can_own && state.left.rebalances > 0 {
                actions.push(Action::Rebalance(id));
            }
        }
        actions.extend((0..state.cluster.late.len()).map(Action::Arrive));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let happens = match action {
            Action::Call(at, trouble) => self.call(&mut next, at, trouble),
            Action::Poll(at) => self.poll(&mut next, at),
            Action::Start(at) => {
                next.processes[at].at = At::Initialise;
                true
            }
            Action::Kill(at) => {
                next.left.kills -= 1;
                next.processes[at] = Process::new(At::Down);
                true
            }
            Action::Mark(id, is_topic) => {
                next.cluster.mark(id, is_topic);
                true
            }
            Action::Arrive(at) => {
                let Late { id, epoch, request, .. } = next.cluster.late.remove(at);
                let _ = next.cluster.take(id, epoch, request);
                true
            }
            Action::TimeOut(id) => {
                next.left.time_outs -= u8::from(!self.is_orphaned(state, id));
                next.cluster.time_out(id);
                true
            }
            Action::Rebalance(id) => {
                next.left.rebalances -= 1;
                next.cluster.rebalance(id);
                true
            }
        };
        happens.then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no output is committed twice", |_, state: &State| {
                (0..RECORDS).all(|record| state.cluster.times_committed(record) <= 1)
            }),
            Property::always("no offset is committed without the outputs before it", |_, state: &State| {
                let committed = 0..state.cluster.committed;
                state.cluster.is_deciding()
                    || committed.into_iter().all(|record| state.cluster.times_committed(record) > 0)
            }),
            Property::always("the committed offset never goes back", |_, state: &State| {
                state.cluster.committed == state.cluster.highest
            }),
            Property::always("nothing is released before its commit is decided", |_, state: &State| {
                state.released <= state.cluster.decided()
            }),
            Property::always("a process that was replaced does not fence its successor", |_, state: &State| {
                !state.successor_fenced
            }),
            Property::sometimes("everything is committed", |_, state: &State| is_done(state)),
            Property::sometimes("a transaction is torn: an output without its offset", |_, state: &State| {
                let ahead = state.cluster.committed..RECORDS;
                !state.cluster.is_deciding()
                    && ahead.into_iter().any(|record| state.cluster.times_committed(record) > 0)
            }),
            Property::sometimes("an output is found ahead", |_, state: &State| {
                state.processes.iter().any(|process| match process.at {
                    At::Working(belief, _) => belief.committed < RECORDS && belief.has_written(belief.committed),
                    _ => false,
                })
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.cluster.coordinators.iter().all(|coordinator| coordinator.epoch <= EPOCH_MAX)
    }
}

/// A process and its replacement under the same id; and two instances of a group.
fn worlds(budget: Budget, mutant: Option<Mutant>) -> [CommitProtocol; 2] {
    let same = Budget { rebalances: 0, ..budget };
    [CommitProtocol { ids: [0, 0], budget: same, mutant }, CommitProtocol { ids: [0, 1], budget, mutant }]
}

/// One fault of each kind, and two calls that go wrong.
const FAULTS: [Budget; 2] = [
    Budget { calls: 1, kills: 1, rebalances: 1, time_outs: 1 },
    Budget { calls: 2, kills: 0, rebalances: 1, time_outs: 0 },
];

#[test]
fn no_state_of_the_commit_cycle_loses_or_repeats() {
    for world in FAULTS.into_iter().flat_map(|faults| worlds(faults, None)) {
        let (ids, budget) = (world.ids, world.budget);
        let checker = world.checker().threads(2).spawn_bfs().join();
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        eprintln!("ids {ids:?}, {budget:?}: {states} states, {depth} actions deep");
        checker.assert_properties();
    }
}

/// Kafka, the group and the processes do without a further fault what is left to be done.
#[test]
fn from_every_state_of_the_commit_cycle_the_end_can_be_reached() {
    for world in worlds(Budget { calls: 1, kills: 1, rebalances: 1, time_outs: 0 }, None) {
        let (states, dead_ends) = world.dead_ends();
        eprintln!("ids {:?}: {dead_ends} dead ends among {states} states", world.ids);
        assert_eq!(dead_ends, 0);
    }
}

#[test]
fn the_model_finds_each_error_in_the_protocol() {
    let all = [
        Mutant::UnstableOffsetIsRead,
        Mutant::OpenOutputsAreNotWaitedFor,
        Mutant::OutputsFoundAheadAreWrittenAgain,
        Mutant::WriterIsReusedAfterATimeOut,
        Mutant::AmbiguousCommitIsBelieved,
        Mutant::AmbiguousCommitIsRepeated,
        Mutant::OffsetsWithoutGeneration,
        Mutant::MembershipIsNotAskedFor,
        Mutant::WriterIsKeptAfterAnAbort,
        Mutant::OffsetIsCommittedBeforeItsOutput,
    ];
    let survivors: Vec<_> = all.into_iter().filter(|mutant| !is_killed(*mutant)).collect();
    assert!(survivors.is_empty(), "not found: {survivors:?}");
}

fn is_killed(mutant: Mutant) -> bool {
    for world in FAULTS.into_iter().flat_map(|faults| worlds(faults, Some(mutant))) {
        let ids = world.ids;
        let checker = world.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let mut found = checker.discoveries();
        let properties = checker.model().properties();
        let promises = properties.iter().filter(|property| property.expectation == Expectation::Always);
        if let Some((promise, path)) = promises.filter_map(|it| Some((it.name, found.remove(it.name)?))).next() {
            let actions = path.into_actions();
            eprintln!("{mutant:?}: killed with ids {ids:?} by {} actions, against: {promise}", actions.len());
            return true;
        }
    }
    false
}
