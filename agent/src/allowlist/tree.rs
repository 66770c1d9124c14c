//! YAML as a tree in which every node knows its place.
//!
//! Stricter than YAML, because people review these files and must see what they mean: no anchors and aliases (which
//! can also explode), no tags, no merge keys, every key once and a plain text.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as YamlSpan};

use super::diagnostic::Report;
use super::source::{Span, invisible};
use crate::text::is_misleading;

/// Deeper than any document of ours by far.
const MAX_DEPTH: usize = 32;

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Span,
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Text, and whether it was written without quotes, so that YAML may take it for something else.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Pair>),
    /// Something that is not accepted and was reported: nothing more is said about it.
    Refused,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) key_at: Span,
    pub(crate) value: Node,
}

/// The documents of one file, and whether all of it could be read.
#[derive(Debug)]
pub(crate) struct Documents {
    pub(crate) roots: Vec<Node>,
    pub(crate) whole: bool,
}

/// Reads the documents of a file. Documents before the first unreadable place are returned all the same, so that what
/// is wrong with them is told in the same run.
pub(crate) fn parse(file: u32, text: &str, report: &mut Report) -> Documents {
    let mut builder = Builder { file, report, stack: Vec::new(), roots: Vec::new() };
    let mut whole = true;
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                if !builder.event(event, &span) {
                    whole = false;
                    break;
                }
            }
            Err(error) => {
                let mark = error.marker();
                let at = Span { file, line: mark.line() as u32, column: mark.col() as u32 + 1, length: 1 };
                builder.report.error(at, format!("not valid YAML: {}", error.info())).help(
                    "check indentation, brackets and quotes here and just above; or the file was cut short",
                );
                whole = false;
                break;
            }
        }
    }
    Documents { roots: builder.roots, whole }
}

enum Frame {
    Sequence { at: Span, items: Vec<Node> },
    Mapping { at: Span, pairs: Vec<Pair>, key: Key, seen: HashMap<String, Span> },
}

/// Where a mapping stands.
enum Key {
    /// A key comes next.
    Expected,
    /// The value of this key comes next.
    Read(String, Span),
    /// The value of a key that was refused comes next and is thrown away.
    Refused,
}

struct Builder<'r> {
    file: u32,
    report: &'r mut Report,
    stack: Vec<Frame>,
    roots: Vec<Node>,
}

impl Builder<'_> {
    /// Takes one event; false ends the reading of this file.
    fn event(&mut self, event: Event<'_>, span: &YamlSpan) -> bool {
        let at = self.place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_hidden_meaning(at, anchor, tag.is_some());
                self.scalar(at, text, matches!(style, ScalarStyle::Plain));
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_hidden_meaning(at, anchor, tag.is_some());
                return self.open(at, Frame::Sequence { at, items: Vec::new() });
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_hidden_meaning(at, anchor, tag.is_some());
                let frame =
                    Frame::Mapping { at, pairs: Vec::new(), key: Key::Expected, seen: HashMap::new() };
                return self.open(at, frame);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(_) => {
                self.report.error(at, "aliases (`*name`) are not accepted").help("write the value out");
                self.add(Node { at, value: Value::Refused });
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        true
    }

    fn place(&self, span: &YamlSpan) -> Span {
        let length = if span.start.line() == span.end.line() {
            span.end.col().saturating_sub(span.start.col()).max(1)
        } else {
            1
        };
        Span {
            file: self.file,
            line: span.start.line() as u32,
            column: span.start.col() as u32 + 1,
            length: length as u32,
        }
    }

    fn refuse_hidden_meaning(&mut self, at: Span, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.report
                .error(at, "anchors (`&name`) are not accepted")
                .help("write the value out where it is used");
        }
        if tag {
            self.report
                .error(at, "tags (`!name`) are not accepted")
                .help("remove the tag; quotes make a text");
        }
    }

    /// What an escape in quotes means must be as fit to be shown as what stands in a file as it is. The characters that
    /// a file may hold itself, line ends and tabs, are left to who reads the text.
    fn refuse_invisible(&mut self, at: Span, text: &str) {
        let hidden = |&character: &char| is_misleading(character) && !matches!(character, '\n' | '\t');
        if let Some(character) = text.chars().find(hidden) {
            self.report
                .error(at, format!("the text holds {}", invisible(character)))
                .help("remove it, or its escape");
        }
    }

    fn scalar(&mut self, mut at: Span, text: Cow<'_, str>, plain: bool) {
        // The parser's span of a quoted text runs on over blanks and comments behind it.
        at.length = at.length.min(text.chars().count() as u32 + 2);
        self.refuse_invisible(at, &text);
        if let Some(Frame::Mapping { key: key @ Key::Expected, seen, .. }) = self.stack.last_mut() {
            *key = match seen.get(text.as_ref()) {
                _ if plain && text == "<<" => {
                    self.report.error(at, "merge keys (`<<`) are not accepted").help("write the keys out");
                    Key::Refused
                }
                Some(first) => {
                    let message =
                        format!("the key `{text}` was already written at {}:{}", first.line, first.column);
                    self.report.error(at, message).help("keep one of the two");
                    Key::Refused
                }
                None => {
                    seen.insert(text.clone().into_owned(), at);
                    Key::Read(text.into_owned(), at)
                }
            };
            return;
        }
        // An empty value has no width; YAML places it at whatever comes next, often on another line.
        let at = match self.stack.last() {
            Some(Frame::Mapping { key: Key::Read(_, key_at), .. }) if plain && text.is_empty() => *key_at,
            _ => at,
        };
        self.add(Node { at, value: Value::Scalar { text: text.into_owned(), plain } });
    }

    fn open(&mut self, at: Span, frame: Frame) -> bool {
        if self.stack.len() >= MAX_DEPTH {
            self.report.error(at, format!("nested deeper than {MAX_DEPTH} levels; nothing below was read"));
            return false;
        }
        if let Some(Frame::Mapping { key: Key::Expected, .. }) = self.stack.last() {
            self.report
                .error(at, "a key must be a plain text")
                .help("quote it if it contains `{`, `[` or `?`");
            // The rest of the file would be read with keys and values confused.
            return false;
        }
        self.stack.push(frame);
        true
    }

    fn close(&mut self) {
        let node = match self.stack.pop() {
            Some(Frame::Sequence { at, items }) => Node { at, value: Value::Sequence(items) },
            Some(Frame::Mapping { at, pairs, .. }) => Node { at, value: Value::Mapping(pairs) },
            None => return,
        };
        self.add(node);
    }

    fn add(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.roots.push(node),
            Some(Frame::Sequence { items, .. }) => items.push(node),
            Some(Frame::Mapping { pairs, key, .. }) => match std::mem::replace(key, Key::Expected) {
                Key::Read(name, key_at) => pairs.push(Pair { key: name, key_at, value: node }),
                // An alias in the place of a key was reported; it counts as a key whose value is to come.
                Key::Expected => *key = Key::Refused,
                Key::Refused => {}
            },
        }
    }
}
