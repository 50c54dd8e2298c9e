//! What stages tell of their progress: the events between the process of a stage and the command.
//!
//! ```text
//! stage ── one JSON object a line ──▶ command        stage's stdout, stderr ── bytes ──▶ command
//! ```

use std::io::Write;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::debug::Broken;
use super::stage::State;

/// Something that happened in a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A step begins.
    Step {
        /// Its number, from 1; FROM is the first.
        number: usize,
        /// How many there are.
        count: usize,
        /// The instruction.
        text: String,
        /// What it is known by.
        key: String,
    },
    /// The step's result was known.
    Cached {
        /// What it is known by.
        key: String,
    },
    /// The step is done.
    Done {
        /// What it is known by; nothing where there is nothing to show.
        key: Option<String>,
    },
    /// The stage is done.
    Finished(Box<State>),
    /// The stage has failed.
    Failed {
        /// The step as it was written; nothing if none had begun.
        step: Option<String>,
        /// The line it begins at.
        line: u32,
        /// Why.
        message: String,
        /// The exit status that the command has.
        code: u8,
        /// What to do about it.
        hint: Option<String>,
    },
    /// What a step that is going to fail has left, for a shell.
    Broken(Box<Broken>),
    /// Something to be told.
    Warning(String),
    /// The stage holds a user namespace by this number.
    Namespace(i32),
    /// A build argument was used.
    Used(String),
}

/// A stage's end.
#[derive(Debug)]
pub(crate) struct Reporter {
    pipe: std::fs::File,
}

impl Reporter {
    /// Writes to this pipe.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Reporter { pipe: pipe.into() }
    }

    /// Tells something. Without a listener the stage is about to be killed.
    pub(crate) fn tell(&mut self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.pipe.write_all(&line);
        }
    }
}
