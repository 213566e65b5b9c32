//! Checkpoints with damage of every kind, and those of a service at work.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::running::{PATIENCE, Running};
use crate::support::wait_until;
use crate::{World, burst};

impl World {
    fn listed(&self) -> Vec<Value> {
        let (code, out, err) = self.run(&["checkpoint", "list"], &["--json"]);
        assert_eq!(code, 0, "{err}");
        let report: Value = serde_json::from_str(&out).expect("JSON");
        report["checkpoints"].as_array().expect("checkpoints").clone()
    }

    fn verify(&self) -> (i32, String) {
        let (code, out, err) = self.run(&["checkpoint", "verify"], &[]);
        (code, out + &err)
    }

    /// The only checkpoint of a service that took something in and left.
    fn checkpoint(&self) -> PathBuf {
        let mut service = self.start();
        let file = self.path("burst.ndjson");
        fs::write(&file, (0..200).map(|user| burst(&format!("u-{user}"), 5)).collect::<String>()).unwrap();
        let (code, _, err) = self.run(&["ingest"], &[&file.display().to_string()]);
        assert_eq!(code, 0, "{err}");
        let covers_all = |checkpoint: &Value| {
            let partitions = checkpoint["partitions"].as_array().expect("partitions");
            partitions.iter().filter_map(|partition| partition["through"].as_i64()).sum::<i64>() == 1_000
        };
        wait_until(PATIENCE, "a checkpoint of everything", || self.listed().iter().any(covers_all));
        service.sigterm();
        assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
        let mut all = self.listed();
        let newest = all.pop().expect("a checkpoint");
        for older in all {
            fs::remove_dir_all(older["path"].as_str().expect("a path")).unwrap();
        }
        PathBuf::from(newest["path"].as_str().expect("a path"))
    }
}

/// Writes a file anew, so that hard links to the old one stay as they are.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A machine is lost; another one goes on with what was exported, and replays what came since.
#[test]
fn an_exported_checkpoint_is_the_state_of_another_machine() {
    let world = World::new();
    world.checkpoint();
    let export = world.path("exported").display().to_string();
    let (code, out, err) = world.run(&["checkpoint", "export"], &["--to", &export]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("verified") && out.contains("partition 0 through"), "{out}");
    let (code, _, err) = world.run(&["checkpoint", "export"], &["--to", &export]);
    assert_eq!(code, 1, "it exists: {err}");
    assert_eq!(
        world.run(&["checkpoint", "export"], &["--to", &world.path("other").display().to_string(), "--id", "77"]).0,
        1
    );

    // Not over a state that is there, unless it is asked for.
    let import = |more: &[&str]| world.run(&["checkpoint", "import"], &[&["--from", &export], more].concat());
    let (code, _, err) = import(&[]);
    assert!(code == 3 && err.contains("--replace"), "{code} {err}");
    let (code, out, err) = import(&["--replace"]);
    assert!(code == 0 && out.contains("what was there before"), "{out}{err}");

    // The embedded log stays, everything else of the state is lost.
    fs::remove_dir_all(world.path("state/store")).unwrap();
    fs::remove_dir_all(world.path("state/checkpoints")).unwrap();
    assert_eq!(import(&[]).0, 0);
    let mut service = world.start();
    assert!(service.log().contains("snapshot from"), "{}", service.log());
    // Five of these are known already; with the others the user breaks the rule.
    let file = world.path("more.ndjson");
    fs::write(&file, burst("u-0", 11)).unwrap();
    assert_eq!(world.run(&["ingest"], &[&file.display().to_string()]).0, 0);
    wait_until(PATIENCE, "the alert", || world.alerts().iter().any(|alert| alert["user_id"] == "u-0"));
    let (code, _, err) = world.run(&["checkpoint", "import"], &["--from", &export, "--replace"]);
    assert!(code == 1 && err.contains("in use by"), "while the service runs: {code} {err}");
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
}

#[test]
fn a_damaged_or_foreign_export_is_not_imported_and_changes_nothing() {
    let world = World::new();
    let checkpoint = world.checkpoint();
    let export = world.path("exported");
    let text = export.display().to_string();
    assert_eq!(world.run(&["checkpoint", "export"], &["--to", &text]).0, 0);
    let import = || world.run(&["checkpoint", "import"], &["--from", &text, "--replace"]);

    let other = world.toml().replace("kind = 'embedded'", "kind = 'embedded'\ngroup = 'somebody-else'");
    fs::write(world.config(), other).unwrap();
    let (code, _, err) = import();
    assert!(code == 3 && err.contains("somebody-else"), "{code} {err}");
    fs::write(world.config(), world.toml()).unwrap();

    let is_table = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "sst");
    let files = |dir: &Path| fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    for dir in [&export, &checkpoint] {
        let table = files(dir).into_iter().find(is_table).expect("a table");
        let mut bytes = fs::read(&table).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 0x04;
        replace(&table, &bytes);
    }
    let store = files(&world.path("state/store")).len();
    let (code, out, err) = import();
    assert_eq!(code, 1, "{out}{err}");
    assert_eq!(files(&world.path("state/store")).len(), store, "nothing was moved");
    let (code, out, err) = world.run(&["checkpoint", "export"], &["--to", &world.path("bad").display().to_string()]);
    assert!(code == 1 && !world.path("bad").exists(), "{out}{err}");
}

/// But for OPTIONS, which nobody reads.
#[test]
fn a_flipped_bit_in_any_file_that_is_read_is_found() {
    let world = World::new();
    let checkpoint = world.checkpoint();
    assert_eq!(world.verify().0, 0);
    let mut looked_at = 0;
    for entry in fs::read_dir(&checkpoint).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let sound = fs::read(entry.path()).unwrap();
        if sound.is_empty() || name.starts_with("OPTIONS") {
            continue;
        }
        for at in [0, sound.len() / 3, sound.len() / 2, sound.len() - 1] {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x04;
            replace(&entry.path(), &damaged);
            let (code, said) = world.verify();
            assert_eq!(code, 1, "{name}, byte {at} of {}: {said}", sound.len());
            assert!(said.contains("DAMAGED") && said.contains("what to do: delete"), "{said}");
        }
        fs::remove_file(entry.path()).unwrap();
        assert_eq!(world.verify().0, 1, "{name} is missing");
        fs::write(entry.path(), &sound).unwrap();
        looked_at += 1;
    }
    assert!(looked_at >= 4, "tables, manifest, CURRENT and the description");
    assert_eq!(world.verify().0, 0, "all is as it was");
    // Not even a name is left of what it holds: that is damage too, and listing goes on.
    replace(&checkpoint.join("tallyguard-checkpoint.json"), b"{}");
    assert_eq!(world.verify().0, 1);
    assert!(world.listed().is_empty());
}

/// A running service deletes old checkpoints at any time; one that is gone was not damaged.
#[test]
fn the_checkpoints_of_a_service_at_work_are_sound_whenever_they_are_looked_at() {
    let world = World::new();
    let toml = world.toml().replace("interval = '500ms'", "interval = '100ms'\nretain = 2");
    fs::write(world.config(), toml.replace("min_pause = '100ms'", "min_pause = '10ms'")).unwrap();
    let config = world.config().display().to_string();
    let mut service = Running::start(&world, &["run", "--config", &config]);
    wait_until(PATIENCE, "the service holds its log", || world.path("state/log/lock").exists());
    let load = Running::start(&world, &["generate", "--config", &config, "--events", "0", "--rate", "2000"]);
    wait_until(PATIENCE, "a checkpoint", || !world.listed().is_empty());
    let (until, mut newest) = (Instant::now() + Duration::from_secs(8), 0);
    let mut rounds = 0;
    while Instant::now() < until {
        let (code, said) = world.verify();
        assert_eq!(code, 0, "{said}");
        newest = world.listed().last().and_then(|checkpoint| checkpoint["id"].as_u64()).unwrap_or(newest);
        rounds += 1;
    }
    assert!(rounds >= 5 && newest >= 10, "{rounds} looks, checkpoint {newest}: {}", service.err());
    drop(load);
    service.process.signal(libc::SIGTERM);
    assert_eq!(service.end(PATIENCE), 0, "{}", service.err());
}
