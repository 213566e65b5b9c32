//! One instance of the service: its process, its state folder, and what may happen to both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dice::Dice;
use crate::scenario::{PATIENCE, Scenario};
use crate::shim::{Disk, Shim};
use crate::support::{Service, TestConfig, wait_until_or_show};

/// A process that was replaced learns of it with its next heartbeat or commit.
const UNTIL_IT_LEAVES: Duration = Duration::from_secs(40);

/// What happens to the state folder while its process is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFolder {
    Kept,
    Lost,
    /// A copy of an earlier kill is put in its place; the first time the copy is made.
    Exchanged,
    /// One byte of one data file is another.
    Damaged,
}

pub struct Instance {
    name: &'static str,
    config: TestConfig,
    process: Service,
    /// Of the process that runs now.
    shim: Shim,
    /// It may leave with 1 at any time: RocksDB does not trust a disk that has failed once.
    disk_was_bad: bool,
    successors: usize,
}

impl Instance {
    pub fn start(scenario: &Scenario, name: &'static str) -> Self {
        let config = scenario.instance(name);
        let (process, shim) = start(scenario, &config);
        Self { name, config, process, shim, disk_was_bad: false, successors: 0 }
    }

    pub fn process(&mut self) -> &mut Service {
        &mut self.process
    }

    pub fn kill(&mut self) {
        self.process.kill9();
    }

    pub fn start_again(&mut self, scenario: &Scenario) {
        (self.process, self.shim) = start(scenario, &self.config);
        self.disk_was_bad = false;
    }

    /// A process that has left because of its disk is started again, as a supervisor would; any other must not leave.
    pub fn assert_it_stays(&mut self, scenario: &Scenario) {
        if let Some(code) = self.process.wait_exit(Duration::ZERO) {
            assert!(code == 1 && self.disk_was_bad, "left by itself with {code}\n{}", self.process.log());
            self.start_again(scenario);
        }
    }

    /// SIGTERM; leaves with 0.
    pub fn leave(&mut self) {
        self.process.sigterm();
        let code = self.process.wait_exit(PATIENCE);
        // Before it has said its first word nothing has begun that it could end in order.
        let had_not_begun = code == Some(143) && self.process.log().is_empty();
        let is_fine = code == Some(0) || (code == Some(1) && self.disk_was_bad) || had_not_begun;
        assert!(is_fine, "{code:?}\n{}", self.process.log());
    }

    /// A second process with the same id and a state folder of its own comes while the first is frozen. When it wakes one
    /// of them must leave with 4: the first, unless it was frozen before it had joined the group, and so joins last.
    pub fn is_replaced_while_frozen(&mut self, scenario: &Scenario, frozen: Duration) {
        self.process.sigstop();
        let successor_dir = scenario.dir().join(format!("successor-{}-{}", self.name, self.successors));
        self.successors += 1;
        fs::create_dir_all(&successor_dir).expect("a folder for the successor");
        let config = self.config.clone().for_instance(self.name, &successor_dir);
        let (mut successor, shim) = start(scenario, &config);
        std::thread::sleep(frozen);
        self.process.sigcont();
        wait_until_or_show(
            UNTIL_IT_LEAVES,
            "one of two processes with one id has left",
            || scenario.logs(),
            || !self.process.is_running() || !successor.is_running(),
        );
        let stays = self.process.is_running();
        let gone = if stays { &mut successor } else { &mut self.process };
        let code = gone.wait_exit(Duration::ZERO);
        let is_fine = code == Some(4) || (code == Some(1) && !stays && self.disk_was_bad);
        assert!(is_fine, "{code:?}\n{}\n{}", gone.log(), scenario.logs());
        if !stays {
            (self.process, self.shim, self.config) = (successor, shim, config);
            self.disk_was_bad = false;
        }
    }

    /// The process may go on without snapshots, or leave with 1 and be started again, as a supervisor would.
    pub fn has_a_bad_disk(&mut self, scenario: &Scenario, disk: Disk, time: Duration) {
        self.disk_was_bad = true;
        self.shim.disk(disk);
        std::thread::sleep(time);
        self.shim.disk(Disk::Well);
        self.assert_it_stays(scenario);
    }

    /// Until the process is started again.
    pub fn has_a_wrong_clock(&self, seconds: i64) {
        self.shim.clock_is_off_by(seconds);
    }

    pub fn frozen_for(&mut self, time: Duration) {
        self.process.sigstop();
        std::thread::sleep(time);
        self.process.sigcont();
    }

    /// Only while the process is down.
    pub fn change_state(&mut self, what: StateFolder, dice: &mut Dice) {
        let folder = self.state_folder();
        match what {
            StateFolder::Kept => {}
            StateFolder::Lost => remove(&folder),
            StateFolder::Exchanged => {
                let copy = folder.with_extension("copy");
                if copy.exists() {
                    remove(&folder);
                    fs::rename(&copy, &folder).expect("the copy becomes the folder");
                } else {
                    copy_folder(&folder, &copy);
                }
            }
            StateFolder::Damaged => damage(&folder, dice),
        }
    }

    fn state_folder(&self) -> PathBuf {
        state_folder(&self.config)
    }
}

fn start(scenario: &Scenario, config: &TestConfig) -> (Service, Shim) {
    let shim = Shim::new(&state_folder(config));
    let environment = shim.environment();
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    (Service::start(&config.to_toml(), scenario.dir(), &environment), shim)
}

fn state_folder(config: &TestConfig) -> PathBuf {
    let config: toml::Table = config.to_toml().parse().expect("TOML");
    PathBuf::from(config["instance"]["state_dir"].as_str().expect("a state folder"))
}

fn remove(folder: &Path) {
    // A process that was killed while it started has made none.
    let _ = fs::remove_dir_all(folder);
}

fn copy_folder(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).expect("a folder for the copy");
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy of a file");
        }
    }
}

/// Flips a bit of a file that holds data: tables and write-ahead logs.
fn damage(folder: &Path, dice: &mut Dice) {
    let mut files = Vec::new();
    data_files(folder, &mut files);
    files.sort();
    if files.is_empty() {
        return;
    }
    let file = dice.pick(&files);
    let mut bytes = fs::read(&file).expect("a data file");
    let at = dice.below(bytes.len());
    bytes[at] ^= 1 << dice.below(8);
    // A copy takes its place: checkpoints share their files by hard links, and a disk damages one file.
    let damaged = file.with_extension("damaged");
    fs::write(&damaged, bytes).expect("a damaged file");
    fs::rename(&damaged, &file).expect("the damaged file takes its place");
}

fn data_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_data = path.extension().is_some_and(|extension| extension == "sst" || extension == "log");
        if path.is_dir() {
            data_files(&path, files);
        } else if is_data && entry.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            files.push(path);
        }
    }
}
