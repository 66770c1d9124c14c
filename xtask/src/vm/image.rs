//! What the test machine finds on its only file system.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::build::Programs;
use super::kernel::Files;
use super::{INIT, guest};
use crate::run::workspace;

/// Packs everything for a kernel.
pub(super) fn pack(kernel: &Files, programs: &Programs) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("/init", INIT);
    for directory in ["/dev", "/proc", "/sys", "/tmp", "/run", "/mnt"] {
        archive.directory(directory);
    }
    archive.file("/bin/busybox", fs::read(find_program("busybox")?)?);
    for (name, path) in [
        ("egress-warden", &programs.agent),
        ("egress-warden-probe", &programs.probe),
        ("xtask", &programs.guest),
    ] {
        archive.file(Path::new("/bin").join(name), read(path)?);
    }
    // busybox has an `ip` and a `tc` as well, but the one cannot lay a wire between two namespaces, and the other knows no
    // filter that is a program.
    for name in ["ip", "tc"] {
        let program = find_program(name)?;
        for library in libraries(&program)? {
            archive.file(&library, read(&library)?);
        }
        archive.file(Path::new("/bin").join(name), read(&program)?);
    }
    for module in &kernel.modules {
        archive.file(Path::new("/modules").join(module.file_name().unwrap_or_default()), read(module)?);
    }
    let shipped = fs::read_dir(workspace().join("allowlists"))?.collect::<Result<Vec<_>, _>>()?;
    for file in shipped {
        archive.file(Path::new(guest::SHIPPED_ALLOWLISTS).join(file.file_name()), read(&file.path())?);
    }
    Ok(archive.bytes())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn find_program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut files = directories.map(|directory| directory.join(name));
    files.find(|file| file.is_file()).with_context(|| format!("{name} is not installed"))
}

/// The shared libraries and the loader of a program, where the loader will look for them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(in_listing(&String::from_utf8_lossy(&output.stdout)))
}

fn in_listing(listing: &str) -> BTreeSet<PathBuf> {
    let words = listing.split_whitespace();
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_a_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007f72abf15000)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f72abb8b000)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f72abf17000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(in_listing(listing), expected.into());
    }
}
