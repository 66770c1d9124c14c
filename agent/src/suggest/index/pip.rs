//! What pip on this machine is told: by pip itself, or where there is none, by its files and environment.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use super::python::{Python, PythonError};

/// Where pip keeps its own default. Nobody configures it, so only pip can tell it.
const DEFAULT: &str = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";

/// Which settings count, the strongest last.
const SECTIONS: [&str; 3] = ["global", "install", ":env:"];

/// The settings that say where pip gets its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings(BTreeMap<(usize, String), String>);

/// pip, as far as there is one.
#[derive(Debug)]
pub(crate) struct Pip {
    pub(crate) settings: Settings,
    /// Who told the settings.
    pub(crate) told_by: String,
    python: Option<Python>,
}

impl Pip {
    /// Asks pip, or reads what it would read.
    pub(crate) fn find() -> Result<Self, PythonError> {
        let python = Python::with_pip();
        let Some(asked) = python else {
            let settings = Settings::from_files(&files(), env::vars());
            return Ok(Self { settings, told_by: "pip.conf and the environment".to_owned(), python });
        };
        let question = ["config", "list"];
        let settings = Settings::from_list(&asked.pip(&question)?);
        Ok(Self { settings, told_by: asked.called(&question.join(" ")), python })
    }

    /// The index that pip asks where nothing is configured; `None` without pip.
    pub(crate) fn default_index(&self) -> Result<Option<String>, PythonError> {
        let Some(python) = self.python else { return Ok(None) };
        python.run(&["-c", DEFAULT]).map(|url| Some(url.trim().to_owned()))
    }

    /// The packages that are installed: an index that cannot be listed surely has some of them.
    pub(crate) fn installed(&self) -> Vec<String> {
        let listed = self.python.and_then(|python| python.pip(&["list", "--format=freeze"]).ok());
        let names = listed.unwrap_or_default();
        names.lines().filter_map(|line| line.split_once("==")).map(|(name, _)| name.to_owned()).collect()
    }
}

impl Settings {
    /// One setting.
    pub(crate) fn one(&self, key: &str) -> Option<&str> {
        let found = (0..SECTIONS.len()).rev().find_map(|section| self.0.get(&(section, key.to_owned())));
        found.map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A setting that is a list.
    pub(crate) fn list(&self, key: &str) -> Vec<&str> {
        self.one(key).map(|value| value.split_whitespace().collect()).unwrap_or_default()
    }

    /// A setting that is on or off.
    pub(crate) fn is_on(&self, key: &str) -> bool {
        self.one(key).is_some_and(|value| {
            ["1", "true", "yes", "on", "t", "y"].contains(&value.to_lowercase().as_str())
        })
    }

    fn set(&mut self, section: &str, key: &str, value: String) {
        if let Some(section) = SECTIONS.iter().position(|known| *known == section) {
            self.0.insert((section, key.replace('_', "-").to_ascii_lowercase()), value);
        }
    }

    /// From the lines of `pip config list`: `global.index-url='https://…'`.
    fn from_list(text: &str) -> Self {
        let mut settings = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if let Some((section, key)) = name.trim().rsplit_once('.') {
                settings.set(section, key, unquoted(value.trim()));
            }
        }
        settings
    }

    /// From files, the weakest first, and the environment.
    fn from_files(files: &[PathBuf], variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut settings = Self::default();
        for text in files.iter().filter_map(|file| fs::read_to_string(file).ok()) {
            settings.read_ini(&text);
        }
        for (name, value) in variables {
            if let Some(key) = name.strip_prefix("PIP_") {
                settings.set(":env:", key, value);
            }
        }
        settings
    }

    fn read_ini(&mut self, text: &str) {
        let (mut section, mut last) = (String::new(), None::<(String, String)>);
        for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
            let trimmed = line.trim();
            if let (Some((_, value)), true) = (&mut last, line.starts_with([' ', '\t'])) {
                value.push('\n');
                value.push_str(trimmed);
                continue;
            }
            if let Some((key, value)) = last.take() {
                self.set(&section, &key, value);
            }
            if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.trim().clone_into(&mut section);
            } else if let Some((key, value)) = trimmed.split_once(['=', ':']) {
                last = Some((key.trim().to_owned(), value.trim().to_owned()));
            }
        }
        if let Some((key, value)) = last {
            self.set(&section, &key, value);
        }
    }
}

/// The text that Python shows in quotes.
fn unquoted(shown: &str) -> String {
    let quote = shown.chars().next().filter(|first| matches!(first, '\'' | '"'));
    let inside = quote.and_then(|quote| shown.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(shown);
    let (mut text, mut letters) = (String::new(), inside.chars());
    while let Some(letter) = letters.next() {
        text.push(match letter {
            '\\' => match letters.next() {
                Some('n' | 'r' | 't') => ' ',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    text
}

/// Where pip reads its settings, the weakest first.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = variable("PIP_CONFIG_FILE");
    if named.as_deref() == Some("/dev/null".as_ref()) {
        return Vec::new();
    }
    let home = variable("HOME").unwrap_or_default();
    let of_user = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    let standard = [
        "/etc/xdg/pip/pip.conf".into(),
        "/etc/pip.conf".into(),
        home.join(".pip/pip.conf"),
        of_user.join("pip/pip.conf"),
    ];
    let of_environment = variable("VIRTUAL_ENV").map(|environment| environment.join("pip.conf"));
    standard.into_iter().chain(of_environment).chain(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_lists_is_read_as_it_means_it() {
        let settings = Settings::from_list(
            ":env:.proxy='http://env.test:3128'\n\
             download.index-url='https://other.test/'\n\
             global.cert='/etc/a\\'b.pem'\n\
             global.extra-index-url='\\nhttps://one.test/simple\\nhttps://two.test/simple'\n\
             global.index-url=\"https://u:p'x@index.test/simple\"\n\
             global.proxy='http://global.test'\n\
             install.no-index='True'\n\
             nonsense\n",
        );
        assert_eq!(settings.one("index-url"), Some("https://u:p'x@index.test/simple"));
        assert_eq!(settings.one("proxy"), Some("http://env.test:3128"), "the environment is stronger");
        assert_eq!(settings.list("extra-index-url"), ["https://one.test/simple", "https://two.test/simple"]);
        assert_eq!(settings.one("cert"), Some("/etc/a'b.pem"));
        assert!(settings.is_on("no-index") && !settings.is_on("cert"));
    }

    #[test]
    fn files_are_read_where_there_is_no_pip() {
        let directory = tempfile::tempdir().expect("a directory");
        let (weak, strong) = (directory.path().join("weak"), directory.path().join("strong"));
        fs::write(
            &weak,
            "[global]\nindex-url = https://weak.test/\nproxy: http://proxy.test\n[list]\nindex-url=x\n",
        )
        .unwrap();
        let text = "# a comment\n[global]\nindex_url=https://strong.test/simple?a=b\nextra-index-url =\n  https://one.test/\n\
                    \x20 ; no, this is a comment\n  https://two.test/\n[install]\ncert = /c.pem";
        fs::write(&strong, text).unwrap();
        let variables = [("PIP_CERT".to_owned(), "/env.pem".to_owned()), ("HOME".into(), "/x".into())];
        let files = [weak, strong, "/nowhere".into()];
        let settings = Settings::from_files(&files, variables.into_iter());
        assert_eq!(settings.one("index-url"), Some("https://strong.test/simple?a=b"));
        assert_eq!(settings.one("proxy"), Some("http://proxy.test"));
        assert_eq!(settings.list("extra-index-url"), ["https://one.test/", "https://two.test/"]);
        assert_eq!(settings.one("cert"), Some("/env.pem"));
    }
}
