//! Files: which ones a PATH means, and their text, bounded and free of what would mislead a reviewer.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use nix::fcntl::OFlag;

use super::diagnostic::Report;
use super::texts::{Text, Texts};
use crate::policy::Origin;

/// The largest file that is read, and the largest text that a `.gz` may unpack to.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

/// A place in one of the files of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    /// Number of the file in [`Sources`].
    pub(crate) file: u32,
    /// Line, from 1.
    pub(crate) line: u32,
    /// Column in characters, from 1.
    pub(crate) column: u32,
    /// Length in characters.
    pub(crate) length: u32,
}

impl Span {
    /// The beginning of a file, for what is wrong with it as a whole.
    pub(crate) const fn start(file: u32) -> Self {
        Self { file, line: 1, column: 1, length: 1 }
    }
}

/// Something written, with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) at: Span,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
    /// One of the files that the paths mean, and not one that another file names.
    listed: bool,
}

/// Every file that was read, so that a place can be shown.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<Source>,
    /// What can be read instead of the disk: what an earlier load read.
    stored: Option<HashMap<PathBuf, String>>,
    /// The number under which a path was read first. Two entries may name one file, which may change between them.
    read: HashMap<PathBuf, u32>,
}

impl Sources {
    /// Files that are read from memory; the disk is not looked at.
    pub(crate) fn stored(texts: &Texts) -> Self {
        let stored = texts.files.iter().map(|file| (file.path.clone(), file.text.clone())).collect();
        Self { stored: Some(stored), ..Self::default() }
    }

    /// Everything that could be read, once each.
    pub(crate) fn into_texts(self) -> Texts {
        let Self { files, read, .. } = self;
        let files = files.into_iter().zip(0..).filter(|(file, number)| read.get(&file.path) == Some(number));
        Texts { files: files.map(|(Source { path, text, listed }, _)| Text { path, text, listed }).collect() }
    }

    /// Gives a file its number; its text is set once it could be read.
    fn add(&mut self, path: &Path) -> u32 {
        self.files.push(Source { path: path.to_owned(), text: String::new(), listed: false });
        u32::try_from(self.files.len() - 1).expect("fewer files than 2^32")
    }

    pub(crate) fn text(&self, file: u32) -> &str {
        &self.files[file as usize].text
    }

    pub(crate) fn path(&self, at: Span) -> &Path {
        &self.files[at.file as usize].path
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|source| source.path.as_path())
    }

    pub(crate) fn lines(&self, file: u32) -> Vec<&str> {
        self.text(file).lines().collect()
    }

    pub(crate) fn origin(&self, at: Span) -> Origin {
        Origin { file: self.path(at).to_owned(), line: at.line as usize, column: at.column as usize }
    }

    /// Reads a file and gives it a number. What is wrong with it is reported at `named_at`, or in the file itself.
    pub(crate) fn read(&mut self, path: &Path, named_at: Option<Span>, report: &mut Report) -> Option<u32> {
        let file = self.add(path);
        let at = named_at.unwrap_or(Span::start(file));
        let bytes = match self.bytes(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                report.error(at, format!("cannot read {}: {error}", path.display()));
                return None;
            }
        };
        let errors = report.errors();
        // Kept even if refused, so that the refused place can be shown.
        self.files[file as usize].text = decode(file, bytes, report);
        self.read.entry(path.to_owned()).or_insert(file);
        (report.errors() == errors).then_some(file)
    }

    fn read_listed(&mut self, path: &Path, report: &mut Report) -> Option<u32> {
        let file = self.read(path, None, report)?;
        self.files[file as usize].listed = true;
        Some(file)
    }

    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        if let Some(&first) = self.read.get(path) {
            return Ok(self.text(first).as_bytes().to_vec());
        }
        match &self.stored {
            None => read_bounded(path),
            Some(stored) => stored
                .get(path)
                .map(|text| text.as_bytes().to_vec())
                .ok_or_else(|| io::Error::other("it is not among the stored files")),
        }
    }
}

/// Reads all of a regular file, unpacking `.gz`.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO would wait for a writer; without blocking it opens, and is then refused.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if path.extension().is_some_and(|extension| extension == "gz") {
        return read_limited(MultiGzDecoder::new(file), "unpacked, it is").map_err(|error| {
            match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::other("the gzip data ends early: was it cut short?")
                }
                io::ErrorKind::InvalidInput => io::Error::other("it ends in .gz but is not gzip data"),
                _ => error,
            }
        });
    }
    read_limited::<File>(file, "it is")
}

fn read_limited<R: Read>(reader: R, subject: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("{subject} larger than {} MiB", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

/// The text; what is not UTF-8, or would not show what it says, is reported.
fn decode(file: u32, bytes: Vec<u8>, report: &mut Report) -> String {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        report.error(Span::start(file), "this is UTF-16 text").help("save the file as UTF-8");
        return String::new();
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let message = format!("not UTF-8: byte 0x{:02x}", error.as_bytes()[valid]);
            report.error(end_of(file, &text[..valid]), message).help("save the file as UTF-8");
            return text;
        }
    };
    if text.starts_with('\u{feff}') {
        report
            .error(Span::start(file), "the file begins with a byte order mark")
            .help("save the file as UTF-8 without a byte order mark");
    } else if let Some((position, character)) = first_misleading(&text) {
        let message = match character {
            '\0' => "a NUL character: was the file cut short while it was written?".to_owned(),
            '\r' => "a carriage return without a line feed".to_owned(),
            _ => invisible(character),
        };
        report.error(end_of(file, &text[..position]), message).help("remove it; lines end with a line feed");
    }
    text
}

/// The first character that an editor or a review page would not show as what a parser reads: control characters, and
/// those that turn the direction of writing.
fn first_misleading(text: &str) -> Option<(usize, char)> {
    let bytes = text.as_bytes();
    for (position, &byte) in bytes.iter().enumerate() {
        let found = match byte {
            b'\t' | b'\n' | 0x20..=0x7e => false,
            b'\r' => bytes.get(position + 1) != Some(&b'\n'),
            0x00..=0x1f | 0x7f => true,
            // A continuation byte; the first byte of the character was looked at.
            0x80..=0xbf => false,
            _ => matches!(
                text[position..].chars().next(),
                Some(
                    '\u{80}'..='\u{9f}'
                    | '\u{200b}'..='\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}'
                    | '\u{feff}',
                )
            ),
        };
        if found {
            return text[position..].chars().next().map(|character| (position, character));
        }
    }
    None
}

/// How a character is named that nobody would see.
pub(crate) fn invisible(character: char) -> String {
    format!("the invisible character U+{:04X}", u32::from(character))
}

/// The place right after this text.
fn end_of(file: u32, before: &str) -> Span {
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    Span { file, line: line as u32, column: column as u32, length: 1 }
}

/// The files that these paths mean, each once, read in order.
pub(crate) fn collect(paths: &[PathBuf], sources: &mut Sources, report: &mut Report) -> Vec<u32> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for path in paths {
        for file in expand(path, sources, report) {
            // A path that does not exist has no canonical form; reading it tells.
            let identity = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
            if seen.insert(identity) {
                files.extend(sources.read_listed(&file, report));
            }
        }
    }
    files
}

/// The files that [`collect`] found when these texts were read.
pub(crate) fn collect_stored(texts: &Texts, sources: &mut Sources, report: &mut Report) -> Vec<u32> {
    let listed = texts.files.iter().filter(|file| file.listed);
    listed.filter_map(|file| sources.read_listed(&file.path, report)).collect()
}

fn expand(path: &Path, sources: &mut Sources, report: &mut Report) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    match yaml_files(path) {
        Ok(files) if files.is_empty() => {
            let at = Span::start(sources.add(path));
            report.error(at, "the directory has no file that ends in .yaml or .yml").help(
                "name a file, or a directory with allowlists; directories inside it and hidden files are not read",
            );
            files
        }
        Ok(files) => files,
        Err(error) => {
            let at = Span::start(sources.add(path));
            report.error(at, format!("cannot read the directory: {error}"));
            Vec::new()
        }
    }
}

/// The files of a directory that belong to a set.
pub(crate) fn yaml_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // A ConfigMap's files are links, which is_dir follows; a link to nowhere stays in the list and is an error.
        if is_yaml_name(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Would a file of this name in a directory belong to the set?
pub(crate) fn is_yaml_name(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    yaml && !hidden
}
