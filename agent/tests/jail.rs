//! The jail of `exec`, through the real program. Needs root and cgroup2; makes only cgroups of its own.

mod jail {
    pub(super) mod support;

    mod escape;
    mod hosts;
    mod lifetime;
    mod refusals;
    mod terminal;
    mod told;
}
