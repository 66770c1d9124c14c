//! What each group of tasks needs, apart from the compiler of the kernel programs.

use std::process::{Command, Stdio};

use crate::run::has_program;

/// What things are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Building.
    Build,
    /// The tests on the real kernel.
    Test,
    /// The demo.
    Demo,
    /// The kernels in virtual machines.
    Vm,
    /// The benchmark.
    Bench,
}

impl Group {
    /// Every group.
    pub(crate) const ALL: [Group; 5] = [Group::Build, Group::Test, Group::Demo, Group::Vm, Group::Bench];

    /// The group with this name on the command line.
    pub(crate) fn from_name(name: &str) -> Option<Group> {
        match name {
            "build" => Some(Group::Build),
            "test" => Some(Group::Test),
            "demo" => Some(Group::Demo),
            "vm" => Some(Group::Vm),
            "bench" => Some(Group::Bench),
            _ => None,
        }
    }
}

/// One thing that is needed.
pub(crate) struct Need {
    /// For what.
    pub(crate) groups: &'static [Group],
    /// What it is.
    pub(crate) what: &'static str,
    /// Why it is needed, for the person who reads what is being installed.
    pub(crate) why: &'static str,
    /// How to see that it is there.
    found: Found,
    /// The Debian packages that bring it.
    pub(crate) packages: &'static [&'static str],
}

enum Found {
    Program(&'static str),
    Python(&'static str),
    /// A program that needs no shared library.
    Static(&'static str),
}

impl Need {
    /// Whether it is there.
    pub(crate) fn is_met(&self) -> bool {
        match self.found {
            Found::Program(name) => has_program(name),
            Found::Python(modules) => Command::new("python3")
                .args(["-c", &format!("import {modules}")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
            // ldd fails for a program that is not dynamic.
            Found::Static(name) => has_program(name) && !is_dynamic(name),
        }
    }
}

fn is_dynamic(name: &str) -> bool {
    let script = "ldd \"$(command -v \"$1\")\"";
    let ldd = Command::new("sh")
        .args(["-c", script, "sh", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ldd.is_ok_and(|status| status.success())
}

const fn program(
    groups: &'static [Group],
    name: &'static str,
    why: &'static str,
    packages: &'static [&'static str],
) -> Need {
    Need { groups, what: name, why, found: Found::Program(name), packages }
}

const BUILD: &[Group] = &[Group::Build];
const TEST: &[Group] = &[Group::Test];
const DEMO: &[Group] = &[Group::Demo];
const VM: &[Group] = &[Group::Vm];
const TEST_AND_DEMO: &[Group] = &[Group::Test, Group::Demo];
const ALL_BUT_BUILD: &[Group] = &[Group::Test, Group::Demo, Group::Vm, Group::Bench];

/// Everything.
pub(crate) const ALL_NEEDS: [Need; 23] = [
    program(BUILD, "cc", "links the host's binaries and build scripts", &["gcc", "libc6-dev"]),
    program(ALL_BUT_BUILD, "ip", "lays the wires between network namespaces", &["iproute2"]),
    program(TEST_AND_DEMO, "python3", "makes the kinds of socket that no standard tool offers", &["python3"]),
    program(TEST, "lsns", "lists what namespaces are left", &["util-linux"]),
    program(TEST, "prometheus", "scrapes the agent and evaluates the alerts, with promtool", &["prometheus"]),
    program(TEST, "prometheus-alertmanager", "receives the alerts", &["prometheus-alertmanager"]),
    program(TEST, "systemd-analyze", "reads the unit in deploy/ as systemd does", &["systemd"]),
    Need {
        groups: TEST,
        what: "python3 -m venv",
        why: "holds the schemas of Kubernetes, by which the manifest in deploy/ is judged",
        found: Found::Python("ensurepip, venv"),
        packages: &["python3-venv"],
    },
    program(TEST_AND_DEMO, "openssl", "makes the package index's certificate", &["openssl"]),
    program(TEST_AND_DEMO, "curl", "a client of names, and of the proxy", &["curl", "ca-certificates"]),
    program(DEMO, "nginx", "serves the package index with TLS, and the other web sites", &["nginx-light"]),
    program(DEMO, "tinyproxy", "the egress proxy", &["tinyproxy-bin"]),
    program(TEST, "unbound", "the resolver of the tests of names", &["unbound"]),
    program(TEST_AND_DEMO, "dnsmasq", "the resolver that the job asks", &["dnsmasq-base"]),
    program(TEST, "dig", "a client of names", &["bind9-dnsutils"]),
    program(TEST, "musl-gcc", "builds a client of names with musl", &["musl-tools"]),
    program(TEST, "go", "builds a client of names with Go's own resolver", &["golang-go"]),
    Need {
        groups: TEST_AND_DEMO,
        what: "pip",
        why: "the real client of the package index, and what `suggest index` asks",
        found: Found::Python("pip"),
        packages: &["python3", "python3-pip"],
    },
    program(&[Group::Bench], "nft", "the peer that the benchmark measures against", &["nftables"]),
    program(&[Group::Bench], "dnsmasq", "the same for names: it fills sets of nftables", &["dnsmasq-base"]),
    program(VM, "qemu-system-x86_64", "boots other kernels", &["qemu-system-x86"]),
    program(VM, "xz", "unpacks modules of newer kernels", &["xz-utils"]),
    Need {
        groups: VM,
        what: "busybox",
        why: "the shell and tools of the test machine, without libraries",
        found: Found::Static("busybox"),
        packages: &["busybox-static"],
    },
];
