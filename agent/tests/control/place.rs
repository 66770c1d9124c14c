//! The socket's place: its directory, what lies there already, and what is left at the end.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use egress_warden::control::{ServeError, Server};

use crate::support::{Agent, node};

fn bind(path: &Path) -> Result<Server, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    Server::bind(path)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn the_directory_is_made_for_root_and_the_socket_removed_at_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/control.sock");
    let server = bind(&path).expect("the socket");
    assert_eq!((mode(path.parent().expect("a parent")), mode(&path)), (0o700, 0o600));
    drop(server);
    assert!(!path.exists());
}

#[test]
fn what_a_dead_agent_left_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).expect("bind"));
    assert!(path.exists());
    let first = bind(&path).expect("the socket");
    // A successor's socket survives the end of the first.
    fs::rename(&path, directory.path().join("old")).expect("rename");
    let second = bind(&path).expect("the socket");
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn a_live_socket_is_left_alone() {
    let agent = Agent::start(node(Vec::new()));
    let error = bind(&agent.socket()).expect_err("another agent answers");
    assert!(matches!(&error, ServeError::Live(path) if *path == agent.socket()), "{error}");
    assert!(agent.run(&["status"]).status.success());
}

#[test]
fn a_place_that_is_not_safe_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    fs::write(&path, "precious").expect("write");
    assert!(matches!(bind(&path), Err(ServeError::NotASocket(_))));
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
    fs::remove_file(&path).expect("remove");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("chmod");
    assert!(matches!(bind(&path), Err(ServeError::Directory(_))));
    assert!(matches!(bind(&directory.path().join("x".repeat(200))), Err(ServeError::Directory(_))));
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).expect("chmod");
    assert!(matches!(bind(&directory.path().join("x".repeat(200))), Err(ServeError::System { .. })));
}
