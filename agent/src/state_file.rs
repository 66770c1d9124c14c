//! Files in the state directory: replaced whole, or not at all.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

/// Writes a file of JSON in one step: whoever reads it finds the old content or the new, after a crash as well.
pub(crate) fn replace(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    file.sync_data()?;
    fs::rename(&new, path)
}
