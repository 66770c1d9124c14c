//! The allowlists that the agent was told to read, and what happens when they change or are not valid.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::allowlist::{self, Diagnostic, Fingerprint, Format, Severity, Texts, render};
use crate::config::Config;
use crate::enforce::reconciler::Reconciler;
use crate::enforce::snapshot::RulesFrom;
use crate::policy::Origin;
use crate::reload::{AllowlistWatch, LastGood, WatchError};
use crate::workload::pattern::Selection;

/// How often the files are read while the kernel does not tell that they changed.
const READ_EVERY: Duration = Duration::from_secs(5);

/// The files, the watch on them, and the copy of the last valid ones.
pub(super) struct Allowlists {
    paths: Vec<PathBuf>,
    watch: AllowlistWatch,
    last_good: LastGood,
    /// Changes are not heard: when the files are read again.
    deaf: Option<Instant>,
    /// What was put in force last, so that a file that was only touched changes nothing.
    in_force: Option<Fingerprint>,
}

impl Allowlists {
    pub(super) fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            paths: config.allowlists.clone(),
            watch: AllowlistWatch::new(&config.allowlists)?,
            last_good: LastGood::new(&config.state_dir),
            deaf: None,
            in_force: None,
        })
    }

    /// Something that was read, or could have been, changed. Where that cannot be heard, this says so once, and the
    /// files are read now and then until it can be.
    pub(super) async fn changed(&mut self) {
        if let Some(again) = self.deaf {
            return sleep_until(again).await;
        }
        if let Err(error) = self.watch.changed().await {
            self.cannot_hear(&error);
        }
    }

    fn cannot_hear(&mut self, error: &WatchError) {
        if self.deaf.replace(Instant::now() + READ_EVERY).is_none() {
            warn!(%error, "changes of the allowlists cannot be heard of; the files are read every 5 s instead");
        }
    }

    /// At the start: the files; where they are not valid, what is pinned stays and the last good ones rule over the rest.
    pub(super) fn start(&mut self, reconciler: &mut Reconciler, selected: &watch::Sender<Selection>) {
        self.reload(reconciler, selected);
        if reconciler.has_rules() {
            return;
        }
        match self.last_good.load() {
            Ok(Some(texts)) => Self::fall_back(&texts, reconciler, selected),
            Ok(None) => error!("the files are not valid, and there are no last good ones"),
            Err(refused) => error!(error = %refused, "the last good allowlists cannot be read"),
        }
    }

    fn fall_back(texts: &Texts, reconciler: &mut Reconciler, selected: &watch::Sender<Selection>) {
        let errors = reconciler.reload_errors();
        let from = if reconciler.has_members() { RulesFrom::Pinned } else { RulesFrom::LastGood };
        let set = match allowlist::read_stored(texts).set {
            Ok(set) => set,
            Err(diagnostics) => {
                return error!(
                    errors = text(&diagnostics),
                    "the last good allowlists are not valid for this version"
                );
            }
        };
        match reconciler.apply(&set, from) {
            Ok(selection) => {
                selected.send_replace(selection);
                warn!(from = ?from, "the files are not valid; what was valid last is enforced");
            }
            Err(refused) => error!(error = %refused, "the last good allowlists cannot be enforced"),
        }
        reconciler.refuse(errors);
    }

    /// Reads the files again. Whatever is wrong with them, what is in force stays, whole.
    pub(super) fn reload(&mut self, reconciler: &mut Reconciler, selected: &watch::Sender<Selection>) {
        let began = SystemTime::now();
        let reading = allowlist::read(&self.paths);
        match self.watch.set_files(&reading.files) {
            Err(error) => self.cannot_hear(&error),
            Ok(()) if self.deaf.take().is_some() => info!("changes of the allowlists are heard of again"),
            Ok(()) => {}
        }
        let set = match reading.set {
            Ok(set) => set,
            Err(diagnostics) => {
                diagnostics.iter().for_each(tell);
                return reconciler.refuse(text(&diagnostics));
            }
        };
        let fingerprint = reading.texts.fingerprint();
        if self.in_force == Some(fingerprint) {
            return reconciler.confirm();
        }
        set.warnings.iter().for_each(tell);
        match reconciler.apply(&set, RulesFrom::Files) {
            Ok(selection) => {
                selected.send_replace(selection);
                info!(
                    milliseconds = began.elapsed().map_or(0, |taken| taken.as_millis() as u64),
                    "allowlists were read"
                );
                self.in_force = Some(fingerprint);
                self.store(&reading.texts);
            }
            Err(refused) => {
                error!(error = %refused, "the allowlists cannot be put in force");
                reconciler.refuse(refused.to_string());
            }
        }
    }

    fn store(&self, texts: &Texts) {
        if let Err(error) = self.last_good.store(texts) {
            warn!(%error, "no copy of the valid allowlists could be kept; a start with invalid ones would have none");
        }
    }
}

/// One event each, with the place in fields of its own.
fn tell(diagnostic: &Diagnostic) {
    let Origin { file, line, column } = &diagnostic.origin;
    let (file, message) = (file.display(), &diagnostic.message);
    let help = diagnostic.help.as_deref().unwrap_or_default();
    match diagnostic.severity {
        Severity::Error => error!(%file, line, column, help, "{message}"),
        Severity::Warning => warn!(%file, line, column, help, "{message}"),
    }
}

fn text(diagnostics: &[Diagnostic]) -> String {
    render(diagnostics, Format::Text).trim_end().to_owned()
}
