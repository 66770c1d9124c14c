use std::fs;
use std::sync::atomic::Ordering;

use super::actions::tests::{Told, descriptor};
use super::cut::Done;
use super::*;
use crate::kernel::diag::{DiagError, Ended};

const HOUR: u64 = 3_600_000_000_000;

fn open<'a>(directory: &tempfile::TempDir, boot: &str, told: &'a Told) -> Quarantines<&'a Told> {
    Quarantines::open(directory.path(), boot.to_owned(), told)
}

fn begin(cgroup: u64, action: Action, release: Option<u64>) -> Begin<'static> {
    Begin {
        cgroup,
        directory: descriptor(),
        path: Path::new("/job"),
        workload: "/job",
        policy: "training",
        action,
        who: "kernel",
        why: "20 violations",
        quarantined_at: 1_000,
        release,
        violations: 20,
        judge: Box::new(|_| true),
    }
}

/// The cuts that were asked for come to an end.
fn cuts_end(
    quarantines: &mut Quarantines<&Told>,
    told: &Told,
    result: impl Fn() -> Result<Ended, DiagError>,
) -> Vec<String> {
    let cuts = told.cuts.take().into_iter();
    cuts.flat_map(|(number, cgroup, _)| quarantines.ended(Done { number, cgroup, result: result() }))
        .collect()
}

fn two() -> Result<Ended, DiagError> {
    Ok(Ended { ended: 2, ..Ended::default() })
}

fn whats(quarantines: &Quarantines<&Told>) -> Vec<(What, String)> {
    let entries = quarantines.history(100).unwrap();
    entries.into_iter().map(|entry| (entry.what, entry.who)).collect()
}

#[test]
fn each_action_does_its_own_and_release_thaws_only_what_was_frozen() {
    for (action, done, undone) in [
        (Action::Isolate, "end connections", None),
        (Action::Freeze, "freeze", Some("thaw")),
        (Action::Kill, "kill", None),
    ] {
        let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
        let mut quarantines = open(&directory, "boot", &told);
        let outcome = quarantines.begin(begin(7, action, None));
        assert_eq!((told.take(), outcome.problems), (vec![done.to_owned()], Vec::<String>::new()));
        assert_eq!(outcome.cut.is_some(), action == Action::Isolate);
        assert_eq!(cuts_end(&mut quarantines, &told, two), Vec::<String>::new());
        let status = quarantines.status(7).unwrap();
        assert_eq!((status.action, status.who.as_str(), status.until), (action, "kernel", None));
        quarantines.end(7, "ann", "looked at it").unwrap();
        assert_eq!(told.take(), undone.map(str::to_owned).into_iter().collect::<Vec<_>>());
        assert_eq!(quarantines.status(7), None);
        assert!(matches!(quarantines.end(7, "ann", "again"), Err(EndError::NotQuarantined)));
        assert_eq!(
            whats(&quarantines),
            [(What::Quarantined, "kernel".to_owned()), (What::Released, "ann".to_owned())]
        );
    }
}

#[test]
fn a_time_to_release_comes_and_is_known_after_a_restart() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    quarantines.begin(begin(7, Action::Freeze, Some(2 * HOUR)));
    quarantines.begin(begin(8, Action::Isolate, Some(HOUR)));
    quarantines.begin(begin(9, Action::Isolate, None));
    cuts_end(&mut quarantines, &told, two);
    let listed: Vec<_> = quarantines.list().map(|(cgroup, lasting)| (cgroup, lasting.clone())).collect();
    let status = quarantines.status(8).unwrap();
    assert_eq!(status.until.unwrap().duration_since(status.since).unwrap(), Duration::from_nanos(HOUR));
    drop(quarantines);

    told.take();
    told.paths.borrow_mut().insert("/job".into(), 7);
    let mut quarantines = open(&directory, "boot", &told);
    assert_eq!(quarantines.adopt(&[(7, 1_000), (8, 1_000), (9, 1_000)]), Adopted::default());
    assert_eq!(listed, quarantines.list().map(|(id, one)| (id, one.clone())).collect::<Vec<_>>());
    assert_eq!(quarantines.next_due(), Some(1_000 + HOUR));
    assert_eq!(quarantines.due(999 + HOUR), [0; 0]);
    assert_eq!(quarantines.due(1_000 + HOUR), [8]);
    assert_eq!(quarantines.due(1_000 + 2 * HOUR), [7, 8]);
    assert_eq!(told.take(), Vec::<String>::new(), "what was done is not done again");
    quarantines.end(7, "agent", "its time has come").unwrap();
    assert_eq!(told.take(), ["thaw"]);
}

#[test]
fn a_restart_tells_apart_what_it_knows_what_it_does_not_and_what_is_over() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    quarantines.begin(begin(1, Action::Freeze, None));
    quarantines.begin(begin(2, Action::Freeze, None));
    quarantines.begin(begin(3, Action::Isolate, None));
    cuts_end(&mut quarantines, &told, two);
    told.fails.set(Some(libc::EBUSY));
    quarantines.begin(begin(4, Action::Kill, None));
    told.fails.set(None);
    told.take();
    drop(quarantines);

    // 1 was let out and is still there, 2 is gone, 3 was let out and quarantined again, 5 is new.
    told.paths.borrow_mut().insert("/job".into(), 1);
    let mut quarantines = open(&directory, "boot", &told);
    let adopted = quarantines.adopt(&[(3, 2_000), (4, 1_000), (5, 3_000)]);
    assert_eq!(adopted, Adopted { unknown: vec![3, 5], unfinished: vec![4] });
    assert_eq!(told.take(), ["thaw"]);
    assert_eq!(quarantines.list().map(|(cgroup, _)| cgroup).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(whats(&quarantines).last().unwrap(), &(What::Released, "agent".to_owned()));

    told.paths.borrow_mut().insert("/job".into(), 4);
    assert_eq!(quarantines.finish(4, Box::new(|_| true)).problems, Vec::<String>::new());
    assert_eq!(told.take(), ["kill"]);
    let mut quarantines = open(&directory, "boot", &told);
    assert_eq!(quarantines.adopt(&[(4, 1_000)]).unfinished, [0; 0]);

    // Ids and boot times of another boot mean nothing.
    let mut quarantines = open(&directory, "another boot", &told);
    assert_eq!(quarantines.adopt(&[(4, 1_000)]), Adopted { unknown: vec![4], unfinished: vec![] });
}

#[test]
fn a_second_quarantine_is_never_milder() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    quarantines.begin(begin(7, Action::Freeze, Some(HOUR)));
    let by_hand = Begin { who: "ann", why: "hold it", ..begin(7, Action::Isolate, None) };
    quarantines.begin(by_hand);
    let status = quarantines.status(7).unwrap();
    assert_eq!((status.action, status.who.as_str(), status.until), (Action::Freeze, "ann", None));
    quarantines.begin(begin(7, Action::Kill, None));
    assert_eq!(told.take(), ["freeze", "freeze", "kill"]);
    quarantines.end(7, "ann", "done").unwrap();
    assert_eq!(told.take(), ["thaw"], "killed, but still frozen for whoever comes next");
}

#[test]
fn an_action_that_fails_is_told_and_the_quarantine_lasts() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    told.fails.set(Some(libc::EACCES));
    let mut quarantines = open(&directory, "boot", &told);
    let outcome = quarantines.begin(begin(7, Action::Freeze, Some(HOUR)));
    assert_eq!(outcome.problems.len(), 1);
    assert!(outcome.problems[0].starts_with("freeze: Permission denied"), "{:?}", outcome.problems);
    assert!(quarantines.status(7).is_some());
    let last = quarantines.history(1).unwrap().remove(0);
    assert_eq!((last.what, last.why), (What::Failed, outcome.problems[0].clone()));

    let due = quarantines.next_due().unwrap();
    assert!(matches!(quarantines.end(7, "ann", "go on"), Err(EndError::Thaw(_))));
    assert!(quarantines.next_due().unwrap() >= due + RETRY_NS, "it is not tried at once again, without end");
    told.fails.set(Some(libc::ENODEV));
    quarantines.end(7, "ann", "go on").unwrap();
}

#[test]
fn until_its_connections_are_ended_a_quarantine_is_not_done() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    let is_done = |quarantines: &Quarantines<&Told>| quarantines.list().all(|(_, lasting)| lasting.done);
    quarantines.begin(begin(7, Action::Isolate, None));
    assert!(quarantines.is_cutting() && !is_done(&quarantines));
    quarantines.begin(begin(7, Action::Isolate, None));
    let (first, second) = (told.cuts.borrow()[0].0, told.cuts.borrow()[1].0);
    quarantines.ended(Done { number: first, cgroup: 7, result: two() });
    assert!(!is_done(&quarantines), "the second goes on");
    quarantines.ended(Done { number: second, cgroup: 7, result: two() });
    assert!(is_done(&quarantines) && !quarantines.is_cutting());

    // One that does not work is tried again by the next agent.
    told.cuts.take();
    quarantines.begin(begin(7, Action::Isolate, None));
    let problems = cuts_end(&mut quarantines, &told, || Err(DiagError::Unsupported));
    assert!(problems[0].starts_with("isolate: this kernel cannot end connections"), "{problems:?}");
    assert_eq!(whats(&quarantines).last().unwrap().0, What::Failed);
    drop(quarantines);
    let mut quarantines = open(&directory, "boot", &told);
    assert_eq!(quarantines.adopt(&[(7, 1_000)]).unfinished, [7]);
}

#[test]
fn whoever_is_let_go_keeps_the_connections_that_it_still_has() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    quarantines.begin(begin(7, Action::Isolate, None));
    quarantines.begin(begin(8, Action::Isolate, None));
    quarantines.end(7, "ann", "looked at it").unwrap();
    let called_off: Vec<bool> = told.cuts.borrow().iter().map(|cut| cut.2.load(Ordering::Relaxed)).collect();
    assert_eq!(called_off, [true, false]);
    assert_eq!(
        cuts_end(&mut quarantines, &told, || Err(DiagError::Cgroups(io::ErrorKind::NotFound.into()))),
        Vec::<String>::new(),
        "whose cgroup is gone has no connections any more"
    );
    assert!(!whats(&quarantines).iter().any(|(what, _)| *what == What::Failed));
}

#[test]
fn a_disk_that_is_full_stops_nothing() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    // Stands for every reason not to be able to write: root may write anywhere else.
    fs::remove_dir(directory.path()).unwrap();
    let outcome = quarantines.begin(begin(7, Action::Kill, None));
    assert_eq!(told.take(), ["kill"]);
    assert!(outcome.problems.iter().any(|problem| problem.contains("which quarantines last")));
    assert!(outcome.problems.iter().any(|problem| problem.contains("the history of quarantines")));
    quarantines.end(7, "ann", "go on").unwrap();
}

#[test]
fn files_that_make_no_sense_are_not_a_reason_to_stop() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    fs::write(directory.path().join("quarantines.json"), "{\"boot\":").unwrap();
    fs::create_dir(directory.path().join("quarantine-history.jsonl")).unwrap();
    let mut quarantines = open(&directory, "boot", &told);
    assert_eq!(quarantines.adopt(&[(7, 1_000)]).unknown, [7]);
    quarantines.begin(begin(7, Action::Isolate, None));
    assert_eq!(told.take(), ["end connections"]);
    assert!(quarantines.history(1).is_err());
}

#[test]
fn what_people_write_is_bounded() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    let why = "ä".repeat(100_000);
    quarantines.begin(Begin { why: &why, ..begin(7, Action::Isolate, None) });
    assert_eq!(quarantines.status(7).unwrap().why.chars().count(), LONGEST);
    assert_eq!(quarantines.history(1).unwrap()[0].why.chars().count(), LONGEST);
}

#[test]
fn whatever_is_let_go_is_thawed_and_a_removed_cgroup_only_forgotten() {
    let (directory, told) = (tempfile::tempdir().unwrap(), Told::default());
    let mut quarantines = open(&directory, "boot", &told);
    told.paths.borrow_mut().insert("/job".into(), 7);
    quarantines.begin(begin(7, Action::Freeze, None));
    quarantines.begin(begin(8, Action::Freeze, None));
    told.take();
    quarantines.let_go(7, "not selected");
    quarantines.let_go(8, "not selected");
    quarantines.let_go(9, "not selected");
    assert_eq!(told.take(), ["thaw"]);
    assert_eq!(quarantines.list().count(), 0);
    assert_eq!(whats(&quarantines).iter().filter(|(what, _)| *what == What::Released).count(), 1);
}
