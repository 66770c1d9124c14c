//! The command line's end of the socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, Envelope, Request, VERSION};

/// Ending the connections of a large workload takes its time.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Far more than the status of a full node.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Why there is no answer, or which.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no agent answers at {}: is egress-warden run active?", .0.display())]
    NoAgent(PathBuf),
    /// It cannot be reached.
    #[error("the agent at {} cannot be asked: {source}{}", path.display(), hint(source))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended within an answer.
    #[error("the agent at {} ended the connection{}", path.display(), .source.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Lost {
        /// The socket.
        path: PathBuf,
        /// What the system said, where it said something.
        source: Option<io::Error>,
    },
    /// It answers what this program does not know.
    #[error("the agent at {} answers in words that this program does not know: {source}; are both of one version?", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// It answers something else than what was asked.
    #[error("the agent at {} answers something else than what was asked; are both of one version?", .0.display())]
    Mistaken(PathBuf),
    /// It refuses.
    #[error("{0}")]
    Refused(String),
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { "; only root may" } else { "" }
}

/// A connection on which something was asked.
#[derive(Debug)]
pub struct Client {
    answers: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Asks the agent at this socket.
    pub fn ask(path: &Path, request: Request) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoAgent(path.to_owned())
            }
            _ => ClientError::Unreachable { path: path.to_owned(), source },
        })?;
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(unreachable)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(unreachable)?;
        let mut line = serde_json::to_vec(&Envelope { version: VERSION, request })
            .map_err(|error| unreachable(io::Error::other(error)))?;
        line.push(b'\n');
        match (&stream).write_all(&line) {
            // Whoever is refused is told before anything is read of what they ask.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unreachable(error)),
            _ => {}
        }
        Ok(Self { answers: BufReader::new(stream), path: path.to_owned() })
    }

    /// From here on an answer may take any time.
    pub fn wait_forever(&self) -> Result<(), ClientError> {
        let set = self.answers.get_ref().set_read_timeout(None);
        set.map_err(|source| ClientError::Unreachable { path: self.path.clone(), source })
    }

    /// The next answer. A refusal is an error.
    pub fn answer(&mut self) -> Result<Answer, ClientError> {
        let mut line = Vec::new();
        let lost = |source| ClientError::Lost { path: self.path.clone(), source };
        let read = self.answers.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut line);
        read.map_err(|error| lost(Some(error)))?;
        if line.last() != Some(&b'\n') {
            return Err(lost(None));
        }
        let answer = serde_json::from_slice(&line)
            .map_err(|source| ClientError::Garbled { path: self.path.clone(), source })?;
        match answer {
            Answer::Error(why) => Err(ClientError::Refused(why)),
            answer => Ok(answer),
        }
    }

    /// It answered something that does not fit.
    #[must_use]
    pub fn mistaken(self) -> ClientError {
        ClientError::Mistaken(self.path)
    }
}
