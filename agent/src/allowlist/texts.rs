//! What a set was read from, so that it can be kept and read again.

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

/// The text of one file, unpacked if it was packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The file, as it was named on the command line, found in a directory, or named by another file.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
    /// It holds documents; else it is one that `cidrsFrom` names.
    pub listed: bool,
}

/// Every file of a set that could be read, in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// The files, each once.
    pub files: Vec<Text>,
}

/// Two sets with one fingerprint say the same, in files of the same names.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Texts {
    /// What tells these texts from all others.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for file in &self.files {
            let path = file.path.as_os_str().as_encoded_bytes();
            // With their lengths, or a text could pass for the next file's name.
            hash.update([u8::from(file.listed)]);
            for part in [path, file.text.as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        Fingerprint(hash.finalize().into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}
