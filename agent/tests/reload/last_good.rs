//! `LastGood`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use egress_warden::allowlist::{self, AllowlistSet, Texts};
use egress_warden::policy::Policy;
use egress_warden::reload::{LastGood, LastGoodError};

const SET: &str = "\
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: list}
spec:
  to:
    - {cidrsFrom: lists/a.txt, ports: [443], why: test}
    - {cidrsFrom: ABSOLUTE, ports: [80], why: test}
    - {cidrsFrom: lists/a.txt, ports: [22], why: test}
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: test}
spec:
  select: {all: true}
  mode: enforce
  allow: [list]
";

struct World {
    root: tempfile::TempDir,
    kept: LastGood,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let set = root.path().join("set");
        fs::create_dir_all(set.join("lists")).unwrap();
        fs::write(set.join("lists/a.txt"), "# first\n10.0.0.0/8\n10.0.0.0/8\n").unwrap();
        let packed = root.path().join("b.gz");
        let mut packer =
            flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packer, b"fd00::/8\n").unwrap();
        packer.finish().unwrap();
        fs::write(set.join("a.yaml"), SET.replace("ABSOLUTE", packed.to_str().unwrap())).unwrap();
        // Read once, as what it leads to.
        std::os::unix::fs::symlink("a.yaml", set.join("b.yaml")).unwrap();
        let kept = LastGood::new(&root.path().join("state"));
        Self { root, kept }
    }

    fn paths(&self) -> [PathBuf; 1] {
        [self.root.path().join("set")]
    }

    fn texts(&self) -> Texts {
        allowlist::read(&self.paths()).texts
    }

    /// Stores, lets `damage` at the file, and returns what loading says.
    fn damaged(&self, damage: impl FnOnce(&Path)) -> String {
        self.kept.store(&self.texts()).unwrap();
        damage(self.kept.path());
        match self.kept.load() {
            Err(error @ LastGoodError::Damaged { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

fn policies(set: &AllowlistSet) -> Vec<Policy> {
    set.policies().into_iter().filter_map(|name| set.policy(name)).collect()
}

#[test]
fn what_is_kept_says_the_same_in_the_same_places() {
    let world = World::new();
    assert_eq!(world.kept.load().unwrap(), None);
    let reading = allowlist::read(&world.paths());
    let set = reading.set.unwrap();
    assert_eq!(policies(&set)[0].rules.len(), 3);
    assert_eq!(set.warnings.len(), 1, "{:?}", set.warnings);
    world.kept.store(&reading.texts).unwrap();
    fs::remove_dir_all(world.root.path().join("set")).unwrap();
    fs::remove_file(world.root.path().join("b.gz")).unwrap();

    let texts = world.kept.load().unwrap().expect("something is kept");
    assert_eq!(texts, reading.texts);
    assert_eq!(texts.fingerprint(), reading.texts.fingerprint());
    let again = allowlist::read_stored(&texts);
    let kept = again.set.unwrap();
    assert_eq!(policies(&kept), policies(&set), "origins included");
    assert_eq!(kept.warnings, set.warnings);
    assert_eq!(again.texts, texts);
}

#[test]
fn a_later_one_takes_its_place_and_nobody_else_can_read_it() {
    let world = World::new();
    world.kept.store(&world.texts()).unwrap();
    let first = world.kept.load().unwrap();
    fs::write(world.root.path().join("set/lists/a.txt"), "10.9.0.0/16\n").unwrap();
    // An agent that was killed while it wrote leaves this.
    let fresh = world.kept.path().with_file_name("allowlists.new");
    fs::write(&fresh, "half").unwrap();
    world.kept.store(&world.texts()).unwrap();
    let second = world.kept.load().unwrap();
    assert_eq!(second, Some(world.texts()));
    assert_ne!(first, second);
    assert!(!fresh.exists());
    assert_eq!(fs::metadata(world.kept.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let directory = world.kept.path().parent().unwrap();
    assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_is_torn_or_foreign_is_refused() {
    let world = World::new();
    let edit = |change: fn(&mut Vec<u8>)| {
        move |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
    };
    for (change, expected) in [
        (edit(|bytes| bytes.truncate(bytes.len() - 1)), "it was cut short"),
        (edit(|bytes| bytes.truncate(20)), "it ends within its first line"),
        (edit(Vec::clear), "it ends within its first line"),
        (edit(|bytes| bytes.push(b'x')), "there is more in it than was stored"),
        (edit(|bytes| *bytes.last_mut().unwrap() ^= 1), "its checksum is wrong"),
        (edit(|bytes| *bytes.last_mut().unwrap() = 0xff), "not UTF-8"),
        (edit(|bytes| *bytes = b"{\"format\": 1}\n".to_vec()), "it is not a file of this program"),
    ] {
        let told = world.damaged(change);
        assert!(told.contains(expected) && told.contains("remove it"), "{told}");
    }
    let told = world.damaged(|path| {
        let text = fs::read_to_string(path).unwrap().replace("allowlists 1", "allowlists 2");
        fs::write(path, text).unwrap();
    });
    assert!(told.contains("its format is \"egress-warden allowlists 2\""), "{told}");
    let told = world.damaged(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o622)).unwrap());
    assert!(told.contains("others than this agent's user can write it"), "{told}");
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    let world = World::new();
    world.kept.store(&world.texts()).unwrap();
    let elsewhere = world.root.path().join("elsewhere");
    fs::rename(world.kept.path(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.kept.path()).unwrap();
    assert!(matches!(world.kept.load(), Err(LastGoodError::Io { .. })));
}

#[test]
fn a_store_that_fails_leaves_what_was_there() {
    let world = World::new();
    world.kept.store(&world.texts()).unwrap();
    // Something that cannot be removed as a file stands in the way.
    let fresh = world.kept.path().with_file_name("allowlists.new");
    fs::create_dir(&fresh).unwrap();
    let mut texts = world.texts();
    texts.files.truncate(1);
    assert!(matches!(world.kept.store(&texts), Err(LastGoodError::Io { path, .. }) if path == fresh));
    assert_eq!(world.kept.load().unwrap(), Some(world.texts()));
}
