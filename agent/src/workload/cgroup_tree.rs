//! A cgroup and what is below it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Names of the cgroups directly below.
pub(super) fn children(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Removed meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The processes of a cgroup and of all below it.
pub fn processes(directory: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        match fs::read_to_string(directory.join("cgroup.procs")) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            // A threaded cgroup answers EOPNOTSUPP; the processes of its threads stand above it.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
        open.extend(children(&directory)?.into_iter().map(|name| directory.join(name)));
    }
    Ok(found)
}
