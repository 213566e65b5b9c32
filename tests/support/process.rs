//! Child processes that cannot outlive the test process.
//!
//! A `GuardedChild` is killed when it is dropped. When the test process itself ends before that (statics are never
//! dropped, and SIGKILL runs no destructor), `scripts/reaper.sh` does it: it reads from a pipe that only this process
//! holds open and that the kernel closes with it.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The path of a file in `scripts/`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// A name that no other test and no other run uses, fit for topics, groups and directories.
pub fn unique_name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A TCP port of 127.0.0.1 that nobody listens on, and that is not handed out twice by this process.
///
/// It lies below the range from which the kernel takes the ports of outgoing connections, so it is still free when a
/// server that was killed comes back to it.
pub fn free_port() -> u16 {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 17_000;
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(211)));
    for _ in 0..COUNT {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = u16::try_from(port).expect("within the range above");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}

/// A directory that is removed when it is dropped, or when the test process is gone.
pub struct GuardedDir(tempfile::TempDir);

impl GuardedDir {
    pub fn new(prefix: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary directory");
        tell_reaper(&format!("remove {}", dir.path().display()));
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for GuardedDir {
    fn drop(&mut self) {
        // TempDir removes it after this; told first, the reaper never removes what someone else made under that name.
        tell_reaper(&format!("keep {}", self.0.path().display()));
    }
}

/// A running child process; dropping it kills it.
pub struct GuardedChild {
    child: Child,
    exit: Option<ExitStatus>,
}

impl GuardedChild {
    /// Starts `command` in a process group of its own, with both outputs appended to `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Self {
        let out = fs::OpenOptions::new().create(true).append(true).open(log).expect("the log file of a child process");
        let err = out.try_clone().expect("a second handle of the log file");
        Self::spawn_with(command.stdout(out).stderr(err))
    }

    /// Starts `command` in a process group of its own; the outputs are as the caller set them.
    pub fn spawn_with(command: &mut Command) -> Self {
        Self::spawn_as_it_is(command.stdin(Stdio::null()))
    }

    /// Starts `command` in a process group of its own; outputs and input are as the caller set them.
    pub fn spawn_as_it_is(command: &mut Command) -> Self {
        let child =
            command.process_group(0).spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        tell_reaper(&format!("watch {}", child.id()));
        Self { child, exit: None }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("the state of a child process");
            if self.exit.is_some() {
                tell_reaper(&format!("forget {}", self.child.id()));
            }
        }
        self.exit
    }

    pub fn is_running(&mut self) -> bool {
        self.exit().is_none()
    }

    /// Waits for its end; `None` when it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while self.is_running() && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
        self.exit()
    }

    /// SIGKILL, as a power cut would do it, and waits until the process is gone.
    pub fn kill9(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait(Duration::from_secs(30)).expect("a killed process ends");
    }

    /// The end of its standard input that the caller writes to; dropping it closes it.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("its standard input is a pipe")
    }

    /// The end of its standard output that the caller reads.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("its standard output is a pipe")
    }

    /// Sends a signal to it and to all others of its process group, as Ctrl-C on a terminal does.
    pub fn signal_group(&mut self, signal: i32) {
        let group = i32::try_from(self.child.id()).expect("a process id");
        self.send(-group, signal);
    }

    /// Sends a signal; one that has ended gets none.
    pub fn signal(&mut self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        self.send(pid, signal);
    }

    fn send(&mut self, pid: i32, signal: i32) {
        if !self.is_running() {
            return;
        }
        #[allow(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
        // SAFETY: kill() takes two integers. The child has not been waited for, so the id is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "kill({pid}, {signal}): {}", std::io::Error::last_os_error());
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill9();
        }
    }
}

/// The exit code, with 128 + n for an end by signal n, as shells count it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The last lines of a file, for messages of failure.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let last = all[all.len().saturating_sub(lines)..].join("\n");
    format!("--- last lines of {}\n{last}", path.display())
}

struct Reaper {
    pipe: ChildStdin,
    _script: Child,
}

fn tell_reaper(line: &str) {
    static REAPER: OnceLock<Mutex<Reaper>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        // In a process group of its own: a Ctrl-C that ends the tests must not end it.
        let mut script = Command::new("bash")
            .arg(script("reaper.sh"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("bash runs scripts/reaper.sh");
        let pipe = script.stdin.take().expect("its standard input is a pipe");
        Mutex::new(Reaper { pipe, _script: script })
    });
    let mut reaper = reaper.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(reaper.pipe, "{line}").expect("scripts/reaper.sh reads");
}
