//! `AllowlistWatch`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use egress_warden::allowlist;
use egress_warden::reload::AllowlistWatch;

/// From the last write to the reload.
const PROMISED: Duration = Duration::from_secs(1);
/// A machine under load is late; a change that was missed never comes.
const DEADLINE: Duration = Duration::from_secs(10);
/// Nothing more is to be told when it was quiet for this long: a burst is over after 200 ms.
const SETTLED: Duration = Duration::from_millis(400);

const LIST: &str = "\
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: list}
spec:
  to:
    - {cidrsFrom: CIDRS, ports: [443], why: test}
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: test}
spec:
  select: {all: true}
  mode: enforce
  allow: [list]
";

/// A directory of a test, and the watch on what it calls allowlists.
struct World {
    root: tempfile::TempDir,
    watch: AllowlistWatch,
    paths: Vec<PathBuf>,
}

impl World {
    /// `prepare` makes what there is before the agent starts; `named` are the paths on its command line.
    async fn new(named: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        prepare(root.path());
        let paths: Vec<PathBuf> = named.iter().map(|path| root.path().join(path)).collect();
        let watch = AllowlistWatch::new(&paths).unwrap();
        let mut world = Self { root, watch, paths };
        world.read();
        world.settle().await;
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// What the agent does once it is told.
    fn read(&mut self) {
        let reading = allowlist::read(&self.paths);
        self.watch.set_files(&reading.files).unwrap();
    }

    /// Until nothing more is told: files that are watched only since they were read are told of once.
    async fn settle(&mut self) {
        while tokio::time::timeout(SETTLED, self.watch.changed()).await.is_ok() {
            self.read();
        }
    }

    /// Does something and expects to hear of it, once.
    async fn hears(&mut self, what: &str, act: impl FnOnce(&Path)) {
        act(self.root.path());
        let since = Instant::now();
        let told = tokio::time::timeout(DEADLINE, self.watch.changed()).await;
        told.unwrap_or_else(|_| panic!("not heard: {what}")).unwrap();
        assert!(since.elapsed() < PROMISED, "{what}: heard after {:?}", since.elapsed());
        self.read();
        self.settle().await;
    }
}

fn write(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn list_of(cidrs: &str) -> String {
    LIST.replace("CIDRS", cidrs)
}

#[tokio::test]
async fn edits_of_a_directory() {
    let mut world = World::new(&["set"], |root| {
        fs::create_dir(root.join("set")).unwrap();
        write(root.join("set/a.yaml"), "# a");
    })
    .await;
    for round in 0..2 {
        world.hears("an edit in place", |root| write(root.join("set/a.yaml"), &format!("# a{round}"))).await;
        world
            .hears("a rename over", |root| {
                write(root.join("set/.a.yaml.new"), &format!("# A{round}"));
                fs::rename(root.join("set/.a.yaml.new"), root.join("set/a.yaml")).unwrap();
            })
            .await;
        world.hears("a new file", |root| write(root.join("set/b.yml"), "# b")).await;
        world.hears("an edit of the new file", |root| write(root.join("set/b.yml"), "# b2")).await;
        world.hears("a deleted file", |root| fs::remove_file(root.join("set/b.yml")).unwrap()).await;
        world
            .hears("a directory replaced", |root| {
                fs::create_dir(root.join("other")).unwrap();
                write(root.join("other/a.yaml"), "# other");
                fs::rename(root.join("set"), root.join(format!("old{round}"))).unwrap();
                fs::rename(root.join("other"), root.join("set")).unwrap();
            })
            .await;
    }
    world.hears("the directory removed", |root| fs::remove_dir_all(root.join("set")).unwrap()).await;
    world.hears("the directory back", |root| fs::create_dir(root.join("set")).unwrap()).await;
    world.hears("a file in it", |root| write(root.join("set/a.yaml"), "# back")).await;
}

/// As a kubelet does it: a new directory, a new link beside the old one, a rename over it.
fn swap(directory: &Path, name: &str, text: &str) {
    fs::create_dir(directory.join(name)).unwrap();
    write(directory.join(name).join("a.yaml"), text);
    let old = fs::read_link(directory.join("..data"));
    symlink(name, directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    if let Ok(old) = old {
        fs::remove_dir_all(directory.join(old)).unwrap();
    }
}

#[tokio::test]
async fn a_config_map_is_swapped() {
    for named in ["set", "set/a.yaml"] {
        let mut world = World::new(&[named], |root| {
            fs::create_dir(root.join("set")).unwrap();
            swap(&root.join("set"), "..1", "# 1");
            symlink("..data/a.yaml", root.join("set/a.yaml")).unwrap();
        })
        .await;
        for version in 2..5 {
            world
                .hears("a swap", |root| {
                    swap(&root.join("set"), &format!("..{version}"), &format!("# {version}"));
                })
                .await;
        }
        world.hears("an edit behind the links", |root| write(root.join("set/..data/a.yaml"), "# 5")).await;
    }
}

#[tokio::test]
async fn a_path_that_does_not_exist_yet() {
    let mut world = World::new(&["a/b/set.yaml"], |_| ()).await;
    world.hears("the first directory", |root| fs::create_dir(root.join("a")).unwrap()).await;
    world.hears("the second", |root| fs::create_dir(root.join("a/b")).unwrap()).await;
    world.hears("the file", |root| write(root.join("a/b/set.yaml"), "# here")).await;
    world.hears("an edit", |root| write(root.join("a/b/set.yaml"), "# here now")).await;
}

#[tokio::test]
async fn files_written_under_another_name() {
    let mut world = World::new(&["set"], |root| {
        fs::create_dir_all(root.join("set")).unwrap();
        fs::create_dir_all(root.join("elsewhere")).unwrap();
        write(root.join("elsewhere/hard"), "# hard");
        write(root.join("elsewhere/soft"), "# soft");
        fs::hard_link(root.join("elsewhere/hard"), root.join("set/hard.yaml")).unwrap();
        symlink("../elsewhere/soft", root.join("set/soft.yaml")).unwrap();
    })
    .await;
    world.hears("through the other hard link", |root| write(root.join("elsewhere/hard"), "# 2")).await;
    world.hears("the target of a link", |root| write(root.join("elsewhere/soft"), "# 2")).await;
    world
        .hears("the target replaced", |root| {
            write(root.join("elsewhere/new"), "# 3");
            fs::rename(root.join("elsewhere/new"), root.join("elsewhere/soft")).unwrap();
        })
        .await;
    world
        .hears("the link led elsewhere", |root| {
            fs::remove_file(root.join("set/soft.yaml")).unwrap();
            symlink("../elsewhere/hard", root.join("set/soft.yaml")).unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_list_of_cidrs_elsewhere() {
    let mut world = World::new(&["set.yaml"], |root| {
        fs::create_dir(root.join("lists")).unwrap();
        write(root.join("lists/a.txt"), "10.0.0.0/8\n");
        write(root.join("set.yaml"), &list_of("lists/a.txt"));
    })
    .await;
    world.hears("an edit of the list", |root| write(root.join("lists/a.txt"), "10.1.0.0/16\n")).await;
    world.hears("another list", |root| write(root.join("set.yaml"), &list_of("lists/b.txt"))).await;
    world.hears("which comes late", |root| write(root.join("lists/b.txt"), "10.2.0.0/16\n")).await;
    assert!(allowlist::load(&[world.path("set.yaml")]).is_ok());
    world.hears("and goes", |root| fs::remove_file(root.join("lists/b.txt")).unwrap()).await;
}

#[tokio::test]
async fn what_began_to_be_watched_after_it_was_read_is_told_of() {
    let root = tempfile::tempdir().unwrap();
    let set = root.path().join("set.yaml");
    fs::create_dir(root.path().join("lists")).unwrap();
    write(root.path().join("lists/a.txt"), "10.0.0.0/8\n");
    write(&set, &list_of("lists/a.txt"));
    let mut watch = AllowlistWatch::new(std::slice::from_ref(&set)).unwrap();
    let reading = allowlist::read(std::slice::from_ref(&set));
    // Nobody watches it yet.
    write(root.path().join("lists/a.txt"), "10.1.0.0/16\n");
    watch.set_files(&reading.files).unwrap();
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("told").unwrap();
    assert_ne!(allowlist::read(&[set]).texts.fingerprint(), reading.texts.fingerprint());
}

#[tokio::test]
async fn a_burst_is_told_of_once_and_not_put_off_for_ever() {
    let mut world = World::new(&["set.yaml"], |root| write(root.join("set.yaml"), "# 0")).await;
    let path = world.path("set.yaml");
    let writer = tokio::spawn(async move {
        for number in 0.. {
            write(&path, &format!("# {number}"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let since = Instant::now();
    for _ in 0..2 {
        tokio::time::timeout(DEADLINE, world.watch.changed())
            .await
            .expect("told in spite of the writing")
            .unwrap();
    }
    assert!(since.elapsed() > Duration::from_millis(1500), "told twice in {:?}", since.elapsed());
    writer.abort();
    world.settle().await;
}

#[tokio::test]
async fn a_call_that_was_dropped_loses_nothing() {
    let mut world = World::new(&["set.yaml"], |root| write(root.join("set.yaml"), "# 0")).await;
    write(world.path("set.yaml"), "# 1");
    // Long enough to hear of it, too short to see the end of the burst.
    let dropped = tokio::time::timeout(Duration::from_millis(50), world.watch.changed()).await;
    assert!(dropped.is_err(), "told before the burst was over");
    tokio::time::timeout(DEADLINE, world.watch.changed()).await.expect("told").unwrap();
}

#[tokio::test]
async fn neighbours_are_not_told_of() {
    let mut world = World::new(&["set"], |root| {
        fs::create_dir(root.join("set")).unwrap();
        write(root.join("set/a.yaml"), "# a");
    })
    .await;
    write(world.path("neighbour"), "x");
    write(world.path("set/.hidden.yaml"), "x");
    write(world.path("set/README.md"), "x");
    let told = tokio::time::timeout(SETTLED, world.watch.changed()).await;
    assert!(told.is_err(), "told of a file that nobody reads");
    world.hears("a file that is read", |root| write(root.join("set/a.yaml"), "# b")).await;
}

#[tokio::test]
async fn more_events_than_the_kernel_keeps_are_a_change() {
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let mut world = World::new(&["set"], |root| {
        fs::create_dir(root.join("set")).unwrap();
        write(root.join("set/a.yaml"), "# a");
    })
    .await;
    world
        .hears("an overflow", |root| {
            // Events that do not matter by themselves, alternating so that the kernel does not merge them.
            for number in 0..=limit {
                let path = root.join(["set/x", "set/y"][number % 2]);
                write(&path, "x");
            }
        })
        .await;
}
