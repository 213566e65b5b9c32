//! tmp
pub mod status { 
#[derive(Clone)] pub struct StatusBoard(std::sync::Arc<std::sync::atomic::AtomicI64>);
impl StatusBoard { pub fn new(_: ()) -> Self { Self(Default::default()) } pub fn heartbeat(&self, now: i64) { self.0.store(now, std::sync::atomic::Ordering::Relaxed); } pub fn since_heartbeat(&self, now: i64) -> std::time::Duration { std::time::Duration::from_millis((now - self.0.load(std::sync::atomic::Ordering::Relaxed)).max(0) as u64) } }
}
pub mod metrics { pub fn install() {} }
