//! The last valid allowlists, kept on disk.
//!
//! One file, so that it is replaced whole or not at all: a line of JSON that says which files there are and what they hash
//! to, then their texts one after the other, for a person to read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::allowlist::{Text, Texts};

const FORMAT: &str = "egress-warden allowlists 1";
const DIRECTORY: &str = "last-good";
const BUNDLE: &str = "allowlists";

/// Where the last valid allowlists are kept.
#[derive(Clone, Debug)]
pub struct LastGood {
    directory: PathBuf,
    bundle: PathBuf,
}

/// Why they cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file system said so.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not one of ours, or no longer what was written.
    #[error("{path}: {what}; remove it: the next valid allowlists will be stored anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// JSON has no way to write such a path.
    #[error("the last good allowlists are not stored: the path {path:?} is not UTF-8")]
    Unnameable {
        /// It.
        path: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    fingerprint: String,
    files: Vec<HeadFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadFile {
    path: String,
    listed: bool,
    bytes: usize,
}

impl LastGood {
    /// Below the agent's state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        let directory = state_dir.join(DIRECTORY);
        Self { bundle: directory.join(BUNDLE), directory }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.bundle
    }

    /// Replaces what is kept. Call it only with texts that were valid.
    ///
    /// # Errors
    /// [`LastGoodError`]; then what was kept before is still there.
    pub fn store(&self, texts: &Texts) -> Result<(), LastGoodError> {
        let head = head(texts)?;
        let fresh = self.directory.join(format!("{BUNDLE}.new"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LastGoodError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(io(&self.directory))?;
        write(&fresh, &head, texts).map_err(io(&fresh))?;
        fs::rename(&fresh, &self.bundle).map_err(io(&self.bundle))?;
        // Without this the new name may be lost with the power.
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(io(&self.directory))
    }

    /// What is kept; `None` where nothing ever was.
    ///
    /// # Errors
    /// [`LastGoodError`] where the file cannot be read, is not whole, or others could have written it.
    pub fn load(&self) -> Result<Option<Texts>, LastGoodError> {
        let bytes = match self.bytes() {
            Ok(bytes) => bytes,
            Err(LastGoodError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        parse(&bytes).map(Some).map_err(|what| self.damaged(what))
    }

    fn bytes(&self) -> Result<Vec<u8>, LastGoodError> {
        let io = |source| LastGoodError::Io { path: self.bundle.clone(), source };
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(&self.bundle).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(self.damaged("it is not a regular file"));
        }
        // Policies will be enforced because they stand here: nobody else may be able to write them.
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(self.damaged("others than this agent's user can write it"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    fn damaged(&self, what: impl Into<String>) -> LastGoodError {
        LastGoodError::Damaged { path: self.bundle.clone(), what: what.into() }
    }
}

fn head(texts: &Texts) -> Result<Head, LastGoodError> {
    let files = texts.files.iter().map(|file| {
        let path = file.path.to_str().ok_or_else(|| LastGoodError::Unnameable { path: file.path.clone() })?;
        Ok(HeadFile { path: path.to_owned(), listed: file.listed, bytes: file.text.len() })
    });
    Ok(Head {
        format: FORMAT.to_owned(),
        fingerprint: texts.fingerprint().to_string(),
        files: files.collect::<Result<_, LastGoodError>>()?,
    })
}

fn write(path: &Path, head: &Head, texts: &Texts) -> io::Result<()> {
    // A leftover of an agent that was killed here; made anew, so that nobody else has it open.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut line = serde_json::to_vec(head)?;
    line.push(b'\n');
    file.write_all(&line)?;
    for text in &texts.files {
        file.write_all(text.text.as_bytes())?;
    }
    file.sync_all()
}

/// The texts of a bundle, or what is wrong with it.
fn parse(bytes: &[u8]) -> Result<Texts, String> {
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("it ends within its first line")?;
    let head: Head =
        serde_json::from_slice(&bytes[..end]).map_err(|_| "it is not a file of this program, or damaged")?;
    if head.format != FORMAT {
        return Err(format!("its format is \"{}\", this version reads \"{FORMAT}\"", head.format));
    }
    let mut rest = &bytes[end + 1..];
    let mut texts = Texts::default();
    for HeadFile { path, listed, bytes } in head.files {
        let (text, behind) = rest.split_at_checked(bytes).ok_or("it was cut short")?;
        let text = str::from_utf8(text).map_err(|_| "it is damaged: a text is not UTF-8")?;
        texts.files.push(Text { path: path.into(), text: text.to_owned(), listed });
        rest = behind;
    }
    if !rest.is_empty() {
        return Err("there is more in it than was stored".to_owned());
    }
    if texts.fingerprint().to_string() != head.fingerprint {
        return Err("it is damaged: its checksum is wrong".to_owned());
    }
    Ok(texts)
}
