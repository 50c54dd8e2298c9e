//! Transfers on the terminal: one bar for each layer; off a terminal, and with `-q`, nothing but what went wrong.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use storage::digest::Digest;
use storage::progress::{Event, Kind, Progress};

/// Draws on stderr.
pub(crate) struct Bars {
    all: MultiProgress,
    by_digest: Mutex<HashMap<String, ProgressBar>>,
}

/// Prints messages, draws nothing.
struct Lines;

/// What reports a transfer: bars on a terminal unless `quiet`.
pub(crate) fn for_terminal(quiet: bool) -> Box<dyn Progress> {
    if quiet {
        return Box::new(storage::progress::Silent);
    }
    if std::io::stderr().is_terminal() {
        Box::new(Bars { all: MultiProgress::new(), by_digest: Mutex::default() })
    } else {
        Box::new(Lines)
    }
}

impl Progress for Lines {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Message(text) => eprintln!("{text}"),
            Event::Done { digest } => eprintln!("Copied blob {}", short(digest)),
            Event::Exists { digest, kind: Kind::Layer } => eprintln!("Copied blob {} (already there)", short(digest)),
            _ => {}
        }
    }
}

fn short(digest: &Digest) -> &str {
    digest.hex().get(..12).unwrap_or_default()
}

impl Bars {
    fn with(&self, digest: &Digest, act: impl FnOnce(&ProgressBar)) {
        let bars = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bars.get(digest.hex()) {
            act(bar);
        }
    }

    fn add(&self, digest: &Digest, bar: ProgressBar, text: &'static str) {
        let style =
            ProgressStyle::with_template("{prefix} {msg:11} {bar:32} {bytes:>10}/{total_bytes} {bytes_per_sec}");
        let bar = self.all.add(bar);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(short(digest).to_owned());
        bar.set_message(text);
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.hex().to_owned(), bar);
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { digest, total_bytes, kind: Kind::Layer } => {
                self.add(digest, ProgressBar::new(total_bytes), "Downloading");
            }
            Event::Advanced { digest, done_bytes } => self.with(digest, |bar| bar.set_position(done_bytes)),
            Event::Unpacking { digest } => self.with(digest, |bar| bar.set_message("Unpacking")),
            Event::Done { digest } => self.with(digest, |bar| bar.finish_with_message("Done")),
            Event::Exists { digest, kind: Kind::Layer } => {
                let bar = ProgressBar::new(0);
                self.add(digest, bar, "Exists");
                self.with(digest, ProgressBar::finish);
            }
            Event::Message(text) => {
                // A terminal that is gone needs no message.
                let _ = self.all.println(text);
            }
            _ => {}
        }
    }
}
