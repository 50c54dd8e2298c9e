//! Transfers on the terminal: one bar for each layer; off a terminal, and with `-q`, nothing but what went wrong.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use storage::digest::Digest;
use storage::progress::{Event, Kind, Progress};

/// Draws on stderr.
#[derive(Default)]
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
    if std::io::stderr().is_terminal() { Box::new(Bars::default()) } else { Box::new(Lines) }
}

/// Whose words a push is reported in.
pub(crate) enum Style {
    /// podman's, on stderr.
    Podman,
    /// docker's, on stdout; with the layers by their blobs, bottom first.
    Docker(Vec<(Digest, String)>),
}

/// What reports a push: bars on a terminal, lines elsewhere, nothing if `quiet`.
pub(crate) fn for_push(quiet: bool, style: Style) -> Box<dyn Progress> {
    if quiet {
        return Box::new(storage::progress::Silent);
    }
    match style {
        Style::Podman => {
            let bars = std::io::stderr().is_terminal().then(Bars::default);
            eprintln!("Getting image source signatures");
            Box::new(PodmanPush { bars })
        }
        Style::Docker(layers) => {
            let bars = std::io::stdout().is_terminal().then(|| {
                let bars = Bars::default();
                bars.all.set_draw_target(ProgressDrawTarget::stdout());
                bars
            });
            if bars.is_none() {
                layers.iter().rev().for_each(|(_, name)| println!("{name}: Preparing"));
            }
            Box::new(DockerPush { bars, layers })
        }
    }
}

struct PodmanPush {
    bars: Option<Bars>,
}

impl Progress for PodmanPush {
    fn event(&self, event: Event<'_>) {
        let what = |kind| if kind == Kind::Config { "config" } else { "blob" };
        match (event, &self.bars) {
            (Event::Started { kind: Kind::Manifest, .. }, _) => {
                self.line("Writing manifest to image destination");
            }
            (Event::Started { digest, total_bytes, kind }, Some(bars)) => {
                bars.add(digest, ProgressBar::new(total_bytes), "Uploading");
                bars.with(digest, |bar| bar.set_prefix(format!("Copying {} {}", what(kind), short(digest))));
            }
            (Event::Exists { digest, kind }, Some(bars)) => {
                bars.add(digest, ProgressBar::new(0), "Exists");
                bars.with(digest, |bar| bar.set_prefix(format!("Copying {} {}", what(kind), short(digest))));
                bars.with(digest, ProgressBar::finish);
            }
            (Event::Started { digest, kind, .. } | Event::Exists { digest, kind }, None) => {
                eprintln!("Copying {} {digest}", what(kind));
            }
            (Event::Advanced { digest, done_bytes }, Some(bars)) => {
                bars.with(digest, |bar| bar.set_position(done_bytes));
            }
            (Event::Mounted { digest, .. }, Some(bars)) => bars.with(digest, |bar| bar.finish_with_message("Mounted")),
            (Event::Done { digest }, Some(bars)) => bars.with(digest, |bar| bar.finish_with_message("Done")),
            (Event::Message(text), _) => self.line(text),
            _ => {}
        }
    }
}

impl PodmanPush {
    fn line(&self, text: &str) {
        match &self.bars {
            // A terminal that is gone needs no message.
            Some(bars) => drop(bars.all.println(text)),
            None => eprintln!("{text}"),
        }
    }
}

struct DockerPush {
    bars: Option<Bars>,
    layers: Vec<(Digest, String)>,
}

impl DockerPush {
    fn name(&self, digest: &Digest) -> Option<&str> {
        self.layers.iter().find(|(blob, _)| blob == digest).map(|(_, name)| name.as_str())
    }

    fn ended(&self, digest: &Digest, how: &str) {
        let Some(name) = self.name(digest) else { return };
        match &self.bars {
            Some(bars) => bars.with(digest, |bar| bar.finish_with_message(how.to_owned())),
            None => println!("{name}: {how}"),
        }
    }

    fn begun(&self, digest: &Digest, total_bytes: u64) {
        if let (Some(bars), Some(name)) = (&self.bars, self.name(digest)) {
            bars.add(digest, ProgressBar::new(total_bytes), "Pushing");
            bars.with(digest, |bar| bar.set_prefix(name.to_owned()));
        }
    }
}

impl Progress for DockerPush {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { digest, total_bytes, kind: Kind::Layer } => self.begun(digest, total_bytes),
            Event::Advanced { digest, done_bytes } => {
                if let Some(bars) = &self.bars {
                    bars.with(digest, |bar| bar.set_position(done_bytes));
                }
            }
            Event::Exists { digest, kind: Kind::Layer } => {
                self.begun(digest, 0);
                self.ended(digest, "Layer already exists");
            }
            Event::Mounted { digest, from } => self.ended(digest, &format!("Mounted from {from}")),
            Event::Done { digest } => self.ended(digest, "Pushed"),
            Event::Message(text) => match &self.bars {
                Some(bars) => drop(bars.all.println(text)),
                None => eprintln!("{text}"),
            },
            _ => {}
        }
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
