//! Commands that run until they are asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a person has asked for so far.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// To come to an end: SIGINT, SIGTERM or SIGHUP.
    pub stop: Arc<AtomicBool>,
    /// To leave at once: a second signal, or SIGHUP, after which nobody is watching.
    pub at_once: Arc<AtomicBool>,
}

/// A flag that SIGINT and SIGTERM set; the closing of the terminal ends the command as it always does.
pub(super) fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let signals = Signals::default();
    await_in_background(signals.clone(), &[SignalKind::interrupt(), SignalKind::terminate()])?;
    Ok(signals.stop)
}

/// The same for a command that has an end of its own to come to, which a second signal cuts short.
pub(super) fn stop_or_leave_on_signal() -> anyhow::Result<Signals> {
    let signals = Signals::default();
    await_in_background(signals.clone(), &[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])?;
    Ok(signals)
}

fn await_in_background(signals: Signals, kinds: &[SignalKind]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot await signals")?;
    let awaited: Vec<(SignalKind, Signal)> = {
        let _entered = runtime.enter();
        let listening = kinds.iter().map(|&kind| Ok((kind, signal(kind)?)));
        listening.collect::<std::io::Result<_>>().context("cannot await signals")?
    };
    let waiting = thread::Builder::new().name("signals".to_owned());
    let spawned = waiting.spawn(move || {
        let tasks = awaited.into_iter().map(|(kind, mut signal)| {
            let signals = signals.clone();
            async move {
                while signal.recv().await.is_some() {
                    if signals.stop.swap(true, Ordering::Relaxed) || kind == SignalKind::hangup() {
                        signals.at_once.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        let tasks: Vec<_> = tasks.map(|task| runtime.spawn(task)).collect();
        runtime.block_on(async {
            for task in tasks {
                let _ = task.await;
            }
        });
    });
    spawned.map(drop).context("cannot start the thread that awaits signals")
}
