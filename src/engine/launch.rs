//! Puts the parts together, waits for the first reason to leave, and takes them apart again.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::{Arbiter, System};

use crate::cli::exit::Exit;
use crate::clock;
use crate::config::{Settings, SourceKind};
use crate::engine::assembly::{Surroundings, work};
use crate::engine::supervisor::{Leave, Supervisor};
use crate::http::{self, Ports, Served};
use crate::observe::status::StatusBoard;

/// A thread that has not come round for this long, beyond what one transaction call may take, is stuck in a call without
/// a time-out; a restart is always safe.
const STUCK: Duration = Duration::from_secs(90);

/// A predecessor that is frozen keeps its port until it wakes and leaves.
const PORT_PATIENCE: Duration = Duration::from_secs(60);
/// A watchdog that comes round so late was frozen with its process.
const FROZEN: Duration = Duration::from_secs(5);

/// Runs the service until it is asked to stop or cannot go on; with `while_stdin_is_open` also until standard input is
/// closed.
pub fn run(settings: Settings, while_stdin_is_open: bool) -> Exit {
    let supervisor = Supervisor::new();
    leave_on_panic();
    let leave = System::new().block_on(serve(Arc::new(settings), supervisor, while_stdin_is_open));
    match leave.exit {
        Exit::Done => tracing::info!("{}", leave.reason),
        _ => tracing::error!("leaving with exit code {}: {}", leave.exit.code(), leave.reason),
    }
    leave.exit
}

/// A panic anywhere ends the process: nothing goes on half alive.
fn leave_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("a part of the service panicked; leaving with exit code 1: {panic}");
        std::process::exit(i32::from(Exit::Failed.code()));
    }));
}

async fn serve(settings: Arc<Settings>, supervisor: Supervisor, while_stdin_is_open: bool) -> Leave {
    let metrics = crate::observe::metrics::install();
    let board = StatusBoard::new(crate::engine::monitor::about(&settings));
    let ports = Ports::default();
    let front = Rc::new(RefCell::new(None));
    let listen = settings.http.listen;
    let bind = {
        let served = Served { board: board.clone(), metrics, ports: ports.clone(), options: http_options(&settings) };
        let front = Rc::clone(&front);
        move || -> io::Result<()> {
            let (server, address) = http::serve(listen, served.clone())?;
            tracing::info!("status, metrics and health on http://{address}");
            front.replace(Some(server.handle()));
            actix::spawn(server);
            Ok(())
        }
    };
    match bind() {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(
                "http.listen = {listen}: {error}; trying again for {} s: a predecessor with the same configuration leaves \
                 once it is replaced",
                PORT_PATIENCE.as_secs()
            );
            actix::spawn(bind_later(bind, listen, supervisor.clone()));
        }
        Err(error) => return Leave { exit: Exit::Usage, reason: format!("http.listen = {listen}: {error}") },
    }
    let stuck = STUCK + settings.delivery.transaction_timeout * 2;
    let stop = Arc::new(AtomicBool::new(false));
    if while_stdin_is_open && let Err(error) = stop_with_stdin(Arc::clone(&stop)) {
        return Leave { exit: Exit::Failed, reason: format!("no thread for standard input: {error}") };
    }
    let arbiters: Vec<_> = (0..settings.instance.threads).map(|_| Arbiter::new()).collect();
    let io = std::thread::Builder::new().name("tallyguard-io".to_owned()).spawn({
        let surroundings = Surroundings {
            settings,
            supervisor: supervisor.clone(),
            stop: Arc::clone(&stop),
            board: board.clone(),
            ports,
            arbiters: arbiters.iter().map(Arbiter::handle).collect(),
        };
        let supervisor = supervisor.clone();
        move || {
            if let Err((exit, reason)) = work(surroundings) {
                supervisor.leave(exit, reason);
            }
        }
    });
    let io = match io {
        Ok(io) => io,
        Err(error) => return Leave { exit: Exit::Failed, reason: format!("no thread for I/O: {error}") },
    };
    let leave = await_leave(&supervisor, &stop, &board, stuck).await;
    let server = front.take();
    if let Some(server) = server {
        server.stop(false).await;
    }
    await_end(io).await;
    for arbiter in arbiters {
        arbiter.stop();
    }
    leave
}

/// Whoever started this process holds the other end: when it closes it, or dies, the service stops.
fn stop_with_stdin(stop: Arc<AtomicBool>) -> io::Result<()> {
    let watching = std::thread::Builder::new().name("tallyguard-stdin".to_owned());
    let spawned = watching.spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        stop.store(true, Ordering::SeqCst);
    });
    spawned.map(drop)
}

/// Takes the address as soon as whoever has it lets go.
async fn bind_later(bind: impl Fn() -> io::Result<()>, listen: SocketAddr, supervisor: Supervisor) {
    let deadline = clock::monotonic_now() + PORT_PATIENCE;
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        match bind() {
            Ok(()) => return,
            Err(error) if clock::monotonic_now() >= deadline => {
                return supervisor.leave(Exit::Usage, format!("http.listen = {listen}: {error}"));
            }
            Err(_) => {}
        }
    }
}

fn http_options(settings: &Settings) -> http::Options {
    http::Options {
        admin_token: settings.http.admin_token.clone(),
        takes_transactions: settings.source.kind == SourceKind::Embedded,
        max_future_skew: settings.time.max_future_skew,
        checkpoints_retained: settings.checkpoint.retain,
    }
}

/// The first reason to leave; a signal asks the I/O thread, which then gives the reason.
async fn await_leave(supervisor: &Supervisor, stop: &AtomicBool, board: &StatusBoard, stuck: Duration) -> Leave {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return Leave { exit: Exit::Failed, reason: "signals cannot be waited for".to_owned() };
    };
    let mut watchdog = tokio::time::interval(Duration::from_secs(1));
    let mut last_look = clock::monotonic_now();
    let mut awake_since = last_look;
    loop {
        tokio::select! {
            leave = supervisor.wait() => return leave,
            _ = terminate.recv() => stop.store(true, Ordering::SeqCst),
            _ = interrupt.recv() => stop.store(true, Ordering::SeqCst),
            _ = watchdog.tick() => {
                let now = clock::monotonic_now();
                if now.duration_since(last_look) > FROZEN {
                    // The whole process stood still, the watchdog too: the I/O thread gets its time anew.
                    awake_since = now;
                }
                last_look = now;
                if board.since_heartbeat(clock::monotonic_ms()) > stuck && now.duration_since(awake_since) > stuck {
                    supervisor.fail("the I/O thread has not come round for too long; a restart is safe");
                }
            }
        }
    }
}

/// Gives the I/O thread a moment to end; a stuck one is left behind, and ends with the process.
async fn await_end(io: JoinHandle<()>) {
    for _ in 0..200 {
        if io.is_finished() {
            let _ = io.join();
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::warn!("the I/O thread does not end; leaving without it");
}
