//! The socket and who is let in: nothing here waits for a client.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as Listener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::peer::Peer;
use super::protocol::Answer;
use super::session::{self, History};
use crate::enforce::Handle;

/// Clients at one moment.
const MOST_CLIENTS: usize = 16;
/// How long no client is let in after the system refused one, for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another agent answers there.
    #[error("{}: another agent answers here; end it first, or give this one another control_socket", .0.display())]
    Live(PathBuf),
    /// Something else lies there.
    #[error("{}: this is no socket; remove it, or name another control_socket", .0.display())]
    NotASocket(PathBuf),
    /// Others could replace the socket.
    #[error("{}: the directory of the control socket must belong to root, and nobody else may write in it", .0.display())]
    Directory(PathBuf),
    /// The system refused.
    #[error("control socket {}: {source}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket on which the agent answers. Dropping it ends its clients and removes the socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Server {
    /// Makes the socket and, where there is none, its directory. What a dead agent left is replaced.
    ///
    /// # Errors
    /// Where another agent answers, or the place is not safe. To be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source: io::Error| ServeError::System { path: path.to_owned(), source };
        prepare_directory(path)?;
        remove_stale(path)?;
        let listener = Listener::bind(path).map_err(failed)?;
        // Whoever came before this is asked for uid 0 all the same.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let identity = fs::symlink_metadata(path).map(|found| identity(&found)).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }

    /// Answers until it is dropped.
    pub async fn serve(&self, handle: Handle, history: Arc<History>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = clients.join_next() => {}
                connection = self.listener.accept() => match connection {
                    Ok((connection, _)) => {
                        if let Some((connection, peer)) = admit(connection, clients.len()) {
                            clients.spawn(session::serve(connection, peer, handle.clone(), Arc::clone(&history)));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot let a client in");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A successor may have taken the place.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn admit(connection: UnixStream, clients: usize) -> Option<(UnixStream, Peer)> {
    let refused = match Peer::of(&connection) {
        Ok(peer) if clients < MOST_CLIENTS => return Some((connection, peer)),
        Ok(_) => format!("{MOST_CLIENTS} clients are connected already; try again when one has ended"),
        Err(refused) => refused.to_string(),
    };
    tracing::warn!(reason = %refused, "a client of the control socket was refused");
    if let Ok(line) = session::line(&Answer::Error(refused)) {
        // Nothing was written to it yet, so there is room; whoever goes without the reason is refused all the same.
        let _ = connection.try_write(&line);
    }
    None
}

fn prepare_directory(path: &Path) -> Result<(), ServeError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source: io::Error| ServeError::System { path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let found = fs::metadata(directory).map_err(failed)?;
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(ServeError::Directory(directory.to_owned()));
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source: io::Error| ServeError::System { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let address = UnixAddr::new(path).map_err(|errno| failed(errno.into()))?;
    // Not waiting: an agent whose queue is full lives.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe =
        socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|errno| failed(errno.into()))?;
    match connect(std::os::fd::AsRawFd::as_raw_fd(&probe), &address) {
        Ok(()) | Err(Errno::EAGAIN) => Err(ServeError::Live(path.to_owned())),
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}
