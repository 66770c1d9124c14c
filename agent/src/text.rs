//! Text for people. What it quotes comes from files, command lines and processes, and can hold anything.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write};
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Could it move the cursor, or turn the direction of writing?
#[must_use]
pub fn is_misleading(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// One line that does nothing to the terminal that it is printed on.
#[must_use]
pub fn visible(text: &str) -> String {
    shown(text, |character| !is_misleading(character))
}

/// The same for a text of several lines.
#[must_use]
pub fn visible_lines(text: &str) -> String {
    shown(text, |character| character == '\n' || !is_misleading(character))
}

fn shown(text: &str, harmless: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if harmless(character) {
            out.push(character);
        } else {
            out.extend(character.escape_unicode());
        }
    }
    out
}

/// Writes one message to standard error. If nobody can read it, the exit code still tells.
pub fn complain(message: impl Display) {
    let _ = writeln!(io::stderr(), "egress-warden: {}", visible_lines(&message.to_string()));
}

/// Writes a text of several lines to standard error, which may be closed.
pub fn tell(text: &str) {
    let _ = io::stderr().write_all(visible_lines(text).as_bytes());
}

/// A moment as RFC 3339 writes it, in UTC.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    // A time that no calendar holds says so itself.
    time.format(&Rfc3339).unwrap_or_else(|_| time.unix_timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(visible("a\u{1b}]0;x\u{7}\n\u{202e}ü"), "a\\u{1b}]0;x\\u{7}\\u{a}\\u{202e}ü");
        assert_eq!(visible_lines("a\n\u{9b}b\r\n"), "a\n\\u{9b}b\\u{d}\n");
    }
}
