//! The clients that have to be compiled, each once for its source.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// A client that has to be compiled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Build {
    Glibc,
    Musl,
    Go,
}

impl Build {
    const fn source(self) -> (&'static str, &'static str) {
        match self {
            Build::Glibc | Build::Musl => ("lookup.c", include_str!("../../clients/lookup.c")),
            Build::Go => ("lookup.go", include_str!("../../clients/lookup.go")),
        }
    }

    fn compiler(self, directory: &Path, output: &Path) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            Build::Glibc => ("cc", &["-O1", "-Wall", "-Wextra", "-Werror", "-o"]),
            Build::Musl => ("musl-gcc", &["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]),
            Build::Go => ("go", &["build", "-o"]),
        };
        let mut command = Command::new(program);
        command.args(arguments).arg(output).arg(self.source().0).current_dir(directory);
        // Without cgo there is only Go's own resolver. One file needs no module, and no network to look for others.
        command.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", directory.join("go-cache"));
        command
    }

    /// The program, compiled if it is not yet.
    pub(super) fn program(self) -> Result<PathBuf> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (name, source) = self.source();
        let directory = directory()?;
        let mut hasher = DefaultHasher::new();
        (format!("{self:?}"), source).hash(&mut hasher);
        let program = directory.join(format!("lookup-{self:?}-{:016x}", hasher.finish()).to_lowercase());
        if program.is_file() {
            return Ok(program);
        }
        // Another test may be at it as well: each builds its own, and the last one to finish leaves the same program.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let workplace = directory.join(format!("work-{}-{number}", process::id()));
        fs::create_dir_all(&workplace)?;
        fs::write(workplace.join(name), source)?;
        let made = workplace.join("made");
        let mut command = self.compiler(&workplace, &made);
        let output = command.stdin(Stdio::null()).output().with_context(|| {
            format!("cannot start {command:?}; `cargo xtask setup test` installs the compiler")
        })?;
        if !output.status.success() {
            bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        fs::rename(&made, &program)?;
        fs::remove_dir_all(&workplace)?;
        Ok(program)
    }
}

/// Beside the test binaries, in the target directory.
fn directory() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().find(|directory| directory.join("deps").is_dir());
    let directory = profile.context("this test is in no target directory")?.join("names-clients");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}
