//! The agent's own messages: one line each on standard error, as text or as JSON, in one style.
//!
//! Text: `2026-01-31T12:00:00.123456Z info  allowlists loaded policies=2 file=allowlists/a.yaml`. A value that could be
//! taken for something else stands in quotes, and what would move a cursor is escaped. JSON: the same, as `time`, `level`,
//! `message` and a key for each field. Field names are a closed list, so that one query finds all of a kind: `workload`,
//! `policy`, `error`, `file`, `line`, `column`, and counts under their own names.
#![forbid(unsafe_code)]

use std::fmt::{Debug, Write as _};
use std::io::{self, Write};

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::config::{Log, LogFormat, LogLevel};
use crate::text::{is_misleading, visible};

const TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Where the kernel programs' own lines come from; other users of `log` are libraries that talk of themselves.
const KERNEL_PROGRAMS: &str = "egress_warden_ebpf";

/// Begins to write. The first call wins; with `kernel_log` the kernel programs' lines are written too.
pub fn init(log: Log, kernel_log: bool) {
    let subscriber =
        tracing_subscriber::registry().with(level(log.level)).with(Lines::new(log.format, io::stderr));
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return;
    }
    if kernel_log && log::set_boxed_logger(Box::new(KernelLog(log.format))).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

/// Writes events as lines.
#[derive(Debug)]
pub struct Lines<W> {
    format: LogFormat,
    open: W,
}

impl<W> Lines<W> {
    /// Lines in this format; `open` is asked for a writer for each.
    pub const fn new(format: LogFormat, open: W) -> Self {
        Self { format, open }
    }
}

impl<S: Subscriber, O: Write, W: Fn() -> O + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::new(name(*event.metadata().level()));
        event.record(&mut line);
        // Whether or not anybody reads, the agent goes on.
        let _ = (self.open)().write_all(line.rendered(self.format).as_bytes());
    }
}

const fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The kernel programs' lines, in the same style.
struct KernelLog(LogFormat);

impl log::Log for KernelLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with(KERNEL_PROGRAMS)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = Line::new("debug");
            line.message = record.args().to_string();
            line.fields.push(("from", Value::from("kernel programs")));
            let _ = io::stderr().write_all(line.rendered(self.0).as_bytes());
        }
    }

    fn flush(&self) {}
}

/// One message.
struct Line {
    time: OffsetDateTime,
    level: &'static str,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn new(level: &'static str) -> Self {
        Self { time: OffsetDateTime::now_utc(), level, message: String::new(), fields: Vec::new() }
    }

    fn rendered(self, format: LogFormat) -> String {
        let time = self.time.format(TIME).expect("every time has these parts");
        let mut line = match format {
            LogFormat::Text => {
                let mut line = format!("{time} {:5} {}", self.level, visible(&self.message));
                for (name, value) in &self.fields {
                    let _ = write!(line, " {name}={}", shown(value));
                }
                line
            }
            LogFormat::Json => {
                let head = [("time", time), ("level", self.level.to_owned()), ("message", self.message)];
                let head = head.into_iter().map(|(name, text)| (name, Value::from(text)));
                let object: Map<String, Value> =
                    head.chain(self.fields).map(|(name, value)| (name.to_owned(), value)).collect();
                Value::Object(object).to_string()
            }
        };
        line.push('\n');
        line
    }
}

/// A value that ends where its reader thinks it ends.
fn shown(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let plain = |character: char| {
        !character.is_whitespace() && !is_misleading(character) && !matches!(character, '"' | '=' | '\\')
    };
    if !text.is_empty() && text.chars().all(plain) {
        return text.clone();
    }
    format!("\"{}\"", visible(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, Value::from(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // With its causes: the last one is usually what the operator can do something about.
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.record(field, Value::from(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, Value::from(format!("{value:?}")));
    }
}

impl Line {
    fn record(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A writer that keeps what it is given.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, least: LogLevel, talk: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = Lines::new(format, move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(level(least)).with(lines);
        tracing::subscriber::with_default(subscriber, talk);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn talk() {
        tracing::info!(policies = 2, file = "a b.yaml", workload = %"/kubepods/x", "loaded\n\u{1b}[2J\u{202e}");
        tracing::warn!(
            policy = "t=\"x\"\u{7}",
            error = &io::Error::other("no") as &dyn std::error::Error,
            "refused"
        );
        tracing::debug!("why");
    }

    #[test]
    fn text_is_one_line_each_and_moves_no_cursor() {
        let text = written(LogFormat::Text, LogLevel::Info, talk);
        let lines: Vec<&str> =
            text.lines().map(|line| &line["2026-01-31T12:00:00.123456Z ".len()..]).collect();
        assert_eq!(
            lines,
            [
                "info  loaded\\u{a}\\u{1b}[2J\\u{202e} policies=2 file=\"a b.yaml\" workload=/kubepods/x",
                "warn  refused policy=\"t=\\\"x\\\"\\u{7}\" error=no",
            ]
        );
    }

    #[test]
    fn json_is_one_object_each() {
        let text = written(LogFormat::Json, LogLevel::Debug, talk);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["message"], "loaded\n\u{1b}[2J\u{202e}");
        assert_eq!((&lines[0]["level"], &lines[0]["policies"]), (&Value::from("info"), &Value::from(2)));
        assert_eq!((&lines[1]["error"], &lines[2]["level"]), (&Value::from("no"), &Value::from("debug")));
        assert!(lines[0]["time"].as_str().is_some_and(|time| time.len() == 27 && time.ends_with('Z')));
    }

    #[test]
    fn what_is_left_out_is_left_out() {
        assert_eq!(written(LogFormat::Text, LogLevel::Error, talk), "");
    }
}
