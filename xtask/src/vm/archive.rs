//! The archive format in which the kernel takes its first file system (cpio, "newc"), written here because it needs no
//! tool, no device files and no root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Files and the directories that they are in. Everything belongs to root and can be executed.
#[derive(Debug, Default)]
pub(super) struct Archive {
    /// `None` for a directory. Sorted, so that a directory comes before what is in it.
    entries: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Archive {
    /// Adds an empty directory, with those above it.
    pub(super) fn directory(&mut self, path: impl AsRef<Path>) {
        let path = relative(path.as_ref());
        for above in path.ancestors().filter(|above| !above.as_os_str().is_empty()) {
            self.entries.entry(above.to_owned()).or_insert(None);
        }
    }

    /// Adds a file, with the directories above it.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        let path = relative(path.as_ref());
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), Some(content.into()));
    }

    /// The archive.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((path, content), number) in self.entries.iter().zip(1..) {
            let mode = if content.is_some() { EXECUTABLE } else { DIRECTORY };
            let content = content.as_deref().unwrap_or_default();
            append(&mut bytes, number, mode, &path.to_string_lossy(), content);
        }
        append(&mut bytes, 0, 0, TRAILER, &[]);
        bytes
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// A header of thirteen numbers, the name, the content; each part padded to four bytes.
fn append(bytes: &mut Vec<u8>, inode: u32, mode: u32, name: &str, content: &[u8]) {
    let (name_size, content_size) = (name.len() + 1, content.len());
    let fields = [inode as usize, mode as usize, 0, 0, 1, 0, content_size, 0, 0, 0, 0, name_size, 0];
    bytes.extend(b"070701");
    for field in fields {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend(content);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_names_and_contents_are_where_the_kernel_looks() {
        let mut archive = Archive::default();
        archive.file("/bin/a", "hello");
        archive.directory("/tmp");
        let bytes = archive.bytes();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        let names: Vec<&str> = starts.iter().map(|at| text[at + 110..].split('\0').next().unwrap()).collect();
        assert_eq!(names, ["bin", "bin/a", "tmp", TRAILER]);
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert_eq!(&text[starts[1] + 14..starts[1] + 22], "000081ed");
        assert_eq!(&text[starts[1] + 54..starts[1] + 62], "00000005");
        assert_eq!(&text[starts[1] + 116..starts[2]], "hello\0\0\0");
    }
}
