//! Capabilities: which ones CMD may keep, and how the rest is taken away for good.

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::thread::{CapabilitySet as Bits, CapabilitySets};

/// Every capability, at the index that is its number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Kept unless told otherwise: what package managers, servers and `su` need of root, and nothing that opens the jail.
const DEFAULT: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID", "KILL", "NET_BIND_SERVICE"];

/// Never kept, because each leads out of the cgroup, whatever else is taken away; with what it would do.
///
/// NET_ADMIN and NET_RAW are not here: they change or bypass what the network does, not where CMD runs.
const REFUSED: [(&str, &str); 11] = [
    ("SYS_ADMIN", "it can mount the host's cgroup tree and enter other namespaces"),
    ("DAC_READ_SEARCH", "it opens files by handle, outside every mount that CMD can see"),
    ("SYS_MODULE", "it loads code into the kernel"),
    ("SYS_RAWIO", "it writes to memory and disks past the kernel"),
    ("SYS_BOOT", "it loads another kernel"),
    ("BPF", "it can replace or detach the programs that enforce the policy"),
    ("PERFMON", "it reads kernel memory and attaches programs to it"),
    // Debuggers do not need it for their own children.
    ("SYS_PTRACE", "it takes over processes with more rights, the jail's init among them"),
    ("MKNOD", "it makes device files for raw disks and memory"),
    ("SYS_CHROOT", "it leaves a chroot, and with that reaches mounts that were hidden"),
    // Allowlist entries may expire, and their deadlines follow the wall clock.
    ("SYS_TIME", "it sets the clock by which allowlist entries expire"),
];

/// A set of capabilities that CMD may keep. One that leads out of the jail cannot be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilitySet(u64);

/// What is wrong with a `--keep-caps` list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCapabilityError {
    /// No such capability.
    #[error("unknown capability `{name}`; valid names: {}, or `none`", keepable().join(", "))]
    Unknown {
        /// As it was written.
        name: String,
    },
    /// A capability that leads out of the jail.
    #[error("capability {name} cannot be kept: {reason}")]
    Refused {
        /// Its canonical name.
        name: &'static str,
        /// What it would do.
        reason: &'static str,
    },
    /// Nothing between two commas, or nothing at all.
    #[error("an empty capability name; write `none` to keep no capability")]
    Empty,
}

impl CapabilitySet {
    /// No capability at all.
    pub const NONE: Self = Self(0);

    /// The set as a bit mask, bit n for capability n.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// What a person must know of a run with these capabilities.
    #[must_use]
    pub fn unjudged(self) -> Option<String> {
        let effects = [
            ("NET_RAW", "frames that the command builds itself (AF_PACKET) are not judged"),
            ("NET_ADMIN", "the command can change interfaces, routes and addresses"),
        ];
        let kept = effects.into_iter().filter(|(name, _)| self.0 & bit(name) != 0);
        let told: Vec<String> = kept.map(|(name, effect)| format!("{name} is kept: {effect}")).collect();
        (!told.is_empty()).then(|| format!("{}; do not rely on this run", told.join("; ")))
    }

    /// The set of a bit mask, without the capabilities that cannot be kept.
    pub fn from_bits(bits: u64) -> Self {
        let refused = REFUSED.iter().fold(0, |all, (name, _)| all | bit(name));
        Self(bits & !refused)
    }
}

impl Default for CapabilitySet {
    fn default() -> Self {
        Self(DEFAULT.iter().fold(0, |all, name| all | bit(name)))
    }
}

impl FromStr for CapabilitySet {
    type Err = ParseCapabilityError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        if list.trim().eq_ignore_ascii_case("none") {
            return Ok(Self::NONE);
        }
        list.split(',').try_fold(Self::NONE, |set, name| Ok(Self(set.0 | parse_name(name.trim())?)))
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = NAMES.into_iter().filter(|name| self.0 & bit(name) != 0).collect();
        f.write_str(&if names.is_empty() { "none".to_owned() } else { names.join(",") })
    }
}

fn parse_name(written: &str) -> Result<u64, ParseCapabilityError> {
    if written.is_empty() {
        return Err(ParseCapabilityError::Empty);
    }
    let upper = written.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if let Some(&(name, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(ParseCapabilityError::Refused { name, reason });
    }
    match bit(name) {
        0 => Err(ParseCapabilityError::Unknown { name: written.to_owned() }),
        bit => Ok(bit),
    }
}

fn bit(name: &str) -> u64 {
    NAMES.iter().position(|known| *known == name).map_or(0, |number| 1 << number)
}

fn keepable() -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| !REFUSED.iter().any(|(refused, _)| refused == name)).collect()
}

/// Reduces every capability set of the calling thread to what it has in common with `keep`. There is no way back.
///
/// A capability of `keep` that the caller does not have is not an error: containers rarely have them all.
pub(super) fn reduce(keep: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let one = Bits::from_bits_retain(1 << number);
        // Asked of the kernel one by one, so that a capability younger than the table above is dropped as well.
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) if keep.0 >> number & 1 == 0 => {
                rustix::thread::remove_capability_from_bounding_set(one)?;
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let now = rustix::thread::capabilities(None)?;
    let keep = Bits::from_bits_retain(keep.0);
    let permitted = now.permitted & keep;
    // The kernel takes out of the ambient set what leaves the inheritable one.
    let reduced = CapabilitySets { effective: permitted, permitted, inheritable: now.inheritable & keep };
    rustix::thread::set_capabilities(None, reduced)?;
    if rustix::thread::capabilities(None)? != reduced {
        return Err(io::Error::other("the kernel did not take the reduced capability sets"));
    }
    Ok(())
}

/// Gives up every capability of the calling thread. Without SETPCAP the bounding set stays as it is, which means
/// nothing to a process that does not execute another program.
pub(super) fn give_up() -> io::Result<()> {
    let none = Bits::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_or_without_prefix_in_any_case() {
        let set: CapabilitySet = "cap_net_raw, NET_ADMIN,Chown".parse().unwrap();
        assert_eq!(set.to_string(), "CHOWN,NET_ADMIN,NET_RAW");
        assert_eq!("none".parse(), Ok(CapabilitySet::NONE));
        assert_eq!(CapabilitySet::NONE.to_string(), "none");
    }

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        assert_eq!(bit("NET_RAW"), Bits::NET_RAW.bits());
        assert_eq!(bit("SETFCAP"), Bits::SETFCAP.bits());
        assert_eq!(bit("CHECKPOINT_RESTORE"), Bits::CHECKPOINT_RESTORE.bits());
    }

    #[test]
    fn a_way_out_is_refused_with_its_reason() {
        let error = "CHOWN,CAP_SYS_ADMIN".parse::<CapabilitySet>().unwrap_err();
        assert!(matches!(error, ParseCapabilityError::Refused { name: "SYS_ADMIN", .. }), "{error}");
        assert_eq!(CapabilitySet::from_bits(u64::MAX).bits() & bit("SYS_ADMIN"), 0);
        assert!(REFUSED.iter().all(|(name, _)| bit(name) != 0));
    }

    #[test]
    fn what_is_kept_and_not_judged_is_told() {
        assert_eq!(CapabilitySet::default().unjudged(), None);
        let both = "NET_RAW,NET_ADMIN".parse::<CapabilitySet>().unwrap().unjudged().unwrap();
        for text in ["NET_RAW is kept", "AF_PACKET", "NET_ADMIN is kept", "do not rely on this run"] {
            assert!(both.contains(text), "{both}");
        }
    }

    #[test]
    fn a_misspelt_name_is_told_with_the_valid_ones() {
        let error = "NET_ADM".parse::<CapabilitySet>().unwrap_err().to_string();
        assert!(error.contains("`NET_ADM`") && error.contains("NET_ADMIN"), "{error}");
        assert_eq!("CHOWN,".parse::<CapabilitySet>(), Err(ParseCapabilityError::Empty));
    }
}
