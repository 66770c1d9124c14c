//! The globs of `select.cgroups`.

use std::path::{Path, PathBuf};

use glob::MatchOptions;

// A star stays within one part of the path; a name may begin with a dot.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// One glob below the mount of cgroup2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(glob::Pattern);

impl Pattern {
    /// Reads a glob, with or without a slash in front. The error says what is wrong with it.
    pub fn new(glob: &str) -> Result<Self, String> {
        let inside = glob.strip_prefix('/').unwrap_or(glob);
        glob::Pattern::new(inside).map(Self).map_err(|error| error.msg.to_owned())
    }

    /// Does it match the path of a cgroup, as it is written below the mount? Bytes that are no UTF-8 count as one
    /// character, which a star matches: nobody evades a policy by a name that cannot be written.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        let inside = path.strip_prefix("/").unwrap_or(path);
        self.0.matches_with(&inside.to_string_lossy(), OPTIONS)
    }
}

/// What the policies in force look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(Vec<Pattern>);

impl Selection {
    /// The globs of all policies.
    #[must_use]
    pub const fn new(patterns: Vec<Pattern>) -> Self {
        Self(patterns)
    }

    /// The workload that a cgroup belongs to: the outermost cgroup on the way to it that a glob matches. What lies below
    /// one is part of it.
    #[must_use]
    pub fn workload_of(&self, path: &Path) -> Option<PathBuf> {
        let mut ancestors: Vec<&Path> = path.ancestors().filter(|part| part.parent().is_some()).collect();
        ancestors.reverse();
        let found = ancestors.into_iter().find(|part| self.0.iter().any(|pattern| pattern.matches(part)));
        found.map(Path::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn stars_stay_within_one_part() {
        for (glob, path, matches) in [
            ("/system.slice/train-*.service", "/system.slice/train-7.service", true),
            ("/system.slice/train-*.service", "/system.slice/train-7.service/sub", false),
            ("/kubepods/*/pod*", "/kubepods/burstable/pod1", true),
            ("/kubepods/*/pod*", "/kubepods/pod1", false),
            ("/kubepods/**/pod*", "/kubepods/burstable/deep/pod1", true),
            ("kubepods.slice/**/*", "/kubepods.slice/.hidden", true),
            ("a[0-9]", "/a5", true),
            ("a[0-9]", "/ab", false),
            ("a?", "/a/", false),
        ] {
            assert_eq!(Pattern::new(glob).unwrap().matches(Path::new(path)), matches, "{glob} {path}");
        }
        let unwritable = Path::new(OsStr::from_bytes(b"/jobs/\xff\n"));
        assert!(Pattern::new("jobs/*").unwrap().matches(unwritable), "no UTF-8");
        assert!(!Pattern::new("jobs/a*").unwrap().matches(unwritable));
        assert!(Pattern::new("a[b").is_err() && Pattern::new("a**b").is_err());
    }

    #[test]
    fn the_outermost_match_is_the_workload() {
        let patterns = ["/jobs/*", "/jobs/*/*", "/other"].map(|glob| Pattern::new(glob).unwrap());
        let selection = Selection::new(patterns.to_vec());
        let of = |path: &str| selection.workload_of(Path::new(path));
        assert_eq!(of("/jobs/a/b/c"), Some("/jobs/a".into()));
        assert_eq!(of("/jobs/a"), Some("/jobs/a".into()));
        assert_eq!((of("/jobs"), of("/"), of("/others")), (None, None, None));
    }
}
