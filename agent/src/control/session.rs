//! One client: its request, and what is answered.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::peer::{Peer, Placed};
use super::protocol::{self, Answer, LONGEST_REQUEST, Request};
use super::{answer, target};
use crate::enforce::{Handle, Refusal, Snapshot};
use crate::quarantine::history::Entry;

/// In which a request must be there.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// In which an answer must be taken.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a watching client may take nothing: somebody may have stopped the terminal to read.
const WATCH_STALLS_FOR: Duration = Duration::from_secs(60);

/// Reads the quarantines of the past, the oldest first. The error is told to whoever asked.
pub type History = dyn Fn() -> io::Result<Vec<Entry>> + Send + Sync;

/// The client is gone, or takes nothing.
struct Gone;

/// Serves a client to its end. Whatever it does, only its own connection ends.
pub(super) async fn serve(mut connection: UnixStream, peer: Peer, handle: Handle, history: Arc<History>) {
    let (mut reader, mut writer) = connection.split();
    let first = first_answer(&mut reader, &peer, &handle, &*history).await;
    let watching = matches!(first, Ok(Answer::Watching));
    // Before the client is told that it watches, so that it misses nothing from then on.
    let events = if watching { handle.watch().await } else { None };
    let first = first.unwrap_or_else(Answer::Error);
    if send(&mut writer, &first, ANSWER_WITHIN).await.is_err() {
        return;
    }
    let Some(mut events) = events else { return };
    let mut ignored = [0];
    loop {
        let next = tokio::select! {
            // The end of the connection, or a second request, which nobody may make.
            _ = reader.read(&mut ignored) => return,
            event = events.recv() => match event {
                Ok(event) => Answer::Violation(Box::new((*event).clone())),
                Err(RecvError::Lagged(missed)) => Answer::Missed(missed),
                Err(RecvError::Closed) => Answer::Error("the agent is ending".into()),
            },
        };
        let sent = send(&mut writer, &next, WATCH_STALLS_FOR).await;
        if sent.is_err() || matches!(next, Answer::Error(_)) {
            return;
        }
    }
}

/// An answer as its line.
pub(super) fn line(answer: &Answer) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(line)
}

async fn send(writer: &mut WriteHalf<'_>, answer: &Answer, within: Duration) -> Result<(), Gone> {
    let line = line(answer).map_err(|_| Gone)?;
    match timeout(within, writer.write_all(&line)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Gone),
    }
}

async fn first_answer(
    reader: &mut ReadHalf<'_>,
    peer: &Peer,
    handle: &Handle,
    history: &History,
) -> Result<Answer, String> {
    let line = timeout(REQUEST_WITHIN, read_request(reader));
    let line = line.await.map_err(|_| format!("no request came within {} s", REQUEST_WITHIN.as_secs()))??;
    let request = protocol::parse(&line)?;
    let snapshot = handle.snapshot().await.ok_or("the agent is ending")?;
    // Looked up only now: what is decided is where the peer is when its request is carried out.
    let placed = peer.place().and_then(|placed| {
        let workloads = snapshot.workloads.iter().map(|workload| (workload.cgroup, workload.label.as_str()));
        placed.outside(workloads).map(|()| placed)
    });
    let placed = placed.map_err(|refused| {
        tracing::warn!(reason = %refused, "a client of the control socket was refused");
        refused.to_string()
    })?;
    carry_out(request, &snapshot, &placed, handle, history).await
}

async fn carry_out(
    request: Request,
    snapshot: &Snapshot,
    peer: &Placed,
    handle: &Handle,
    history: &History,
) -> Result<Answer, String> {
    let told = |Refusal(why): Refusal| why;
    match request {
        Request::Status => {
            handle.look().await;
            let snapshot = handle.snapshot().await.ok_or("the agent is ending")?;
            Ok(Answer::Status(Box::new(answer::status(&snapshot))))
        }
        Request::QuarantineList { history: wanted } => {
            let past = if wanted { Some(history()) } else { None };
            let past = past.transpose().map_err(|error| format!("the history cannot be read: {error}"))?;
            Ok(Answer::Quarantines(answer::quarantines(snapshot, past)))
        }
        Request::QuarantineAdd { workload, action, who, why } => {
            let found = target::find(&workload, &snapshot.workloads)?;
            let who = peer.who(who.as_deref());
            handle.quarantine(found.label.clone(), action.into(), who, why).await.map_err(told)?;
            Ok(Answer::Done { workload: found.label.clone() })
        }
        Request::Release { workload, who, why } => {
            let found = target::find(&workload, &snapshot.workloads)?;
            handle.release(found.label.clone(), peer.who(who.as_deref()), why).await.map_err(told)?;
            Ok(Answer::Done { workload: found.label.clone() })
        }
        Request::Watch => Ok(Answer::Watching),
        Request::Selftest => {
            let report = handle.selftest().await.ok_or("the agent is ending")?;
            Ok(Answer::Selftest(Box::new(report.map_err(|error| error.to_string())?)))
        }
        Request::Detach => {
            let workloads = handle.detach().await.map_err(told)?;
            Ok(Answer::Detached { workloads })
        }
    }
}

/// Up to the end of the first line, which is the only one.
async fn read_request(reader: &mut ReadHalf<'_>) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    loop {
        let read = reader
            .read_buf(&mut line)
            .await
            .map_err(|error| format!("the request cannot be read: {error}"))?;
        let end = line.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(line.len()) > LONGEST_REQUEST {
            return Err(format!("the request is longer than {LONGEST_REQUEST} bytes"));
        }
        match end {
            Some(end) if end + 1 == line.len() => return Ok(line),
            Some(_) => return Err("one connection takes one request".into()),
            None if read == 0 => return Err("the request does not end with a line end".into()),
            None => {}
        }
    }
}
