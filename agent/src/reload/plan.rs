//! Which directories and files have to be watched so that no change of these paths goes unseen.
//!
//! A path changes its meaning when any directory or link on the way to it is replaced: a ConfigMap is a directory of links
//! into `..data`, which is itself a link that is swapped. So each name on the way is watched in the directory that holds
//! it, with links followed by hand. A file is also watched by itself, because it can be written under another name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::allowlist::source::{is_yaml_name, yaml_files};

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What of a directory matters. For a file, everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    /// Entries by name.
    pub(super) names: BTreeSet<OsString>,
    /// Every entry that would be read as an allowlist.
    pub(super) allowlists: bool,
}

impl Interest {
    /// Does an entry of this name matter?
    pub(super) fn covers(&self, name: &OsStr) -> bool {
        self.names.contains(name) || self.allowlists && is_yaml_name(Path::new(name))
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.names.extend(other.names.iter().cloned());
        self.allowlists |= other.allowlists;
    }
}

/// Real paths, none of them through a link, and what of each matters.
pub(super) type Plan = BTreeMap<PathBuf, Interest>;

/// Plans for paths that an operator named, and for files that were read because of them.
pub(super) fn plan(named: &[PathBuf], files: &[PathBuf]) -> io::Result<Plan> {
    let mut plan = Plan::new();
    for path in named {
        let Some(real) = walk(&std::path::absolute(path)?, &mut plan)? else { continue };
        if real.is_dir() {
            plan.entry(real).or_default().allowlists = true;
            // Listed under the name that was given, as the loader does. One that has just gone will be told.
            for file in yaml_files(path).unwrap_or_default() {
                walk(&std::path::absolute(file)?, &mut plan)?;
            }
        }
    }
    for path in files {
        walk(&std::path::absolute(path)?, &mut plan)?;
    }
    Ok(plan)
}

/// Notes everything on the way to an absolute path; returns where it leads, unless something on it is missing.
fn walk(path: &Path, plan: &mut Plan) -> io::Result<Option<PathBuf>> {
    let mut at = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = steps(path).collect();
    let mut links = 0;
    while let Some(step) = rest.pop_front() {
        if step == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&step);
        plan.entry(at.clone()).or_default().names.insert(step);
        let kind = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata.file_type(),
            // Nothing below can be there; its appearance is a change of the name just noted.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", next.display()))),
        };
        if !kind.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Ok(None);
        }
        let Ok(target) = fs::read_link(&next) else { return Ok(None) };
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for step in steps(&target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(step);
        }
    }
    plan.entry(at.clone()).or_default();
    Ok(Some(at))
}

fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
