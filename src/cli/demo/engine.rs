//! The engine of the demo: its configuration, and its process, which ends with this one, however this one ends.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use uuid::Uuid;

use super::place::{CONFIGURATION, MARK};
use super::tail;
use crate::clock::monotonic_now;
use crate::config::{self, Settings};

const LOOK: Duration = Duration::from_millis(20);
const END_PATIENCE: Duration = Duration::from_secs(30);

pub struct Engine {
    config: PathBuf,
    log: PathBuf,
    token: String,
    settings: Settings,
    agent: ureq::Agent,
    child: Option<Child>,
}

impl Engine {
    /// Writes the configuration; starts nothing yet.
    pub fn prepare(dir: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        let token = Uuid::new_v4().to_string();
        let token_file = dir.join("admin-token");
        write_secret(&token_file, &token).with_context(|| format!("cannot write {}", token_file.display()))?;
        let mut table = toml::Table::new();
        let mut set = |section: &str, key: &str, value: toml::Value| {
            let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let Some(section) = section.as_table_mut() {
                section.insert(key.to_owned(), value);
            }
        };
        let path = |path: PathBuf| toml::Value::from(path.display().to_string());
        set("instance", "id", "demo".into());
        set("instance", "state_dir", path(dir.join("state")));
        set("source", "kind", "embedded".into());
        set("time", "out_of_orderness", "10s".into());
        set("time", "max_future_skew", "10s".into());
        set("checkpoint", "interval", "2s".into());
        set("stats", "flush_interval", "200ms".into());
        set("http", "listen", listen.to_string().into());
        set("http", "admin_token_file", path(token_file));
        let text = toml::to_string(&table).context("a configuration that cannot be written")?;
        let text = format!("{MARK}{text}");
        let config = dir.join(CONFIGURATION);
        std::fs::write(&config, &text).with_context(|| format!("cannot write {}", config.display()))?;
        let settings = config::from_text(&text, &[]).map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        let agent = ureq::Agent::config_builder()
            // The engine is on this machine, whatever proxy the environment names.
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(2)))
            .build()
            .into();
        Ok(Self { config, log: dir.join("engine.log"), token, settings, agent, child: None })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.settings.http.listen)
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn start(&mut self) -> anyhow::Result<()> {
        let log: File = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe().context("where this program is")?);
        for (name, _) in std::env::vars_os() {
            // The demo's configuration is its own.
            if name.to_string_lossy().starts_with(config::PREFIX) {
                command.env_remove(name);
            }
        }
        command
            .args(["run", "--while-stdin-is-open", "--config"])
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C on the terminal is for the demo: the engine still has to take in what was fed.
            .process_group(0);
        self.child = Some(command.spawn().context("cannot start the engine")?);
        Ok(())
    }

    /// Fails when the engine has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            bail!("the engine ended by itself ({status}); the end of {}:\n{}", self.log.display(), tail(&self.log));
        }
        Ok(())
    }

    /// How long it took. Does not wait any longer once `stop` is set.
    pub fn await_ready(&mut self, patience: Duration, stop: &AtomicBool) -> anyhow::Result<Duration> {
        let began = monotonic_now();
        loop {
            self.check()?;
            let answer = self.agent.get(format!("{}/readyz", self.address())).call();
            if answer.is_ok_and(|answer| answer.status() == 200) || stop.load(Ordering::Relaxed) {
                return Ok(began.elapsed());
            }
            if began.elapsed() > patience {
                bail!("the engine is not ready after {patience:?}; the end of its log:\n{}", tail(&self.log));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What the engine says of itself; `None` while it is away.
    pub fn status(&self) -> Option<Value> {
        let mut answer = self.agent.get(format!("{}/api/v1/status", self.address())).call().ok()?;
        serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()
    }

    /// Waits until everything in the log is committed, and the database has all of it.
    pub fn await_caught_up(&mut self, patience: Duration, at_once: &AtomicBool) -> anyhow::Result<()> {
        let deadline = monotonic_now() + patience;
        let is_done = |status: &Value| {
            let partitions = status["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
            status["ready"] == true
                && status["statistics"]["pending_rows"] == 0
                && !partitions.is_empty()
                && partitions.iter().all(|partition| {
                    partition["committed_offset"] == partition["end_offset"]
                        && partition["statistics_pending_rows"] == 0
                })
        };
        while monotonic_now() < deadline {
            self.check()?;
            super::unless_at_once(at_once)?;
            if self.status().is_some_and(|status| is_done(&status)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the engine has not caught up after {patience:?}; the end of its log:\n{}", tail(&self.log))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to hand over and leave, and fails unless it leaves with 0.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        drop(child.stdin.take());
        let deadline = monotonic_now() + END_PATIENCE;
        loop {
            match child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    bail!("the engine left with {status}; the end of its log:\n{}", tail(&self.log));
                }
                None if monotonic_now() > deadline => {
                    child.kill()?;
                    child.wait()?;
                    bail!("the engine did not leave within {END_PATIENCE:?}; the end of its log:\n{}", tail(&self.log));
                }
                None => std::thread::sleep(LOOK),
            }
        }
    }
}

fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Only after an error: whatever the demo leaves, no process of it.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
