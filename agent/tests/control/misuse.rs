//! What a client can do wrong, which ends its own connection and nothing else.

use std::io::Write;

use crate::support::{Agent, eventually, first_line, node};

const STATUS: &[u8] = b"{\"version\":1,\"request\":\"status\"}\n";

#[test]
fn garbage_is_answered_and_does_no_harm() {
    let agent = Agent::start(node(Vec::new()));
    let two = [STATUS, STATUS].concat();
    let long = vec![b'x'; 40_000];
    for (bytes, told) in [
        (b"\n".as_slice(), "the request is not understood"),
        (b"\0\xff\xfe\n", "the request is not understood"),
        (b"{\"version\":1,\"request\":\"status\",\"more\":true}\n", "unknown field `more`"),
        (b"{\"version\":7,\"request\":\"status\"}\n", "this agent speaks version 1"),
        (&two, "one connection takes one request"),
        (&long, "longer than 16384 bytes"),
    ] {
        let answer = agent.tell(bytes);
        assert!(answer.starts_with("{\"error\":") && answer.contains(told), "{answer}");
    }
    let half = agent.connect();
    (&half).write_all(&STATUS[..10]).expect("write");
    half.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert!(first_line(&half).contains("does not end with a line end"));
    assert!(agent.run(&["status"]).status.success());
    assert_eq!(agent.asked(), []);
}

#[test]
fn whoever_asks_nothing_is_not_waited_for() {
    let agent = Agent::start(node(Vec::new()));
    let silent = agent.connect();
    (&silent).write_all(&STATUS[..10]).expect("write");
    assert_eq!(first_line(&silent), "{\"error\":\"no request came within 5 s\"}");
}

#[test]
fn clients_are_counted() {
    let agent = Agent::start(node(Vec::new()));
    // Watching, so that none of them ends by itself.
    let watch = b"{\"version\":1,\"request\":\"watch\"}\n";
    let mut watching: Vec<_> = (0..16)
        .map(|_| {
            let stream = agent.connect();
            (&stream).write_all(watch).expect("write");
            assert_eq!(first_line(&stream), "\"watching\"");
            stream
        })
        .collect();
    let output = agent.run(&["status"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("16 clients are connected already"));
    drop(watching.pop());
    eventually("a place is free", || agent.run(&["status"]).status.success());
}
