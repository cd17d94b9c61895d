//! The host's side of the sockets: where clients come in, and how the guest's connections go out.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::VsockError;
use super::unix::{self, MAX_PATH_LEN};

/// The longest that a port makes a path, with its underscore.
const PORT_SUFFIX_LEN: usize = "_4294967295".len();

/// How a guest's connections reach the host.
pub trait Connector: Send {
    /// A connection to whoever listens for host port `port`, non-blocking. Called on a vCPU's thread: it waits for
    /// nobody.
    ///
    /// # Errors
    /// Nobody listens, or whoever does takes no more.
    fn connect(&mut self, port: u32) -> io::Result<UnixStream>;
}

/// What a socket device needs of the host.
pub struct HostSockets {
    /// Where clients of the guest come in.
    pub listener: UnixListener,
    /// Where the guest's connections go out.
    pub connector: Box<dyn Connector>,
}

impl HostSockets {
    /// A listener at `path`, which is removed with the connector; the guest's connections to host port `N` go to this
    /// path with `_N` appended.
    ///
    /// # Errors
    /// A path that cannot be, or that exists already. Nothing is left there then.
    pub fn listen(path: &Path) -> Result<Self, VsockError> {
        let (listener, folder) = ListeningPath::listen(path)?;
        let connector = Box::new(folder);
        Ok(Self { listener, connector })
    }
}

/// The path of a listening socket. Removed from the file system with this value.
pub struct ListeningPath(PathBuf);

impl ListeningPath {
    /// Makes the listening socket.
    ///
    /// # Errors
    /// As [`HostSockets::listen`].
    pub fn listen(path: &Path) -> Result<(UnixListener, Self), VsockError> {
        let limit = MAX_PATH_LEN - PORT_SUFFIX_LEN;
        if path.as_os_str().len() > limit {
            let path = path.to_path_buf();
            return Err(VsockError::PathTooLong { path, limit });
        }
        let bound = match path.as_os_str().is_empty() {
            // The kernel would choose a name that nobody knows.
            true => Err(io::ErrorKind::InvalidInput.into()),
            false => UnixListener::bind(path),
        };
        let listener = bound.map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => VsockError::PathExists { path: path.into() },
            _ => VsockError::Listen {
                path: path.into(),
                source,
            },
        })?;
        Ok((listener, Self(path.to_path_buf())))
    }
}

impl Connector for ListeningPath {
    fn connect(&mut self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.0);
        path.push(format!("_{port}"));
        unix::connect(&path)
    }
}

impl Drop for ListeningPath {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, path = ?self.0, "vsock's socket not removed");
        }
    }
}
