//! The folder that a demo works in, and the address of its dashboard.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::clock::wall_clock_ms;
use crate::state::DirectoryLock;

/// The name of the configuration in the folder, and how one begins that a demo has written.
pub const CONFIGURATION: &str = "tallyguard.toml";
pub const MARK: &str = "# Written by `tallyguard demo`, and written anew by the next one in this folder.\n";
const USUAL: ([u8; 4], u16) = ([127, 0, 0, 1], 8_088);

/// See the module head. A temporary folder goes when this is dropped, unless it was told to stay.
pub struct Place {
    dir: PathBuf,
    temporary: Option<TempDir>,
    /// One demo at a time in a folder.
    _lock: DirectoryLock,
}

impl Place {
    /// Takes the folder that was asked for, or a temporary one.
    ///
    /// # Errors
    /// It cannot be used, another demo is at work in it, or it holds a configuration that is somebody's own.
    pub fn take(asked: Option<&Path>) -> anyhow::Result<Self> {
        let (dir, temporary) = match asked {
            Some(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
                (std::path::absolute(dir)?, None)
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("tallyguard-demo-").tempdir();
                let temporary = temporary.context("no temporary folder")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let configuration = dir.join(CONFIGURATION);
        match fs::read_to_string(&configuration) {
            Ok(text) if text.starts_with(MARK) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => bail!("{} is not a demo's; give the demo a folder of its own", configuration.display()),
        }
        let lock = DirectoryLock::acquire(&dir, wall_clock_ms()).context("another demo")?;
        Ok(Self { dir, temporary, _lock: lock })
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the folder where it is, for a look at what went wrong.
    pub fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
    }
}

/// Where the dashboard will be.
pub struct Address {
    pub listen: SocketAddr,
    /// Why it is not the usual one.
    pub remark: Option<String>,
}

/// The address that was asked for, or the usual one, or, when somebody else has that, any other.
///
/// # Errors
/// It cannot be listened on.
pub fn choose_address(asked: Option<SocketAddr>) -> anyhow::Result<Address> {
    let free = |address: SocketAddr| TcpListener::bind(address).and_then(|listener| listener.local_addr());
    if let Some(asked) = asked {
        let listen = free(asked).with_context(|| format!("--listen {asked}"))?;
        return Ok(Address { listen, remark: None });
    }
    let usual = SocketAddr::from(USUAL);
    match free(usual) {
        Ok(listen) => Ok(Address { listen, remark: None }),
        Err(error) => {
            let listen = free(SocketAddr::from((USUAL.0, 0))).context("no free port for the dashboard")?;
            Ok(Address { listen, remark: Some(format!("{usual} is not free ({error}), so another port is used")) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_configuration_of_its_own_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let configuration = dir.path().join(CONFIGURATION);
        fs::write(&configuration, "[instance]\nid = \"mine\"\n").expect("written");
        let refused = Place::take(Some(dir.path())).err().expect("refused").to_string();
        assert!(refused.contains("not a demo's"), "{refused}");
        fs::write(&configuration, format!("{MARK}[instance]\n")).expect("written");
        let place = Place::take(Some(dir.path())).expect("a demo's");
        assert!(Place::take(Some(dir.path())).is_err(), "one demo at a time");
        drop(place);
        assert!(configuration.exists());
    }

    #[test]
    fn a_temporary_folder_goes_unless_it_is_to_stay() {
        let mut place = Place::take(None).expect("a folder");
        let dir = place.dir().to_owned();
        place.keep();
        drop(place);
        assert!(dir.exists());
        fs::remove_dir_all(&dir).expect("removed");
        let place = Place::take(None).expect("a folder");
        let dir = place.dir().to_owned();
        drop(place);
        assert!(!dir.exists());
    }

    #[test]
    fn an_address_that_is_in_use_is_refused_when_it_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = listener.local_addr().expect("its address");
        assert!(choose_address(Some(taken)).is_err());
        let any = choose_address(Some(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("any port");
        assert_ne!(any.listen.port(), 0);
    }
}
