use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use egress_warden::kernel::OwnNamespace;
use egress_warden::workload::network::Networks;
use egress_warden::workload::{Change, Workload};
use tokio::sync::mpsc;

use super::support::{Parent, Running, next};

struct Told {
    tell: mpsc::Sender<Change>,
    changes: mpsc::Receiver<Change>,
}

impl Told {
    /// Tells of the cgroup `a`, and begins to listen.
    async fn of_a(parent: &Parent) -> Self {
        let (tell, heard) = mpsc::channel(16);
        let (told, changes) = mpsc::channel(16);
        tokio::spawn(Networks::new(parent.mount.clone(), told).expect("inotify").run(heard));
        let cgroup = fs::metadata(parent.directory("a")).expect("the cgroup").ino();
        let workload = Workload { cgroup, path: parent.path.join("a"), pod: None };
        tell.send(Change::Appeared { workload, created: None }).await.expect("it runs");
        let mut told = Self { tell, changes };
        let first = next(&mut told.changes).await;
        assert!(
            matches!(first, Change::Node { addresses } if addresses.contains(&Ipv4Addr::LOCALHOST.into()))
        );
        assert!(matches!(next(&mut told.changes).await, Change::Appeared { .. }), "passed on at once");
        told
    }

    /// The first that is told and is not the host's: a process is in the host's before it is in another.
    async fn own(&mut self) -> OwnNamespace {
        loop {
            match next(&mut self.changes).await {
                Change::Network { namespace, .. } if namespace.is_host => {}
                Change::Network { namespace, .. } => return namespace,
                other => panic!("instead of a network: {other:?}"),
            }
        }
    }
}

fn is_elsewhere(running: &Running) -> bool {
    let number = |path: String| fs::metadata(path).expect("a namespace").ino();
    number(format!("/proc/{}/ns/net", running.0.id())) != number("/proc/self/ns/net".to_owned())
}

fn until_elsewhere(running: &Running) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_elsewhere(running) {
        assert!(Instant::now() < end, "it has no network namespace of its own");
        std::thread::yield_now();
    }
}

fn within(running: &Running, arguments: &[&str]) {
    let target = running.0.id().to_string();
    let status = Command::new("nsenter").args(["-t", &target, "-n", "ip"]).args(arguments).status();
    assert!(status.expect("nsenter").success(), "ip {arguments:?}");
}

#[tokio::test]
async fn a_namespace_is_found_and_its_addresses_are_told() {
    let parent = Parent::new();
    parent.make("a");
    let mut told = Told::of_a(&parent).await;
    let running = parent.shell("a", "exec unshare -n sleep 60");
    let first = told.own().await;
    let address = "192.0.2.7".parse().expect("an address");
    assert!(!first.addresses.contains(&address) && first.uplinks.is_empty());
    within(&running, &["link", "add", "up0", "type", "veth", "peer", "up1"]);
    within(&running, &["addr", "add", "192.0.2.7/32", "dev", "up0"]);
    let mut now = first.clone();
    while !now.addresses.contains(&address) {
        now = told.own().await;
        assert_eq!(now.cookie, first.cookie, "it stays for life");
    }
    // Both of its ends are inside: nobody outside can call by it.
    assert_eq!((now.interfaces.len(), now.uplinks.len()), (2, 0));
    let cgroup = fs::metadata(parent.directory("a")).expect("the cgroup").ino();
    told.tell.send(Change::Gone { cgroup }).await.expect("it runs");
    assert_eq!(next(&mut told.changes).await, Change::Gone { cgroup });
    drop(running);
}

#[tokio::test]
async fn a_namespace_that_was_made_inside_is_not_its_own() {
    let parent = Parent::new();
    parent.make("a");
    let nested = parent.shell("a", "exec unshare -U -r -n sleep 60");
    until_elsewhere(&nested);
    assert_eq!(OwnNamespace::of_process(nested.0.id()).expect("examined"), None);
    let mut told = Told::of_a(&parent).await;
    let own = parent.shell("a", "exec unshare -n sleep 60");
    until_elsewhere(&own);
    let expected = OwnNamespace::of_process(own.0.id()).expect("examined").expect("its own");
    assert_eq!(told.own().await.cookie, expected.cookie);
}
