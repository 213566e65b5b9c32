//! The user actor: one user's counter within one tumbling window.
//!
//! A virtual actor in the sense of the actor model: it takes one message at a time, changes its own state, and answers
//! with effects. It is activated by its first message and passivated when its window closes; in between it is hosted,
//! in [`crate::domain::window::OpenWindow`], by the partition that owns the user.

/// How many rules a configuration may hold; one bit of an actor stands for each.
pub const RULES_MAX: usize = 31;

/// The state of one user in one window: 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserActor {
    transactions: u32,
    /// Bit r: rule r has raised its alert for this window. Bit 31: changed since the last snapshot.
    flags: u32,
}

const CHANGED: u32 = 1 << 31;

impl UserActor {
    /// Takes a counted transaction; returns the counter after it.
    pub fn receive(&mut self) -> u32 {
        self.transactions = self.transactions.saturating_add(1);
        self.transactions
    }

    /// Marks rule `index` as having alerted; false when it had already.
    pub fn raise(&mut self, index: usize) -> bool {
        let bit = 1_u32 << index;
        let first = self.flags & bit == 0;
        self.flags |= bit;
        first
    }

    /// Whether rule `index` has alerted.
    #[must_use]
    pub fn has_raised(self, index: usize) -> bool {
        self.flags & (1_u32 << index) != 0
    }

    /// Marks the actor as changed since the last snapshot; false when it was already.
    pub fn mark_changed(&mut self) -> bool {
        let first = self.flags & CHANGED == 0;
        self.flags |= CHANGED;
        first
    }

    /// Whether the actor has changed since the last snapshot.
    #[must_use]
    pub fn is_changed(self) -> bool {
        self.flags & CHANGED != 0
    }

    pub fn clear_changed(&mut self) {
        self.flags &= !CHANGED;
    }

    #[must_use]
    pub fn transactions(self) -> u32 {
        self.transactions
    }

    /// Eight bytes, big-endian: counter, then the rules that have alerted.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.transactions) << 32 | u64::from(self.flags & !CHANGED)).to_be_bytes()
    }

    /// The inverse of [`UserActor::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { transactions: u32::from_be_bytes([a, b, c, d]), flags: u32::from_be_bytes([e, f, g, h]) & !CHANGED }
    }
}
