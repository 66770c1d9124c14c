//! Tables of the kernel that are full: what has no place in them is still refused, and counted.

use anyhow::Result;
use egress_warden_tests::World;
use egress_warden_tests::job::Allowlists;

/// More refused destinations than `exec` has room for, and then one again that has a place.
const FLOOD: &str = r#"
out = udp("0.0.0.0", 0)
say(sum(how(lambda: out.sendto(MARK, ("10.77.2.2", port))) == "EPERM" for port in [*range(1, 1101), 1]))
"#;

#[test]
fn a_full_table() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let lists = Allowlists::new(&[], &[])?;
    let mut program = lists.start(world.host("job"), &[], FLOOD)?;
    program.expect("1101")?;
    let report = program.finish()?;
    assert_eq!(report.refused()?, [("not_allowlisted".to_owned(), 1101)].into());
    assert_eq!(report.note("destinations beyond the table"), 1100 - 1024, "{}", report.errors);
    // Each attempt has a record, or is counted as one without.
    let lost = report.note("records were not written");
    assert_eq!(u64::try_from(report.events.len())? + lost, 1101, "{}", report.errors);
    assert!(lost > 0, "{}", report.errors);
    Ok(())
}
