//! Wakes the I/O thread: rung from any thread when there may be something for it to do.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// See the module head. A ring that comes before the wait is not lost.
#[derive(Default)]
pub struct Doorbell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Doorbell {
    pub fn ring(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            *rung = true;
            self.wake.notify_one();
        }
    }

    /// Waits for a ring since the last wait, at most `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.wake.wait_for(&mut rung, timeout);
        }
        *rung = false;
    }
}
