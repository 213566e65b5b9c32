//! A proxy in front of a server that knows its protocol: it loses requests or answers, delivers them late, or in pieces.
//!
//! Every connection has two threads. A request may be delivered when its client has given up and gone: that is how a
//! commit arrives that nobody waits for any more.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::protocol::{Protocol, Request};
use crate::support::free_port;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out; the connection ends before its answer.
    AnswerLost,
    /// The connection ends, and nobody hears of it.
    RequestLost,
    /// It arrives that much later; its client waits.
    RequestLate(Duration),
    /// The connection ends for the client at once; the request arrives that much later, when nobody waits for it any more
    /// and it may have been sent again.
    RequestAbandoned(Duration),
    /// It is carried out at once; the answer comes that much later.
    AnswerLate(Duration),
    /// It arrives in small pieces.
    InPieces,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Self::AnswerLost => "answer lost",
            Self::RequestLost => "request lost",
            Self::RequestLate(_) => "request late",
            Self::RequestAbandoned(_) => "request late, client gone",
            Self::AnswerLate(_) => "answer late",
            Self::InPieces => "in pieces",
        }
    }
}

/// One in so many requests of that name suffers the fault.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub request: &'static str,
    pub fault: Fault,
    pub one_in: usize,
}

/// Listens until it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    protocol: Protocol,
    upstream_port: u16,
    rules: Mutex<Vec<Rule>>,
    dice: Mutex<Dice>,
    /// Faults by request and kind.
    counts: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    seen: Mutex<BTreeMap<&'static str, u64>>,
    ended: AtomicBool,
}

impl Proxy {
    /// In front of a port of this machine; nothing need listen there yet.
    pub fn start(protocol: Protocol, upstream_port: u16, seed: u64) -> Self {
        Self::start_on(free_port(), protocol, upstream_port, seed)
    }

    /// The same on a port that is known beforehand.
    pub fn start_on(port: u16, protocol: Protocol, upstream_port: u16, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port for the proxy");
        let shared = Arc::new(Shared {
            protocol,
            upstream_port,
            rules: Mutex::default(),
            dice: Mutex::new(Dice::new(seed)),
            counts: Mutex::default(),
            seen: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    serving.connect(client);
                }
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on these rules hold, and no others.
    pub fn disturb(&self, rules: Vec<Rule>) {
        *locked(&self.shared.rules) = rules;
    }

    pub fn leave_alone(&self) {
        self.disturb(Vec::new());
    }

    /// How often each request suffered what.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        locked(&self.shared.counts).clone()
    }

    /// How many requests of that name have come by.
    pub fn seen(&self, request: &str) -> u64 {
        locked(&self.shared.seen).get(request).copied().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Whoever connects wakes the listener up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One connection: both ends, and the requests whose answers are not simply handed on.
struct Link {
    client: TcpStream,
    server: TcpStream,
    awaited: Mutex<Vec<(Request, Fault)>>,
}

impl Link {
    fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl Shared {
    /// Nobody behind it: the client meets a closed door, as it would without the proxy.
    fn connect(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.upstream_port)) else { return };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let link = Arc::new(Link { client, server, awaited: Mutex::default() });
        let (shared, of_client) = (Arc::clone(self), Arc::clone(&link));
        thread::spawn(move || {
            let _ = shared.hand_requests_on(&of_client);
            // What was sent last may still be on its way into the server.
            let _ = of_client.server.shutdown(Shutdown::Write);
        });
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let _ = shared.hand_answers_on(&link);
            link.cut();
        });
    }

    fn hand_requests_on(&self, link: &Link) -> io::Result<()> {
        let mut held = Vec::new();
        while fill(&link.client, &mut held)? {
            while let Some(length) = self.protocol.message_length(&held).filter(|&length| held.len() >= length) {
                let message: Vec<u8> = held.drain(..length).collect();
                self.hand_request_on(link, &message)?;
            }
        }
        Ok(())
    }

    fn hand_request_on(&self, link: &Link, message: &[u8]) -> io::Result<()> {
        let request = self.protocol.request(message);
        *locked(&self.seen).entry(request.name).or_default() += 1;
        match self.draw(request.name) {
            None => (&link.server).write_all(message),
            Some(Fault::RequestLost) => {
                link.cut();
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Some(Fault::RequestLate(late)) => {
                self.sleep(late);
                (&link.server).write_all(message)
            }
            Some(Fault::RequestAbandoned(late)) => {
                let _ = link.client.shutdown(Shutdown::Both);
                self.sleep(late);
                (&link.server).write_all(message)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Some(Fault::InPieces) => {
                for piece in message.chunks(message.len().div_ceil(40).max(7)) {
                    (&link.server).write_all(piece)?;
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            Some(fault) => {
                locked(&link.awaited).push((request, fault));
                (&link.server).write_all(message)
            }
        }
    }

    fn hand_answers_on(&self, link: &Link) -> io::Result<()> {
        let mut held = Vec::new();
        while fill(&link.server, &mut held)? {
            loop {
                let length = if self.protocol.numbers_answers() {
                    self.protocol.message_length(&held).filter(|&length| held.len() >= length)
                } else {
                    Some(held.len()).filter(|&length| length > 0)
                };
                let Some(length) = length else { break };
                let answer: Vec<u8> = held.drain(..length).collect();
                match self.awaited(link, &answer) {
                    Some(Fault::AnswerLost) => return Ok(()),
                    Some(Fault::AnswerLate(late)) => self.sleep(late),
                    _ => {}
                }
                (&link.client).write_all(&answer)?;
            }
        }
        Ok(())
    }

    fn awaited(&self, link: &Link, answer: &[u8]) -> Option<Fault> {
        let mut awaited = locked(&link.awaited);
        let at = awaited.iter().position(|(request, _)| self.protocol.answers(answer, request))?;
        Some(awaited.remove(at).1)
    }

    fn draw(&self, request: &'static str) -> Option<Fault> {
        let rules = locked(&self.rules);
        let mut dice = locked(&self.dice);
        let hit = rules.iter().find(|rule| rule.request == request && dice.below(rule.one_in) == 0)?;
        *locked(&self.counts).entry((request, hit.fault.name())).or_default() += 1;
        Some(hit.fault)
    }

    /// A proxy that has ended lets everything go.
    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads what is there behind what is held; false at the end of the stream.
fn fill(mut stream: &TcpStream, held: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 65_536];
    let count = stream.read(&mut buffer)?;
    held.extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
