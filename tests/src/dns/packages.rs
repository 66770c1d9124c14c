//! A package index: the pages on one name, the files on another, and pip as its client.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Lab;

/// The name of the pages.
pub const INDEX: &str = "index.packages.test";
/// The name of the files.
pub const FILES: &str = "files.packages.test";

/// Writes a wheel with one module.
const WHEEL: &str = "\
import sys, zipfile
info = 'lab_package-1.0.dist-info/'
files = {
    'lab_package.py': '',
    info + 'METADATA': 'Metadata-Version: 2.1\\nName: lab-package\\nVersion: 1.0\\n',
    info + 'WHEEL': 'Wheel-Version: 1.0\\nGenerator: lab\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n',
}
record = ''.join(f'{name},,\\n' for name in files) + info + 'RECORD,,\\n'
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    for name, text in {**files, info + 'RECORD': record}.items():
        wheel.writestr(name, text)
";

/// Puts up the index and its one package, `lab-package`.
///
/// # Errors
/// Without Python.
pub fn put_up(lab: &Lab) -> Result<()> {
    let name = "lab_package-1.0-py3-none-any.whl";
    let directory = tempfile::tempdir()?;
    let path = directory.path().join(name);
    let output = Command::new("python3").args(["-c", WHEEL]).arg(&path).output().context("python3")?;
    if !output.status.success() {
        bail!("no wheel: {}", String::from_utf8_lossy(&output.stderr));
    }
    let page = format!("<!DOCTYPE html><a href=\"http://{FILES}:8080/{name}\">{name}</a>\n");
    lab.web().put(&format!("{INDEX}:8080"), "/simple/lab-package/", page.into_bytes());
    lab.web().put(&format!("{FILES}:8080"), &format!("/{name}"), fs::read(&path)?);
    Ok(())
}

/// The command line of a pip that installs it below `target`.
#[must_use]
pub fn install(target: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = [
        "python3",
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--no-input",
        "install",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--retries",
        "0",
        "--timeout",
        "5",
    ]
    .map(OsString::from)
    .into();
    words.extend(["--index-url".into(), format!("http://{INDEX}:8080/simple/").into()]);
    words.extend(["--trusted-host".into(), INDEX.into(), "--trusted-host".into(), FILES.into()]);
    words.extend(["--target".into(), target.into(), "lab-package".into()]);
    words
}
