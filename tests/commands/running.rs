//! A command of the program that runs while the test goes on.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::World;
use crate::support::process::{GuardedChild, exit_code};
use crate::support::wait_until_or_show;

/// How long anything may take on a machine that runs several tests at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running command, its outputs in files.
pub struct Running {
    pub process: GuardedChild,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Starts `tallyguard` with these arguments; its standard input is a pipe.
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let number = fs::read_dir(world.dir.path()).expect("the folder").count();
        let (out, err) = (world.path(&format!("out-{number}")), world.path(&format!("err-{number}")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyguard"));
        let file = |path| fs::File::create(path).expect("a file for the output");
        command.args(arguments).stdin(Stdio::piped()).stdout(file(&out)).stderr(file(&err));
        Self { process: GuardedChild::spawn_as_it_is(&mut command), out, err }
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Waits until its standard output holds this text.
    pub fn wait_for(&self, text: &str) {
        let show = || format!("{}\n{}", self.out(), self.err());
        wait_until_or_show(PATIENCE, text, show, || self.out().contains(text));
    }

    /// Its exit code, within `timeout`.
    pub fn end(&mut self, timeout: Duration) -> i32 {
        let status = self.process.wait(timeout);
        exit_code(status.unwrap_or_else(|| panic!("it still runs after {timeout:?}\n{}\n{}", self.out(), self.err())))
    }
}

/// Processes whose command line names this file or folder.
pub fn processes_of(path: &std::path::Path) -> Vec<u32> {
    let needle = path.display().to_string();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let found = processes.filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command_line = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&command_line).contains(&needle).then_some(id)
    });
    found.collect()
}
