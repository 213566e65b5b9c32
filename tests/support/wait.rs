//! Waiting for something that another process does.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Returns as soon as `condition` holds; panics with `what` when it does not within `timeout`.
#[track_caller]
pub fn wait_until(timeout: Duration, what: &str, condition: impl FnMut() -> bool) {
    wait_until_or_show(timeout, what, String::new, condition);
}

/// The same, and on failure prints what `show` returns: a log, a state, whatever tells why.
#[track_caller]
pub fn wait_until_or_show(
    timeout: Duration,
    what: &str,
    show: impl FnOnce() -> String,
    mut condition: impl FnMut() -> bool,
) {
    let started = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if condition() {
            return;
        }
        if started.elapsed() >= timeout {
            panic!("waited {:.1} s in vain until {what}\n{}", timeout.as_secs_f64(), show());
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
