//! The broker's side: transactions of protocol version 1, one partition, its group, and requests that are still on their way.

/// A transactional id, which is an instance's.
pub type Id = usize;

/// What becomes of an output in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    Undecided,
    Committed,
    Aborted,
}

/// The output of one source record, as one attempt wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Output {
    pub record: u8,
    pub writer: Id,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transaction {
    /// And whether the last one was committed.
    Empty {
        last: Option<bool>,
    },
    Open,
    /// Decided; these markers are still to be written.
    Ending {
        commit: bool,
        topic: bool,
        offsets: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinator {
    pub epoch: u8,
    pub transaction: Transaction,
    /// The offset that the transaction would commit.
    pub offset: Option<u8>,
}

/// What a broker may be asked late; it names an id and an epoch, and no transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    Initialise,
    Produce { record: u8 },
    SendOffset { process: usize, generation: u8, offset: u8 },
    End { commit: bool },
}

/// On its way still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Late {
    pub id: Id,
    pub epoch: u8,
    pub request: Request,
    /// A duplicate that its sender does not know of. Such a one does not outlast its sender's session.
    pub is_silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not now: markers are being written.
    Concurrent,
    Fenced,
    InvalidState,
    NotAMember,
}

/// See the module head.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    pub committed: u8,
    /// The highest that `committed` ever was.
    pub highest: u8,
    pub outputs: Vec<Output>,
    pub coordinators: Vec<Coordinator>,
    /// Which process the group knows under each id.
    pub members: Vec<Option<usize>>,
    pub generation: u8,
    pub owner: Id,
    /// The generation in which the owner got the partition.
    pub owner_since: u8,
    pub late: Vec<Late>,
    /// Whoever sends offsets is believed to be a member.
    pub asks_no_membership: bool,
}

impl Cluster {
    pub fn new(ids: usize, asks_no_membership: bool) -> Self {
        let coordinator = Coordinator { epoch: 0, transaction: Transaction::Empty { last: None }, offset: None };
        Self {
            committed: 0,
            highest: 0,
            outputs: Vec::new(),
            coordinators: vec![coordinator; ids],
            members: vec![None; ids],
            generation: 0,
            owner: 0,
            owner_since: 0,
            late: Vec::new(),
            asks_no_membership,
        }
    }

    pub fn later(&mut self, late: Late) {
        self.late.push(late);
        self.late.sort_unstable();
    }

    /// Carries a request out, or refuses it; the answer of `Initialise` is the epoch.
    pub fn take(&mut self, id: Id, epoch: u8, request: Request) -> Result<u8, Refused> {
        if request == Request::Initialise {
            return self.initialise(id);
        }
        if self.coordinators[id].epoch != epoch {
            return Err(Refused::Fenced);
        }
        match request {
            Request::Initialise => {}
            Request::Produce { record } => {
                self.join_transaction(id)?;
                self.outputs.push(Output { record, writer: id, fate: Fate::Undecided });
            }
            Request::SendOffset { process, generation, offset } => {
                let is_member = self.members[id] == Some(process) && self.generation == generation;
                if !is_member && !self.asks_no_membership {
                    return Err(Refused::NotAMember);
                }
                self.join_transaction(id)?;
                self.coordinators[id].offset = Some(offset);
            }
            Request::End { commit } => match self.coordinators[id].transaction {
                Transaction::Open => self.end(id, commit),
                Transaction::Ending { commit: decided, .. } if decided == commit => return Err(Refused::Concurrent),
                Transaction::Empty { last: Some(last) } if last == commit => {}
                _ => return Err(Refused::InvalidState),
            },
        }
        Ok(epoch)
    }

    fn initialise(&mut self, id: Id) -> Result<u8, Refused> {
        match self.coordinators[id].transaction {
            Transaction::Ending { .. } => Err(Refused::Concurrent),
            Transaction::Open => {
                self.coordinators[id].epoch += 1;
                self.end(id, false);
                Err(Refused::Concurrent)
            }
            Transaction::Empty { .. } => {
                self.coordinators[id].epoch += 1;
                Ok(self.coordinators[id].epoch)
            }
        }
    }

    fn join_transaction(&mut self, id: Id) -> Result<(), Refused> {
        let transaction = &mut self.coordinators[id].transaction;
        if matches!(transaction, Transaction::Ending { .. }) {
            return Err(Refused::Concurrent);
        }
        *transaction = Transaction::Open;
        Ok(())
    }

    /// Open for too long: aborted, and its writer fenced.
    pub fn time_out(&mut self, id: Id) {
        self.coordinators[id].epoch += 1;
        self.end(id, false);
    }

    fn end(&mut self, id: Id, commit: bool) {
        let topic = self.outputs.iter().any(|output| output.writer == id && output.fate == Fate::Undecided);
        let offsets = self.coordinators[id].offset.is_some();
        self.coordinators[id].transaction = Transaction::Ending { commit, topic, offsets };
        self.rest(id);
    }

    /// Nothing is left to be marked.
    fn rest(&mut self, id: Id) {
        let transaction = &mut self.coordinators[id].transaction;
        if let Transaction::Ending { commit, topic: false, offsets: false } = *transaction {
            *transaction = Transaction::Empty { last: Some(commit) };
        }
    }

    /// A marker reaches the output topic, or the group's offsets.
    pub fn mark(&mut self, id: Id, is_topic: bool) {
        let Transaction::Ending { commit, topic, offsets } = &mut self.coordinators[id].transaction else { return };
        let commit = *commit;
        if is_topic {
            *topic = false;
            let fate = if commit { Fate::Committed } else { Fate::Aborted };
            for output in &mut self.outputs {
                if output.writer == id && output.fate == Fate::Undecided {
                    // Who has written it is of no more interest.
                    (output.fate, output.writer) = (fate, 0);
                }
            }
            // Of aborted outputs nobody hears anything any more.
            self.outputs.retain(|output| output.fate != Fate::Aborted);
            self.outputs.sort_unstable();
        } else {
            *offsets = false;
            if let Some(offset) = self.coordinators[id].offset.take()
                && commit
            {
                self.committed = offset;
                self.highest = self.highest.max(offset);
            }
        }
        self.rest(id);
    }

    pub fn join(&mut self, id: Id, process: usize) {
        // A static member that comes back does so without a rebalance.
        if self.members[id].replace(process).is_none() {
            self.generation += 1;
        }
    }

    pub fn rebalance(&mut self, to: Id) {
        self.owner = to;
        self.generation += 1;
        self.owner_since = self.generation;
    }

    /// The offset that is decided: none is pending.
    pub fn is_stable(&self) -> bool {
        self.coordinators.iter().all(|coordinator| coordinator.offset.is_none())
    }

    pub fn has_undecided_outputs(&self) -> bool {
        self.outputs.iter().any(|output| output.fate == Fate::Undecided)
    }

    pub fn is_deciding(&self) -> bool {
        self.coordinators.iter().any(|it| matches!(it.transaction, Transaction::Ending { .. }))
    }

    /// The offset that nothing can undo any more, its marker written or not.
    pub fn decided(&self) -> u8 {
        let is_decided = |it: &&Coordinator| matches!(it.transaction, Transaction::Ending { commit: true, .. });
        let pending = self.coordinators.iter().filter(is_decided).filter_map(|coordinator| coordinator.offset);
        pending.max().unwrap_or(0).max(self.committed)
    }

    pub fn times_committed(&self, record: u8) -> usize {
        self.outputs.iter().filter(|output| output.record == record && output.fate == Fate::Committed).count()
    }
}
