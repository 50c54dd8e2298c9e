//! `state.json` and `exit`: what a container does, as its supervisor wrote it, and what of that is still true.
//!
//! | | `<runtime>/<id>/state.json` | `containers/<id>/exit` |
//! |---|---|---|
//! | writer | the supervisor, at every transition | the supervisor, at the end; at a second start, opened |
//! | readers | every command | every command |
//! | lock | the container's, held by the writer for life | the same |
//! | durability | none: tmpfs | none: survives a reboot, and a lost one reads as *code unknown* |
//! | version | 1 | 1 |
//!
//! Nobody believes either file without a look at the kernel: [`observe`] asks whether the supervisor's lock is held,
//! whether the pid still is the process it was, and whether the machine was booted since.

mod found;

mod observe;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::atomic::{Durability, WriteError, remove_if_there, write_atomic};
use super::layout::{ContainerId, Layout};
use super::lock::LockError;
use super::version::ReadError;

pub use found::{Address, Health, HealthCheck, HealthStatus, Interface, Network, Port};
pub(crate) use observe::observe_started;
pub use observe::{Observed, lock_at_rest, observe};

/// The newest format of both files this coracle reads, and the one it writes.
pub const VERSION: u32 = 1;

/// The exit code of a container whose end nobody saw.
pub const UNKNOWN_EXIT_CODE: i32 = 255;

/// The first process of a container, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Its pid in the host's pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`. With the pid and the boot id it is
    /// unique.
    pub start_time: u64,
}

impl Init {
    /// Reads the start time of `pid`; `None` if there is no such process.
    ///
    /// # Source
    /// `proc_pid_stat(5)`.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The second field may contain anything, also spaces and parentheses: the last one ends it.
        let rest = stat.get(stat.iter().rposition(|byte| *byte == b')')? + 1..)?;
        let field = std::str::from_utf8(rest).ok()?.split_ascii_whitespace().nth(19)?;
        Some(Self { pid, start_time: field.parse().ok()? })
    }

    /// Whether this very process still exists; a zombie does.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, 128 + n after signal n.
    pub code: i32,
    /// When it ended; unknown when nobody saw it.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Whether the kernel killed it for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// Why it could not be started or is not known to have ended otherwise; empty after an ordinary end.
    #[serde(default)]
    pub error: String,
}

impl Exit {
    fn unknown(error: &str) -> Self {
        Self { code: UNKNOWN_EXIT_CODE, finished_at: None, oom: false, error: error.to_owned() }
    }
}

/// What a container does.
///
/// ```text
///            Spawned            Execed            Frozen
///  Created ──────────▶ Starting ──────▶ Running ◀────────▶ Paused
///                      ▲ ▲  │              │      Thawed     │
///              Spawned │ │  │ Exited       │ Exited          │ Exited
///                      │ │  ▼              ▼                 │
///                      │ Stopped ◀─────────────────────────────┘
///              Spawned │  ▲ Exited
///                  Restarting ◀── Resting ── Running, Paused
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum State {
    /// It exists and has never run.
    Created,
    /// Its first process exists and is not yet what was asked for.
    Starting {
        /// The first process.
        init: Init,
    },
    /// It runs.
    Running {
        /// The first process.
        init: Init,
        /// Since when.
        since: Timestamp,
    },
    /// It runs, frozen.
    Paused {
        /// The first process.
        init: Init,
        /// Since when it runs.
        since: Timestamp,
    },
    /// It has run, and its supervisor is about to start it again.
    Restarting {
        /// How it ended.
        exit: Exit,
    },
    /// It has run.
    Stopped {
        /// How it ended.
        exit: Exit,
    },
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its first process was made.
    Spawned(Init),
    /// Its first process has become what was asked for.
    Execed(Timestamp),
    /// It was frozen.
    Frozen,
    /// It was thawed.
    Thawed,
    /// Its first process ended, or could not be made.
    Exited(Exit),
    /// Its first process ended, and there will be another after a rest.
    Resting(Exit),
}

/// An event that cannot happen in this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a container that is {}", from.as_str())]
pub struct BadTransition {
    from: Box<State>,
    event: Box<Event>,
}

impl State {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`BadTransition`] for every arrow that is not in the diagram.
    pub fn on(self, event: Event) -> Result<Self, BadTransition> {
        use State::{Created, Paused, Restarting, Running, Starting, Stopped};
        Ok(match (self, event) {
            (Created | Stopped { .. } | Restarting { .. }, Event::Spawned(init)) => Starting { init },
            (Starting { init }, Event::Execed(since)) => Running { init, since },
            (Running { init, since }, Event::Frozen) => Paused { init, since },
            (Paused { init, since }, Event::Thawed) => Running { init, since },
            (Starting { .. } | Running { .. } | Paused { .. } | Restarting { .. }, Event::Exited(exit)) => {
                Stopped { exit }
            }
            (Running { .. } | Paused { .. }, Event::Resting(exit)) => Restarting { exit },
            (from, event) => return Err(BadTransition { from: Box::new(from), event: Box::new(event) }),
        })
    }

    /// The word `ps` and `inspect` print.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting { .. } => "initialized",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Restarting { .. } => "restarting",
            Self::Stopped { .. } => "exited",
        }
    }

    /// The first process, while there is one.
    pub fn init(&self) -> Option<Init> {
        match self {
            Self::Starting { init } | Self::Running { init, .. } | Self::Paused { init, .. } => Some(*init),
            Self::Created | Self::Restarting { .. } | Self::Stopped { .. } => None,
        }
    }

    /// Whether there are processes, or will be without anybody's doing.
    pub fn is_alive(&self) -> bool {
        self.init().is_some() || matches!(self, Self::Restarting { .. })
    }

    /// How it ended, if it has for good.
    pub fn exit(&self) -> Option<&Exit> {
        if let Self::Stopped { exit } = self { Some(exit) } else { None }
    }

    /// How it ended last, as long as it does not run.
    pub fn last_exit(&self) -> Option<&Exit> {
        match self {
            Self::Stopped { exit } | Self::Restarting { exit } => Some(exit),
            _ => None,
        }
    }
}

/// What `state.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// The format.
    pub version: u32,
    /// The state, as `status` and what belongs to it.
    #[serde(flatten)]
    pub state: State,
    /// The boot it was written in.
    pub boot_id: String,
    /// The supervisor's pid in the host's pid namespace.
    pub supervisor: i32,
    /// When the container was last started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// The network as it was set up.
    #[serde(default)]
    pub network: Network,
    /// Its health, if it is checked.
    #[serde(default)]
    pub health: Option<Health>,
    /// How often the restart policy has restarted it.
    #[serde(default)]
    pub restarts: u32,
    /// The container's own cgroup, if it has one.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
}

impl StateFile {
    /// The state of a container of this boot that has not begun.
    pub fn new(supervisor: i32) -> Self {
        Self {
            version: VERSION,
            state: State::Created,
            boot_id: boot_id().to_owned(),
            supervisor,
            started_at: None,
            network: Network::default(),
            health: None,
            restarts: 0,
            cgroup: None,
        }
    }

    /// Moves to the next state.
    ///
    /// # Errors
    /// [`BadTransition`]; nothing has moved then.
    pub fn on(&mut self, event: Event) -> Result<(), BadTransition> {
        let now = if let Event::Spawned(_) = event { Some(Timestamp::now()) } else { None };
        self.state = self.state.clone().on(event)?;
        if now.is_some() {
            self.started_at = now;
        }
        if let State::Running { since, .. } = self.state {
            self.started_at = Some(since);
        }
        Ok(())
    }

    /// Writes `state.json`. Only the supervisor does.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, layout: &Layout, id: &ContainerId) -> Result<(), StatusError> {
        let bytes = serde_json::to_vec(self).map_err(StatusError::Serialise)?;
        Ok(write_atomic(&layout.runtime_container(id).join("state.json"), &bytes, Durability::None)?)
    }
}

/// What `exit` holds: the last run of a container, over a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The format.
    pub version: u32,
    /// When the run began.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// How it ended; absent while it has not, as far as this file knows.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// How often the restart policy had restarted it.
    #[serde(default)]
    pub restarts: u32,
    /// Whether a user had it stopped: what `--restart unless-stopped` looks at after a reboot.
    #[serde(default)]
    pub stopped_by_user: bool,
}

impl ExitRecord {
    /// Writes `exit`. Only the supervisor does: without `exit` when it starts a container that existed before (so that
    /// a reboot finds it begun and not ended), with it when the container has ended and is kept.
    ///
    /// # Errors
    /// [`StatusError::Write`].
    pub fn write(
        layout: &Layout,
        id: &ContainerId,
        started_at: Option<Timestamp>,
        exit: Option<&Exit>,
        restarts: u32,
    ) -> Result<(), StatusError> {
        let stopped_by_user = exit.is_some() && is_stop_requested(layout, id);
        let record = Self { version: VERSION, started_at, exit: exit.cloned(), restarts, stopped_by_user };
        let bytes = serde_json::to_vec(&record).map_err(StatusError::Serialise)?;
        Ok(write_atomic(&layout.container(id).join("exit"), &bytes, Durability::None)?)
    }
}

/// What keeps the status of a container from being written or known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// A file is there and cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The lock cannot be asked about.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A state that JSON cannot express.
    #[error("cannot serialise a container's state: {0}")]
    Serialise(serde_json::Error),
}

/// Removes the traces of the last run; the caller holds the container's lock and is about to start it again.
///
/// # Errors
/// [`ReadError::Io`] when `state.json` is there and stays.
pub fn forget_last_run(layout: &Layout, id: &ContainerId) -> Result<(), StatusError> {
    for file in ["state.json", STOP_REQUESTED] {
        let path = layout.runtime_container(id).join(file);
        remove_if_there(&path).map_err(|source| StatusError::Read(ReadError::Io { path, source }))?;
    }
    Ok(())
}

/// An empty file in the runtime directory, made by `stop` and its kin before the signal, looked for by the supervisor's
/// restart policy, removed with the traces of the run.
const STOP_REQUESTED: &str = "stop-requested";

/// Notes that a user wants the container stopped: what ends now shall not be restarted.
///
/// A runtime directory that has gone meanwhile is no failure: its supervisor has ended, and restarts nothing.
///
/// # Errors
/// [`StatusError::Write`].
pub fn request_stop(layout: &Layout, id: &ContainerId) -> Result<(), StatusError> {
    match write_atomic(&layout.runtime_container(id).join(STOP_REQUESTED), b"", Durability::None) {
        Err(error) if error.source_error().kind() == std::io::ErrorKind::NotFound => Ok(()),
        written => Ok(written?),
    }
}

/// Whether a user wants the container stopped.
pub fn is_stop_requested(layout: &Layout, id: &ContainerId) -> bool {
    layout.runtime_container(id).join(STOP_REQUESTED).exists()
}

/// The id of this boot; empty if the kernel does not tell, which then is the same at every call.
pub fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| read_boot_id(Path::new("/proc/sys/kernel/random/boot_id")))
}

fn read_boot_id(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned()).unwrap_or_default()
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
