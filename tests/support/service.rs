//! The service's own binary, run as an operator runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::process::{GuardedChild, exit_code, tail, unique_name};
use super::wait::wait_until_or_show;

const BINARY: &str = env!("CARGO_BIN_EXE_tallyguard");

/// A running `tallyguard run`; dropping it kills it.
pub struct Service {
    process: GuardedChild,
    log_path: PathBuf,
    http_port: Option<u16>,
}

impl Service {
    /// Writes the configuration into `dir` and starts the service with it. A second start in the same directory is a
    /// new process with a log of its own.
    pub fn start(config_toml: &str, dir: &Path, extra_env: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config_path = dir.join(format!("service-{number}.toml"));
        let log_path = dir.join(format!("service-{number}.log"));
        fs::write(&config_path, config_toml).expect("the service's configuration file");
        let mut command = Command::new(BINARY);
        command.arg("run").arg("--config").arg(&config_path).current_dir(dir).envs(extra_env.iter().copied());
        Self { process: GuardedChild::spawn(&mut command, &log_path), log_path, http_port: http_port(config_toml) }
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// SIGKILL, as a power cut would do it.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks it to hand over and leave; `wait_exit` tells how it left.
    pub fn sigterm(&mut self) {
        self.process.signal(libc::SIGTERM);
    }

    /// Freezes it, as a long pause of its machine would do it.
    pub fn sigstop(&mut self) {
        self.process.signal(libc::SIGSTOP);
    }

    pub fn sigcont(&mut self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Its exit code (128 + n when signal n ended it), or `None` when it still runs after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<i32> {
        self.process.wait(timeout).map(exit_code)
    }

    /// Status and body; status 0, with the reason as the body, when there was no answer within 5 s.
    pub fn http_get(&self, path: &str) -> (u16, String) {
        let port = self.http_port.expect("the configuration has http.listen");
        http_get(port, path)
    }

    /// Waits until `/readyz` answers 200; panics with the log when it does not, or when the service ends.
    pub fn wait_ready(&mut self, timeout: Duration) {
        let log_path = self.log_path.clone();
        wait_until_or_show(
            timeout,
            "the service is ready",
            || tail(&log_path, 60),
            || {
                if let Some(code) = self.process.exit().map(exit_code) {
                    panic!("the service left with {code} before it was ready\n{}", self.log());
                }
                self.http_get("/readyz").0 == 200
            },
        );
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log_path).unwrap_or_default()).into_owned()
    }
}

/// Status and body; status 0, with the reason as the body, when there was no answer within 5 s.
pub fn http_get(port: u16, path: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .into();
    let answer = agent.get(format!("http://127.0.0.1:{port}{path}")).call().and_then(|mut response| {
        let body = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), body))
    });
    answer.unwrap_or_else(|error| (0, error.to_string()))
}

/// Runs `tallyguard` with these arguments to its end: exit code, standard output, standard error. Panics when it takes
/// more than a minute.
pub fn run_command(args: &[&str]) -> (i32, String, String) {
    run_command_with(args, &[], Duration::from_secs(60))
}

/// The same with additional environment and another patience.
pub fn run_command_with(args: &[&str], extra_env: &[(&str, &str)], timeout: Duration) -> (i32, String, String) {
    let dir = tempfile::Builder::new().prefix(&unique_name("tallyguard-command-")).tempdir().expect("a directory");
    let (out, err) = (dir.path().join("stdout"), dir.path().join("stderr"));
    let mut command = Command::new(BINARY);
    command
        .args(args)
        .envs(extra_env.iter().copied())
        .stdout(fs::File::create(&out).expect("a file for the output"))
        .stderr(fs::File::create(&err).expect("a file for the output"));
    let mut process = GuardedChild::spawn_with(&mut command);
    let status = process.wait(timeout);
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("the command's output")).into_owned();
    let (out, err) = (text(&out), text(&err));
    let status = status.unwrap_or_else(|| panic!("tallyguard {args:?} did not end within {timeout:?}\n{out}\n{err}"));
    (exit_code(status), out, err)
}

fn http_port(config_toml: &str) -> Option<u16> {
    let config: toml::Table = config_toml.parse().expect("the configuration is TOML");
    let listen = config.get("http")?.get("listen")?.as_str()?;
    listen.rsplit_once(':')?.1.parse().ok()
}
