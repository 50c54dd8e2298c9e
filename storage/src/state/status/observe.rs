//! What a container really does: the files, and what the kernel says of them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::found::{Health, Network};
use super::{Exit, ExitRecord, Init, State, StateFile, StatusError, VERSION, boot_id};
use crate::state::container::{ContainerError, Record, load, lock, remove_runtime};
use crate::state::layout::{ContainerId, Layout};
use crate::state::lock::FileLock;
use crate::state::version;

/// What a container really does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The state.
    pub state: State,
    /// The supervisor's pid, while it lives.
    pub supervisor: Option<i32>,
    /// When it was last started.
    pub started_at: Option<Timestamp>,
    /// The network, while it runs.
    pub network: Network,
    /// Its health, if it is checked.
    pub health: Option<Health>,
    /// How often the restart policy has restarted it.
    pub restarts: u32,
    /// Whether it does not run because a user had it stopped.
    pub stopped_by_user: bool,
    /// The container's own cgroup, while it runs and has one.
    pub cgroup: Option<PathBuf>,
}

/// What the files and the kernel say, before anything is concluded.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub(super) lock_held: bool,
    pub(super) state: Option<StateFile>,
    pub(super) exit: Option<ExitRecord>,
    pub(super) same_boot: bool,
    pub(super) init_alive: bool,
    pub(super) started_at_once: bool,
}

/// Finds out what a container does. Takes no lock.
///
/// ```text
/// supervisor's lock held ─▶ what state.json says; nothing yet means created
/// lock free ─▶ the exit record's end, else state.json's end,
///              else it runs if state.json is of this boot and names a process that still exists (its supervisor was
///              killed an instant ago), else it has ended with an unknown code,
///              else, without any trace of a run, it is created
/// ```
///
/// # Errors
/// [`StatusError`] when a file is there and cannot be used.
pub fn observe(layout: &Layout, record: &Record) -> Result<Observed, StatusError> {
    observe_started(layout, &record.id, record.started_at_once)
}

/// As [`observe`], of a container of which only this is known.
pub(crate) fn observe_started(
    layout: &Layout,
    id: &ContainerId,
    started_at_once: bool,
) -> Result<Observed, StatusError> {
    let lock_path = layout.container_lock(id);
    let state_path = layout.runtime_container(id).join("state.json");
    // The lock first: what is read after a held lock may be newer, never staler. A supervisor that ends between the
    // two has written its last state before it let go, so a state that still runs is looked at once more.
    let mut lock_held = FileLock::is_held(&lock_path)?;
    let mut state: Option<StateFile> = version::read(&state_path, VERSION)?;
    if !lock_held && state.as_ref().is_some_and(|state| state.state.is_alive()) {
        lock_held = FileLock::is_held(&lock_path)?;
        state = version::read(&state_path, VERSION)?;
    }
    // A supervisor that still clears up has written how the run ended.
    let has_ended = state.as_ref().is_some_and(|state| state.state.exit().is_some());
    let exit: Option<ExitRecord> = match lock_held && !has_ended {
        true => None,
        false => version::read(&layout.container(id).join("exit"), VERSION)?,
    };
    let same_boot = state.as_ref().is_some_and(|state| state.boot_id == boot_id());
    let init = state.as_ref().and_then(|state| state.state.init());
    let init_alive = !lock_held && same_boot && init.is_some_and(Init::is_alive);
    let stopped_by_user = exit.as_ref().is_some_and(|exit| exit.stopped_by_user);
    let mut observed = conclude(Evidence { lock_held, state, exit, same_boot, init_alive, started_at_once });
    observed.stopped_by_user = stopped_by_user && !observed.state.is_alive();
    Ok(observed)
}

pub(super) fn conclude(evidence: Evidence) -> Observed {
    let Evidence { lock_held, state: file, exit: record, same_boot, init_alive, started_at_once } = evidence;
    let file = file.filter(|_| same_boot || !lock_held);
    if lock_held {
        // The lock says that a process of this boot works on it; a file of another boot says nothing.
        return match file {
            Some(file) => Observed {
                state: file.state,
                supervisor: Some(file.supervisor),
                started_at: file.started_at,
                network: file.network,
                health: file.health,
                restarts: file.restarts,
                stopped_by_user: false,
                cgroup: file.cgroup,
            },
            None => Observed::at_rest(State::Created, None, 0),
        };
    }
    // Whichever of the two files belongs to the later run counts; both are written by the same supervisor, and the
    // state on tmpfs is the first to know of a start.
    let later_file = file.as_ref().filter(|file| {
        same_boot && record.as_ref().is_none_or(|record| file.started_at > record.started_at || record.exit.is_none())
    });
    if let Some(file) = later_file {
        return match &file.state {
            State::Created if record.is_none() && !started_at_once => Observed::at_rest(State::Created, None, 0),
            // One that was killed while it rested starts nothing any more.
            State::Stopped { exit } | State::Restarting { exit } => {
                let stopped = State::Stopped { exit: exit.clone() };
                let mut observed = Observed::at_rest(stopped, file.started_at, file.restarts);
                observed.health = file.health.clone();
                observed
            }
            _ if init_alive => Observed {
                state: file.state.clone(),
                supervisor: None,
                started_at: file.started_at,
                network: file.network.clone(),
                health: file.health.clone(),
                restarts: file.restarts,
                stopped_by_user: false,
                cgroup: file.cgroup.clone(),
            },
            _ => {
                let exit = Exit::unknown("the supervisor was killed: exit code unknown");
                Observed::at_rest(State::Stopped { exit }, file.started_at, file.restarts)
            }
        };
    }
    match (record, file) {
        (Some(ExitRecord { exit: Some(exit), started_at, restarts, .. }), _) => {
            Observed::at_rest(State::Stopped { exit }, started_at, restarts)
        }
        (Some(ExitRecord { exit: None, started_at, restarts, .. }), _) => {
            let exit = Exit::unknown("the system went down while it ran: exit code unknown");
            Observed::at_rest(State::Stopped { exit }, started_at, restarts)
        }
        // A runtime directory that is not on tmpfs and outlived a boot.
        (None, Some(file)) if file.state != State::Created || started_at_once => match file.state {
            State::Stopped { exit } | State::Restarting { exit } => {
                Observed::at_rest(State::Stopped { exit }, file.started_at, file.restarts)
            }
            _ => {
                let exit = Exit::unknown("the system went down while it ran: exit code unknown");
                Observed::at_rest(State::Stopped { exit }, file.started_at, file.restarts)
            }
        },
        (None, _) if started_at_once => {
            let exit = Exit::unknown("the system went down while it ran: exit code unknown");
            Observed::at_rest(State::Stopped { exit }, None, 0)
        }
        (None, _) => Observed::at_rest(State::Created, None, 0),
    }
}

impl Observed {
    pub(crate) fn at_rest(state: State, started_at: Option<Timestamp>, restarts: u32) -> Self {
        let network = Network::default();
        Self {
            state,
            supervisor: None,
            started_at,
            network,
            health: None,
            restarts,
            stopped_by_user: false,
            cgroup: None,
        }
    }
}

/// How long a supervisor may take to clear up after its container: longer than slow readers of the last output get.
const CLEARING_UP: Duration = Duration::from_secs(15);

/// Takes the lock of a container that does not run. A supervisor that is still clearing up after it is waited for.
///
/// # Errors
/// [`ContainerError::Busy`] if it runs or is being started; [`ContainerError::NotFound`] if it vanishes meanwhile.
pub fn lock_at_rest(layout: &Layout, record: &Record) -> Result<FileLock, ContainerError> {
    let deadline = Instant::now() + CLEARING_UP;
    let mut pause = Duration::from_millis(1);
    loop {
        if load(layout, &record.id)?.is_none() {
            return Err(ContainerError::NotFound(record.id.to_string()));
        }
        match lock(layout, &record.id) {
            Ok(lock) if load(layout, &record.id)?.is_some() => return Ok(lock),
            // Its supervisor has removed it; what we have locked is in a directory that we have made.
            Ok(_lock) => remove_runtime(layout, &record.id)?,
            Err(ContainerError::Lock(error)) if error.is_not_found() => {}
            Err(ContainerError::Busy(id)) => {
                let state = observe(layout, record).map_err(ContainerError::Status)?.state;
                if state.exit().is_none() || Instant::now() > deadline {
                    return Err(ContainerError::Busy(id));
                }
                // The one wait that looks again and again: a wait for the lock itself could not be given up when
                // somebody else starts the container first, and supervisors in other pid namespaces wait here as well,
                // to which the pid of the other means nothing.
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}
