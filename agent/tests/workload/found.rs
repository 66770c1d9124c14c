use std::collections::HashMap;
use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use egress_warden::workload::Change;

use super::support::{Parent, Source};

const BOTH: [bool; 2] = [true, false];

impl Source {
    async fn appeared(&mut self) -> (PathBuf, u64) {
        match self.next().await {
            Change::Appeared { workload, created } => {
                assert_eq!(created, self.hints.as_ref().map(|_| 7));
                (workload.path, workload.cgroup)
            }
            other => panic!("instead of a new one: {other:?}"),
        }
    }

    async fn gone(&mut self) -> u64 {
        match self.next().await {
            Change::Gone { cgroup } => cgroup,
            other => panic!("instead of the end of one: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_there_is_told_first() {
    for hints in BOTH {
        let parent = Parent::new();
        for name in ["a-1", "a-1/a-2", "b", "b/a-3"] {
            parent.make(name);
        }
        let (_source, there) = Source::start(&parent, &["**/a-*"], hints).await;
        assert_eq!(there, ["a-1", "b/a-3"].map(|name| parent.path.join(name)), "only the outermost");
    }
}

#[tokio::test]
async fn made_and_removed_and_made_again() {
    for hints in BOTH {
        let parent = Parent::new();
        let (mut source, there) = Source::start(&parent, &["a"], hints).await;
        assert_eq!(there, Vec::<PathBuf>::new());
        let path = parent.path.join("a");
        let mut before = 0;
        for _ in 0..3 {
            // The tracepoint fires before the directory can be seen.
            source.hint(true, path.clone()).await;
            tokio::task::yield_now().await;
            parent.make("a");
            let (found, cgroup) = source.appeared().await;
            let id = std::fs::metadata(parent.directory("a")).unwrap().ino();
            assert_eq!((found, cgroup), (path.clone(), id));
            assert_ne!(cgroup, before, "a cgroup's number is never used twice");
            parent.remove("a");
            source.hint(false, path.clone()).await;
            assert_eq!(source.gone().await, cgroup);
            before = cgroup;
        }
    }
}

#[tokio::test]
async fn what_stands_within_something_new_is_found() {
    for hints in BOTH {
        let parent = Parent::new();
        let (mut source, _) = Source::start(&parent, &["pods/*/pod-*"], hints).await;
        for name in ["pods", "pods/burstable", "pods/burstable/pod-1", "pods/burstable/pod-1/pod-2"] {
            parent.make(name);
            source.hint(true, parent.path.join(name)).await;
        }
        assert_eq!(source.appeared().await.0, parent.path.join("pods/burstable/pod-1"));
        parent.make("pods/burstable/pod-3");
        source.hint(true, parent.path.join("pods/burstable/pod-3")).await;
        assert_eq!(source.appeared().await.0, parent.path.join("pods/burstable/pod-3"));
    }
}

/// The parent comes and goes as well, so that what is told of twice by the kernel has every chance to be told twice.
#[tokio::test]
async fn two_hundred_quick_ones_are_told_exactly() {
    for hints in BOTH {
        let parent = Parent::new();
        let (mut source, _) = Source::start(&parent, &["*/job"], hints).await;
        for round in 0..200 {
            for name in ["p", "p/job"] {
                source.hint(true, parent.path.join(name)).await;
                parent.make(name);
            }
            for name in ["p/job", "p"] {
                parent.remove(name);
                source.hint(false, parent.path.join(name)).await;
            }
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for name in ["end", "end/job"] {
            parent.make(name);
            source.hint(true, parent.path.join(name)).await;
        }
        let last = parent.path.join("end/job");
        let mut there = HashMap::new();
        let mut ended = Vec::new();
        while !there.values().any(|path| *path == last) {
            match source.next().await {
                Change::Appeared { workload, .. } => {
                    assert!(!ended.contains(&workload.cgroup), "told of after its end");
                    assert_eq!(there.insert(workload.cgroup, workload.path), None, "told of twice");
                }
                Change::Gone { cgroup } => {
                    there.remove(&cgroup).expect("the end of one that was told of");
                    ended.push(cgroup);
                }
                other => panic!("neither new nor gone: {other:?}"),
            }
        }
        assert_eq!(there.len(), 1, "each that was told of was told to be gone: {there:?}");
    }
}

/// Cgroups that are gone before they can be looked at do not hold up the next one.
#[tokio::test]
async fn one_that_never_shows_holds_up_nobody() {
    let parent = Parent::new();
    let (mut source, _) = Source::start(&parent, &["*"], true).await;
    for number in 0..1000 {
        source.hint(true, parent.path.join(format!("never-{number}"))).await;
    }
    parent.make("a");
    source.hint(true, parent.path.join("a")).await;
    let began = std::time::Instant::now();
    assert_eq!(source.appeared().await.0, parent.path.join("a"));
    assert!(began.elapsed().as_secs() < 2, "took {:?}", began.elapsed());
}

#[tokio::test]
async fn another_selection_tells_everything_anew() {
    for hints in BOTH {
        let parent = Parent::new();
        for name in ["a", "a/b", "c"] {
            parent.make(name);
        }
        let (mut source, there) = Source::start(&parent, &["a/b"], hints).await;
        assert_eq!(there, [parent.path.join("a/b")]);
        assert_eq!(source.select(parent.selection(&["a", "a/b"])).await, [parent.path.join("a")]);
        assert_eq!(source.select(parent.selection(&["c"])).await, [parent.path.join("c")]);
        parent.remove("a/b");
        source.hint(false, parent.path.join("a/b")).await;
        parent.remove("c");
        source.hint(false, parent.path.join("c")).await;
        source.gone().await;
        assert_eq!(source.select(parent.selection(&[])).await, Vec::<PathBuf>::new());
    }
}

/// Runs itself again, in `own/inner` of a parent whose path is in the variable.
#[tokio::test]
async fn the_agents_own_cgroup_and_those_above_are_none() {
    const VARIABLE: &str = "EGRESS_WARDEN_TEST_RUN_WITHIN";
    const NAME: &str = "found::the_agents_own_cgroup_and_those_above_are_none";
    let globs = [["*/inner", "other"], ["own", "other"], ["*", "other"], ["*/inner", "other"]];
    if let Some(path) = env::var_os(VARIABLE) {
        let mount = egress_warden::workload::mount::CgroupMount::find(None).unwrap();
        let parent = std::mem::ManuallyDrop::new(Parent { mount, path: path.into() });
        for hints in BOTH {
            let (mut source, _) = Source::start(&parent, &[], hints).await;
            for globs in globs {
                assert_eq!(source.select(parent.selection(&globs)).await, [parent.path.join("other")]);
            }
        }
        return;
    }
    let parent = Parent::new();
    for name in ["own", "own/inner", "other"] {
        parent.make(name);
    }
    let status = Command::new("sh")
        .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
        .arg(parent.directory("own/inner"))
        .arg(env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(VARIABLE, &parent.path)
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn what_inotify_had_no_room_for_is_looked_for() {
    let parent = Parent::new();
    let (mut source, _) = Source::start(&parent, &["job-*"], false).await;
    parent.make("job-old");
    source.appeared().await;
    let room = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let room: usize = room.trim().parse().unwrap();
    // The source runs on this thread and reads nothing meanwhile. Two events each.
    for _ in 0..=room / 2 {
        parent.make("noise");
        parent.remove("noise");
    }
    // Of these nothing is told any more.
    parent.make("job-new");
    parent.remove("job-old");
    match source.next().await {
        Change::All(workloads) => {
            let paths: Vec<_> = workloads.into_iter().map(|workload| workload.path).collect();
            assert_eq!(paths, [parent.path.join("job-new")]);
        }
        other => panic!("instead of everything: {other:?}"),
    }
    // What is told afterwards is heard of as before.
    parent.make("job-next");
    assert_eq!(source.appeared().await.0, parent.path.join("job-next"));
}
