//! What this kernel is, asked once before anything is touched.

use super::KernelError;

/// The oldest kernel that is supported: the first on which every helper that the programs call exists for their hooks.
pub const MINIMUM_KERNEL: (u32, u32) = (6, 1);

/// Facts about the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The release, as `uname -r` prints it.
    pub release: String,
    /// Effective user id 0?
    pub root: bool,
}

impl Probe {
    /// Asks the running kernel.
    pub fn new() -> Result<Self, KernelError> {
        let name = nix::sys::utsname::uname()
            .map_err(|error| KernelError::Namespace { what: "uname", source: error.into() })?;
        Ok(Self {
            release: name.release().to_string_lossy().into_owned(),
            root: nix::unistd::geteuid().is_root(),
        })
    }

    /// Major and minor number of the release; (0, 0) where it has none.
    pub(super) fn version(&self) -> (u32, u32) {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
            _ => (0, 0),
        }
    }

    /// Refuses where enforcement would be a fiction. A release that cannot be read is not "new enough".
    pub fn check(&self) -> Result<(), KernelError> {
        if !self.root {
            return Err(KernelError::NotPermitted);
        }
        if self.version() < MINIMUM_KERNEL {
            let (major, minor) = MINIMUM_KERNEL;
            return Err(KernelError::TooOld {
                found: self.release.clone(),
                needed: format!("{major}.{minor}"),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(release: &str, root: bool) -> String {
        match (Probe { release: release.into(), root }).check() {
            Ok(()) => "fine".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn old_kernels_and_plain_users_are_told_so() {
        assert_eq!(check("6.1.0-37-amd64", true), "fine");
        assert_eq!(check("7.2.1", true), "fine");
        assert_eq!(
            check("5.10.0-30-amd64", true),
            "Linux 5.10.0-30-amd64 is too old: egress-warden needs 6.1 or newer"
        );
        assert!(check("mystery", true).contains("too old"));
        assert!(check("6.18.0", false).contains("run as root"));
    }
}
