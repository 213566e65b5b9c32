//! A disk that is full or does not sync, and a clock that is wrong, for one process: `shim.c`, built with the machine's
//! C compiler and loaded into it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::process::GuardedDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Well,
    Full,
    DoesNotSync,
}

/// What one process is told of its disk and its clock; it learns of a change at once.
pub struct Shim {
    control: fs::File,
    control_path: PathBuf,
    folder: PathBuf,
}

impl Shim {
    /// For whatever is below `folder`.
    pub fn new(folder: &Path) -> Self {
        let control_path = folder.with_extension("shim");
        fs::write(&control_path, [0; 16]).expect("the shim's file");
        let control = fs::OpenOptions::new().write(true).open(&control_path).expect("the shim's file");
        Self { control, control_path, folder: folder.to_path_buf() }
    }

    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("TALLYGUARD_SHIM_CONTROL", self.control_path.display().to_string()),
            ("TALLYGUARD_SHIM_FOLDER", self.folder.display().to_string()),
        ]
    }

    pub fn disk(&self, disk: Disk) {
        let number: i32 = match disk {
            Disk::Well => 0,
            Disk::Full => 1,
            Disk::DoesNotSync => 2,
        };
        self.control.write_all_at(&number.to_ne_bytes(), 0).expect("the shim's file");
    }

    pub fn clock_is_off_by(&self, seconds: i64) {
        self.control.write_all_at(&seconds.to_ne_bytes(), 8).expect("the shim's file");
    }
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<(GuardedDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let dir = GuardedDir::new("tallyguard-shim-");
        let library = dir.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/shim.c");
        let output =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").output();
        let output = output.expect("a C compiler; librdkafka was built with it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (dir, library)
    });
    library
}
