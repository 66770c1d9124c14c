//! What a program finds in `/etc`: the resolver that it asks, and the search list.

use std::ffi::CString;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::sys;

/// Names come from the resolver, but for the machine's own.
const NSSWITCH: &str = "hosts: files dns\n";

/// The files of one program, which alone sees them in place of the machine's.
#[derive(Debug)]
pub struct Surroundings {
    directory: TempDir,
}

impl Surroundings {
    /// A `resolv.conf` with these name servers, search list and options.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn new(resolvers: &[IpAddr], search: &[&str], options: &[&str]) -> Result<Surroundings> {
        let directory = tempfile::tempdir()?;
        let mut text = String::new();
        for resolver in resolvers {
            writeln!(text, "nameserver {resolver}")?;
        }
        for (key, words) in [("search", search), ("options", options)] {
            if !words.is_empty() {
                writeln!(text, "{key} {}", words.join(" "))?;
            }
        }
        fs::write(directory.path().join("resolv.conf"), text)?;
        // As runtimes write it: curl asks for the name of its own machine.
        let own = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let hosts = format!("127.0.0.1 localhost\n::1 localhost\n127.0.0.1 {own}::1 {own}");
        fs::write(directory.path().join("hosts"), hosts)?;
        fs::write(directory.path().join("nsswitch.conf"), NSSWITCH)?;
        Ok(Surroundings { directory })
    }

    /// As the kubelet writes it for a pod: `ndots:5` and a search list of four.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn of_a_pod(resolvers: &[IpAddr]) -> Result<Surroundings> {
        Self::new(resolvers, &SEARCH, &["ndots:5"])
    }

    /// Has a command see these files once it is started. Whatever it starts sees them as well.
    ///
    /// # Errors
    /// None in practice.
    pub fn surround(&self, command: &mut Command) -> Result<()> {
        let mut mounts = Vec::new();
        for name in ["resolv.conf", "hosts", "nsswitch.conf"] {
            // A link is followed, so that what it leads to is covered.
            let place = fs::canonicalize(PathBuf::from("/etc").join(name))?;
            let source = self.directory.path().join(name);
            mounts.push((
                CString::new(source.as_os_str().as_bytes())?,
                CString::new(place.as_os_str().as_bytes())?,
            ));
        }
        let cover = move || -> io::Result<()> {
            sys::unshare_mounts()?;
            mounts.iter().try_for_each(|(source, place)| sys::bind_mount(source, place))
        };
        // SAFETY: between fork and exec only unshare and mount are called, which are async-signal-safe; nothing is
        // allocated.
        unsafe { command.pre_exec(cover) };
        Ok(())
    }
}

/// The search list of [`Surroundings::of_a_pod`].
pub const SEARCH: [&str; 4] = ["training.svc.cluster.test", "svc.cluster.test", "cluster.test", "corp.test"];
