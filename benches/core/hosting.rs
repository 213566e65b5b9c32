//! User actors hosted in their partition, as the engine has them, against one actix actor per user.
//!
//! Both sides find the user by the same key in the same kind of table and run the same state machine
//! (`domain::user::UserActor`); what differs is the hosting alone. Neither remembers transaction ids.

use std::time::{Duration, Instant};

use actix::{Actor, Addr, Context, Handler, Message, System};

use tallyguard::domain::ids::IdKey;
use tallyguard::domain::user::UserActor;
use tallyguard::domain::window::DigestMap;

use crate::common::dice::Dice;
use crate::common::{Arguments, Report, count, resident_bytes, whole};
use crate::traffic::BATCH;
use crate::{in_child, medians_of};

/// The users that the next messages go to.
struct Messages {
    dice: Dice,
    users: u64,
    keys: Vec<IdKey>,
}

impl Messages {
    fn new(users: u64) -> Self {
        Self { dice: Dice(users), users, keys: Vec::with_capacity(BATCH) }
    }

    fn make(&mut self) -> &[IdKey] {
        self.keys.clear();
        for _ in 0..BATCH {
            let user = self.dice.below(self.users);
            self.keys.push(IdKey::of(&format!("u-{user}")));
        }
        &self.keys
    }
}

/// In a child process: ns per message, bytes of memory per user.
pub fn measure_hosted(users: u64, messages: u64) -> Vec<f64> {
    let mut source = Messages::new(users);
    source.make();
    let before = resident_bytes("self");
    let mut actors: DigestMap<UserActor> = DigestMap::default();
    let mut spent = Duration::ZERO;
    let batches = messages.div_ceil(u64::try_from(BATCH).expect("a batch"));
    let mut checksum = 0_u64;
    for _ in 0..batches {
        let keys = source.make();
        let began = Instant::now();
        for key in keys {
            checksum += u64::from(actors.entry(*key).or_default().receive());
        }
        spent += began.elapsed();
    }
    std::hint::black_box(checksum);
    figures(spent, batches, before, actors.len())
}

struct LonelyActor(UserActor);

impl Actor for LonelyActor {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Take;

impl Handler<Take> for LonelyActor {
    type Result = ();

    fn handle(&mut self, _message: Take, _context: &mut Self::Context) {
        std::hint::black_box(self.0.receive());
    }
}

/// The same, each user an actor of its own on one arbiter. A batch counts as done when all its messages are handled.
pub fn measure_actix(users: u64, messages: u64) -> Vec<f64> {
    System::new().block_on(async move {
        let mut source = Messages::new(users);
        source.make();
        let before = resident_bytes("self");
        let mut actors: DigestMap<Addr<LonelyActor>> = DigestMap::default();
        let mut spent = Duration::ZERO;
        let batches = messages.div_ceil(u64::try_from(BATCH).expect("a batch"));
        for _ in 0..batches {
            let keys = source.make();
            let began = Instant::now();
            for key in keys {
                let actor = actors.entry(*key).or_insert_with(|| LonelyActor(UserActor::default()).start());
                if actor.try_send(Take).is_err() {
                    // The mailbox is full: let it be emptied.
                    tokio::task::yield_now().await;
                    actor.send(Take).await.expect("the actor lives");
                }
            }
            // Actors are tasks of this same thread and run in the order in which they were woken: the last one's answer
            // comes after everybody's.
            if let Some(last) = keys.last().and_then(|key| actors.get(key)) {
                last.send(Take).await.expect("the actor lives");
            }
            spent += began.elapsed();
        }
        figures(spent, batches, before, actors.len())
    })
}

fn figures(spent: Duration, batches: u64, before: u64, users: usize) -> Vec<f64> {
    let messages = count(batches) * count(BATCH);
    let grown = resident_bytes("self").saturating_sub(before);
    vec![spent.as_secs_f64() * 1e9 / messages, count(grown) / count(users)]
}

/// Time of a message and memory of a user, both ways, in interleaved rounds.
pub fn compare(arguments: &Arguments, report: &mut Report) {
    let mut rows = Vec::new();
    for users in arguments.scaled(vec![10_000_u64, 100_000, 1_000_000], vec![200]) {
        let messages = arguments.scaled((users * 4).max(1_000_000), 5_000);
        let (mut hosted, mut actix) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds(3) {
            let (users, messages) = (users.to_string(), messages.to_string());
            hosted.push(in_child(&["hosting", "hosted", &users, &messages]));
            actix.push(in_child(&["hosting", "actix", &users, &messages]));
        }
        let (hosted, actix) = (medians_of(&hosted), medians_of(&actix));
        rows.push(vec![
            whole(count(users)),
            format!("{:.0}", hosted[0]),
            format!("{:.0}", actix[0]),
            format!("{:.1}", actix[0] / hosted[0]),
            format!("{:.0}", hosted[1]),
            format!("{:.0}", actix[1]),
            format!("{:.1}", actix[1] / hosted[1]),
        ]);
    }
    report.table(
        "User actors: hosted in the partition against one actix actor each, one core",
        &["users", "hosted, ns", "actix, ns", "ratio", "hosted, bytes", "actix, bytes", "ratio"],
        &rows,
    );
}
