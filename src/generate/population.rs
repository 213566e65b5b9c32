//! Who pays whom: users, merchants and their ids.
//!
//! Users fall into three groups by index. The first are *hot*: they share a tenth of the traffic by Zipf's law, so the
//! first of them stays above any sensible limit. The last are *scripted*: set aside for bursts, so that nothing else
//! disturbs their counts. Everybody draws evenly from all but the scripted, so most users stay quiet.

use crate::generate::dice::Dice;
use crate::generate::shares::Share;
use crate::generate::transaction::push_decimal;

const HOT_TRAFFIC: Option<Share> = Share::from_parts_per_million(100_000);
const HOT_USERS_MAX: u32 = 4_096;
const SCRIPTED_USERS_MAX: u32 = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User(pub(super) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merchant(pub(super) u32);

pub(super) struct Population {
    /// Users that are not scripted; at least one.
    unscripted: u32,
    scripted: u32,
    merchants: u32,
    /// Running sums of the hot users' weights 1, 1/2, 1/3, …
    hot_weights: Vec<u64>,
}

impl Population {
    pub(super) fn new(users: u32, merchants: u32) -> Self {
        let scripted = if users < 2 { 0 } else { (users / 10).clamp(1, SCRIPTED_USERS_MAX) };
        let unscripted = users - scripted;
        let hot_users = (unscripted / 500).clamp(1, HOT_USERS_MAX);
        let hot_weights = (1..=u64::from(hot_users))
            .scan(0, |sum, rank| {
                *sum += (1_u64 << 18) / rank;
                Some(*sum)
            })
            .collect();
        Self { unscripted, scripted, merchants, hot_weights }
    }

    pub(super) fn draw_user(&self, dice: &mut Dice) -> User {
        if !HOT_TRAFFIC.is_some_and(|share| dice.chance(share)) {
            return User(dice.below(self.unscripted));
        }
        // 2^18 times the harmonic sum of 4,096 ranks is below 2^22: the total fits into 32 bits.
        let total = self.hot_weights.last().copied().unwrap_or(0);
        let drawn = u64::from(dice.below(u32::try_from(total).unwrap_or(u32::MAX)));
        let rank = self.hot_weights.partition_point(|sum| *sum <= drawn);
        User(u32::try_from(rank).unwrap_or(0))
    }

    pub(super) fn draw_merchant(&self, dice: &mut Dice) -> Merchant {
        Merchant(dice.below(self.merchants))
    }

    pub(super) fn scripted_users(&self) -> u32 {
        self.scripted
    }

    pub(super) fn scripted_user(&self, position: u32) -> User {
        User(self.unscripted + position)
    }
}

impl User {
    pub(super) fn push_id(self, buffer: &mut Vec<u8>) {
        // A user keeps one id for ever, so it is the index that decides whose id is beyond ASCII.
        buffer.extend_from_slice(if self.0 % 251 == 17 { "użytkownik-".as_bytes() } else { b"u-" });
        push_decimal(buffer, u64::from(self.0), 7);
    }
}

impl Merchant {
    pub(super) fn push_id(self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(if self.0 % 101 == 5 { "m-カフェ-é-".as_bytes() } else { b"m-" });
        push_decimal(buffer, u64::from(self.0), 5);
    }
}
