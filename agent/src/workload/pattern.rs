//! The globs of `select.cgroups`.

use std::path::{Component, Path, PathBuf};

use glob::MatchOptions;

// A star stays within one part of the path; a name may begin with a dot.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// One glob below the mount of cgroup2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    whole: glob::Pattern,
    /// Its parts up to the first `**`, below which anything can match.
    parts: Vec<glob::Pattern>,
    is_deep: bool,
}

impl Pattern {
    /// Reads a glob, with or without a slash in front. The error says what is wrong with it.
    pub fn new(glob: &str) -> Result<Self, String> {
        let inside = glob.strip_prefix('/').unwrap_or(glob);
        let read = |glob: &str| glob::Pattern::new(glob).map_err(|error| error.msg.to_owned());
        let whole = read(inside)?;
        let parts = inside.split('/').take_while(|part| *part != "**").map(read).collect::<Result<_, _>>()?;
        Ok(Self { whole, parts, is_deep: inside.split('/').any(|part| part == "**") })
    }

    /// Can something below this cgroup match?
    fn leads_on(&self, path: &Path) -> bool {
        let mut names = path.components().skip_while(|part| *part == Component::RootDir);
        let mut parts = self.parts.iter();
        loop {
            match (names.next(), parts.next()) {
                (None, part) => return part.is_some() || self.is_deep,
                (Some(_), None) => return self.is_deep,
                (Some(name), Some(part)) => {
                    let name = name.as_os_str().to_string_lossy();
                    if !part.matches_with(&name, OPTIONS) {
                        return false;
                    }
                }
            }
        }
    }

    /// Does it match the path of a cgroup, as it is written below the mount? Bytes that are no UTF-8 count as one
    /// character, which a star matches: nobody evades a policy by a name that cannot be written.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        let inside = path.strip_prefix("/").unwrap_or(path);
        self.whole.matches_with(&inside.to_string_lossy(), OPTIONS)
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

    /// Can a workload be below this cgroup, which is none? What others make elsewhere, however much, is not looked at.
    #[must_use]
    pub fn leads_on(&self, path: &Path) -> bool {
        self.0.iter().any(|pattern| pattern.leads_on(path))
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
    fn only_what_can_lead_to_a_match_is_looked_into() {
        for (glob, path, leads) in [
            ("/jobs/*", "/", true),
            ("/jobs/*", "/jobs", true),
            ("/jobs/*", "/others", false),
            ("/jobs/*", "/jobs/a", false),
            ("/kube*/*/pod*", "/kubepods/burstable", true),
            ("/kube*/*/pod*", "/system.slice/burstable", false),
            ("/kubepods/**/pod*", "/kubepods/a/b/c", true),
            ("/kubepods/**/pod*", "/system.slice", false),
            ("/kubepods/**", "/kubepods", true),
            ("**/pod*", "/anything/at/all", true),
        ] {
            let selection = Selection::new(vec![Pattern::new(glob).unwrap()]);
            assert_eq!(selection.leads_on(Path::new(path)), leads, "{glob} {path}");
        }
        assert!(!Selection::default().leads_on(Path::new("/")));
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
