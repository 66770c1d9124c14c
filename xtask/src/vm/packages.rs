//! Debian packages of suites that this machine does not use, from the mirrors that it does use.
//!
//! The machine's own apt is asked where it gets its packages; only the suite is another. Lists and packages go into a
//! directory of ours, so that nothing of the machine changes and root is not needed. Signatures are checked as ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::typed;

/// The keys of all Debian releases. Where they are not in this place, apt's own list of trusted keys decides.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's two archives. A mirror has each in a place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    Main,
    Security,
}

/// A suite of an archive.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) archive: Archive,
    pub(super) name: &'static str,
}

/// A suite whose lists have been fetched.
#[derive(Debug)]
pub(super) struct OpenSuite {
    work: PathBuf,
}

/// A package that the suite has.
#[derive(Debug)]
pub(super) struct Package {
    suite: OpenSuite,
    name: String,
}

impl Suite {
    /// Fetches the suite's lists into a directory that does not exist yet.
    pub(super) fn open(&self, work: &Path) -> Result<OpenSuite> {
        let uri = self.archive.uri()?;
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(work.join(directory))?;
        }
        let keys = if Path::new(KEYS).exists() { format!("[signed-by={KEYS}] ") } else { String::new() };
        fs::write(work.join("sources.list"), format!("deb {keys}{uri} {} main\n", self.name))?;
        let suite = OpenSuite { work: work.to_owned() };
        output(suite.apt("apt-get").args(["update", "--error-on=any"]))?;
        Ok(suite)
    }
}

impl OpenSuite {
    /// The package that stands first among those that a package depends on.
    pub(super) fn dependency(self, of: &str) -> Result<Package> {
        let text = output(self.apt("apt-cache").args(["depends", "--no-recommends", of]))?;
        let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let name = name.with_context(|| format!("it has no {of}"))?.to_owned();
        Ok(Package { suite: self, name })
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |name: &str| self.work.join(name).display().to_string();
        for (key, value) in [
            ("Dir::State::lists", place("lists")),
            ("Dir::Cache", place("cache")),
            ("Dir::Etc::sourcelist", place("sources.list")),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State::status", "/dev/null".to_owned()),
            // A suite that is no longer maintained stops being signed anew.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "2".to_owned()),
        ] {
            command.args(["-o", &format!("{key}={value}")]);
        }
        command.current_dir(&self.work);
        command
    }
}

impl Package {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Fetches it and unpacks it into a directory. None of its scripts run.
    pub(super) fn unpack(&self, root: &Path) -> Result<()> {
        output(self.suite.apt("apt-get").args(["download", &self.name]))?;
        let entries = fs::read_dir(&self.suite.work)?.flatten().map(|entry| entry.path());
        let package = entries.into_iter().find(|path| path.extension().is_some_and(|it| it == "deb"));
        let package = package.context("apt-get download left no package")?;
        output(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(root))?;
        Ok(fs::remove_file(package)?)
    }
}

impl Archive {
    /// Where this machine gets it.
    fn uri(self) -> Result<String> {
        let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
        let mut command = Command::new("apt-get");
        command.args(["indextargets", "--format", format, "Created-By: Packages"]);
        let found = self.in_targets(&output(&mut command)?).map(str::to_owned);
        found.with_context(|| format!("this machine's apt sources name no Debian mirror ({self:?} archive)"))
    }

    /// The security archive is what `RELEASE-security` comes from, and the main one is where RELEASE itself comes from:
    /// whatever a mirror is called, and whoever else offers packages.
    fn in_targets(self, targets: &str) -> Option<&str> {
        let main = targets.lines().filter_map(|line| {
            let mut fields = line.split(' ');
            let (uri, release) = (fields.next()?, fields.next()?);
            (fields.next() == Some("main")).then_some((uri, release))
        });
        let (security, release) =
            main.clone().find_map(|(uri, release)| Some((uri, release.strip_suffix("-security")?)))?;
        match self {
            Archive::Security => Some(security),
            Archive::Main => main.clone().find(|(_, name)| *name == release).map(|(uri, _)| uri),
        }
    }
}

/// What a command prints, or what it says about why not.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", typed(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let first = stderr.lines().find(|line| line.starts_with("E:")).unwrap_or(stderr.trim_end());
        bail!("{}: {first}", command.get_program().display());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archives_are_found_by_their_suites() {
        let targets = "https://other.example/ stable main\n\
                       https://mirror.example/a/ bookworm main\n\
                       https://mirror.example/a/ bookworm-updates main\n\
                       https://mirror.example/b/ bookworm-security main\n";
        assert_eq!(Archive::Main.in_targets(targets), Some("https://mirror.example/a/"));
        assert_eq!(Archive::Security.in_targets(targets), Some("https://mirror.example/b/"));
        assert_eq!(Archive::Main.in_targets("https://other.example/ stable main\n"), None);
    }
}
