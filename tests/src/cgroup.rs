//! A cgroup for one test.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail};

use crate::sys;

/// Kills and removes a cgroup once its standard input ends, which happens when the test drops it and also when the test
/// process is killed. It asks only for what a shell offers, and gives up after about five seconds.
const KEEPER: &str = r#"
while read -r _; do :; done
echo 1 > "$1/cgroup.kill"
tries=0
while [ -d "$1" ] && [ $tries -lt 500 ]; do
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$1" ] || break
    tries=$((tries + 1))
    sleep 0.01
done
[ ! -d "$1" ]
"#;

/// A cgroup that this process made below the cgroup2 root. Dropping it kills what runs in it and removes it.
#[derive(Debug)]
pub struct TestCgroup {
    path: PathBuf,
    keeper: Child,
    keeper_input: Option<ChildStdin>,
}

impl TestCgroup {
    /// Makes one.
    ///
    /// # Errors
    /// Without root or cgroup2.
    pub fn new() -> Result<TestCgroup> {
        Self::named("egress-warden-test")
    }

    /// Makes one whose name begins like this; what is shown to people says whose it is.
    ///
    /// # Errors
    /// Without root or cgroup2.
    pub fn named(prefix: &str) -> Result<TestCgroup> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::at(cgroup2_mount()?.join(format!("{prefix}-{}-{number}", process::id())))
    }

    /// Makes one below this one. It has to be dropped first.
    ///
    /// # Errors
    /// When there is one of this name.
    pub fn child(&self, name: &str) -> Result<TestCgroup> {
        Self::at(self.path.join(name))
    }

    fn at(path: PathBuf) -> Result<TestCgroup> {
        fs::create_dir(&path).with_context(|| format!("cannot make {} (root is needed)", path.display()))?;
        let mut keeper = match start_keeper(&path) {
            Ok(keeper) => keeper,
            Err(error) => {
                fs::remove_dir(&path).ok();
                return Err(error);
            }
        };
        let keeper_input = keeper.stdin.take();
        Ok(TestCgroup { path, keeper, keeper_input })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's number for it.
    ///
    /// # Errors
    /// When somebody else removed it.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// The processes in it, not counting those in cgroups below.
    ///
    /// # Errors
    /// When somebody else removed it.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))?;
        text.lines()
            .map(|line| line.parse().context("cgroup.procs holds something else than numbers"))
            .collect()
    }

    /// Starts a command inside: it joins before its first instruction, so even that is under what is attached here.
    ///
    /// # Errors
    /// When it does not start.
    pub fn spawn(&self, command: Command) -> Result<Child> {
        spawn_in(&self.path, command)
    }
}

/// Starts a command inside a cgroup, from its first instruction on.
///
/// # Errors
/// When it does not start.
pub fn spawn_in(cgroup: &Path, mut command: Command) -> Result<Child> {
    let path = cgroup.join("cgroup.procs");
    let mut processes = OpenOptions::new()
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: between fork and exec only write is called, which is async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(move || processes.write_all(b"0")) };
    command.spawn().with_context(|| format!("cannot start {command:?}"))
}

fn start_keeper(path: &Path) -> Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", KEEPER, "keeper"]).arg(path);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C goes to the whole process group of the terminal; the keeper has to survive it.
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe.
    unsafe { command.pre_exec(sys::new_session) };
    command.spawn().context("cannot start sh")
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        drop(self.keeper_input.take());
        let removed = self.keeper.wait().is_ok_and(|status| status.success());
        // A second panic while one is under way would abort the test binary and hide the first.
        if !removed && !std::thread::panicking() {
            panic!("{} cannot be removed", self.path.display());
        }
    }
}

/// Where cgroup2 is mounted.
///
/// # Errors
/// When it is not.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    cgroup2_in(&mounts).ok_or_else(|| anyhow!("no cgroup2 file system is mounted")).and_then(|path| {
        if path.join("cgroup.procs").exists() {
            Ok(path)
        } else {
            bail!("{} is no cgroup2 root", path.display())
        }
    })
}

/// Finds the mount whose root is the whole hierarchy, as far as this process may see it.
fn cgroup2_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, path) = (fields.next()?, fields.next()?);
        (root == "/" && file_system.starts_with("cgroup2 "))
            .then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_among_the_old_ones() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                    40 31 0:38 /a /jail rw,relatime shared:1 - cgroup2 cgroup2 rw\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_in(text), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_in("31 23 0:28 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
