//! Files of the state directory: replaced as a whole.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Nobody but the agent's user reads what it keeps.
pub(crate) const MODE: u32 = 0o600;

/// Writes a file so that a crash leaves the old content or the new, on the disk when this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // Of no use to anybody; where it cannot be removed, the next attempt overwrites it.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(MODE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
