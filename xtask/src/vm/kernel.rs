//! Which kernels, and their files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::module::Modules;
use super::packages::{Archive, Suite};
use super::scratch::Scratch;
use crate::run::workspace;

/// The wire, and what a program on it hangs on where there is no tcx. A node's kernel loads these by itself when it is asked
/// for one; the test machine has nothing to load them with. Debian builds everything else that is needed into its kernels.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];

/// What has to happen on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    /// Everything works.
    Works,
    /// `exec` refuses, and runs nothing.
    Refuses,
}

impl Expectation {
    /// As it stands on the test machine's command line and in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Expectation::Works => "works",
            Expectation::Refuses => "refuses",
        }
    }
}

/// One kernel of the matrix.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its series.
    pub(super) version: &'static str,
    /// What has to happen on it.
    pub(super) expectation: Expectation,
    /// Where it comes from; the first suite that has it is taken.
    suites: &'static [Suite],
}

/// The matrix.
pub(super) const KERNELS: [Kernel; 3] = [
    Kernel {
        version: "5.10",
        expectation: Expectation::Refuses,
        suites: &[Suite { archive: Archive::Security, name: "bullseye-security" }],
    },
    Kernel {
        version: "6.1",
        expectation: Expectation::Works,
        suites: &[
            Suite { archive: Archive::Security, name: "bookworm-security" },
            Suite { archive: Archive::Main, name: "bookworm" },
        ],
    },
    Kernel {
        version: "6.12",
        expectation: Expectation::Works,
        suites: &[
            Suite { archive: Archive::Main, name: "bookworm-backports" },
            Suite { archive: Archive::Main, name: "trixie" },
        ],
    },
];

/// A kernel on disk.
#[derive(Debug)]
pub(super) struct Files {
    /// What `uname -r` will print.
    pub(super) release: String,
    /// The kernel itself.
    pub(super) vmlinuz: PathBuf,
    /// Modules, in the order in which they load.
    pub(super) modules: Vec<PathBuf>,
}

impl Kernel {
    /// Its files, from the cache or fetched into it.
    pub(super) fn files(&self, refresh: bool) -> Result<Files> {
        let cache = cache_directory();
        let place = cache.join(self.version);
        if refresh || fs::read_to_string(place.join(CONTENTS)).ok() != Some(contents()) {
            self.fetch(&cache, &place)?;
        }
        read(&place).with_context(|| format!("{} is damaged; use --refresh", place.display()))
    }

    fn fetch(&self, cache: &Path, place: &Path) -> Result<()> {
        let scratch = Scratch::below(cache, "fetch")?;
        let mut failures = Vec::new();
        for suite in self.suites {
            match self.fetch_from(suite, &scratch.path().join(suite.name)) {
                Ok(made) => {
                    if place.exists() {
                        fs::remove_dir_all(place)?;
                    }
                    // At once, so that an interrupted run leaves no half of a kernel in the cache.
                    return fs::rename(made, place).context("cannot put the kernel into the cache");
                }
                Err(error) => failures.push(format!("{}: {error:#}", suite.name)),
            }
        }
        bail!("the kernel cannot be had (--only leaves it out): {}", failures.join("; "))
    }

    /// Returns a directory that looks as it will in the cache.
    fn fetch_from(&self, suite: &Suite, work: &Path) -> Result<PathBuf> {
        let package = suite.open(work)?.dependency("linux-image-amd64")?;
        let (name, root) = (package.name().to_owned(), work.join("root"));
        let release = name.strip_prefix("linux-image-").unwrap_or_default();
        if !belongs(release, self.version) {
            bail!("it has {name} now");
        }
        println!("fetch    {:<6} {name} from {}", self.version, suite.name);
        package.unpack(&root)?;
        let made = work.join("made");
        fs::create_dir(&made)?;
        fs::copy(root.join(format!("boot/vmlinuz-{release}")), made.join("vmlinuz"))?;
        let modules = Modules::find(&root, release)?;
        for (module, number) in modules.in_order(&MODULES)?.iter().zip(0..) {
            fs::write(made.join(format!("{number:02}-{}.ko", module.name)), &module.bytes)?;
        }
        fs::write(made.join("release"), release)?;
        fs::write(made.join(CONTENTS), contents())?;
        Ok(made)
    }
}

/// In a kernel's cache entry: the modules that were taken out of the package. Without all of them it is fetched again.
const CONTENTS: &str = "contents";

fn contents() -> String {
    MODULES.join(" ")
}

fn read(place: &Path) -> Result<Files> {
    let release = fs::read_to_string(place.join("release"))?;
    let entries = fs::read_dir(place)?.collect::<Result<Vec<_>, _>>()?;
    let mut modules: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "ko"));
    modules.sort();
    Ok(Files { release, vmlinuz: place.join("vmlinuz"), modules })
}

/// Whether a release is of a series: 6.1.0-56-amd64 is of 6.1, 6.12.95 is not.
pub(super) fn belongs(release: &str, version: &str) -> bool {
    release
        .strip_prefix(version)
        .is_some_and(|rest| rest.starts_with(|letter: char| !letter.is_ascii_digit()))
}

/// Where kernels are kept, and what is made on the way.
pub(super) fn cache_directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace().join(target).join("vm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_of_one_series() {
        assert!(belongs("6.1.0-56-amd64", "6.1") && belongs("6.12.95+deb12-amd64", "6.12"));
        assert!(!belongs("6.12.95+deb12-amd64", "6.1") && !belongs("6.1", "6.1") && !belongs("", "6.1"));
    }
}
