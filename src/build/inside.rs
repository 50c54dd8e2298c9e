//! Work on files of subordinate ids: in a child that is root of the user's namespace.

use std::cell::OnceCell;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use runtime::userns::{self, Mapping, Namespace, UsernsError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::CommandError;

/// What a child has come to.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer<T> {
    Done(T),
    Failed { message: String, code: u8, hints: Vec<String> },
}

impl<T> Answer<T> {
    pub(super) fn of(result: Result<T, CommandError>) -> Self {
        match result {
            Ok(value) => Answer::Done(value),
            Err(error) => {
                Answer::Failed { message: error.to_string(), code: error.code(), hints: error.hints().to_vec() }
            }
        }
    }

    pub(super) fn into_result(self) -> Result<T, CommandError> {
        match self {
            Answer::Done(value) => Ok(value),
            Answer::Failed { message, code, hints } => {
                Err(hints.into_iter().fold(CommandError::host(message).with_code(code), CommandError::hinted))
            }
        }
    }
}

/// The user namespace of a build: made when the first needs it, then joined by all. Stages have that of the command if it
/// has one when they begin, else the first makes one and the command takes it over.
#[derive(Debug)]
pub(crate) struct Space {
    /// The user's ids.
    pub(crate) mapping: Mapping,
    namespace: OnceCell<Namespace>,
}

impl Space {
    /// That of the calling user; there is nothing yet.
    pub(crate) fn of_user() -> Self {
        Space { mapping: Mapping::of_user(), namespace: OnceCell::new() }
    }

    fn namespace(&self) -> Result<&Namespace, UsernsError> {
        match self.namespace.get() {
            Some(namespace) => Ok(namespace),
            None => {
                let made = Namespace::new(&self.mapping)?;
                Ok(self.namespace.get_or_init(|| made))
            }
        }
    }

    /// A descriptor of its own for a supervisor.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, CommandError> {
        self.namespace()?.as_fd().try_clone_to_owned().map_err(CommandError::host)
    }

    /// By which number this process holds it.
    pub(crate) fn number(&self) -> Option<i32> {
        self.namespace.get().map(|namespace| namespace.as_fd().as_raw_fd())
    }

    /// Takes over what a stage has made. Where that fails, there will be another.
    pub(crate) fn adopt(&self, pid: i32, number: i32) {
        if self.namespace.get().is_none()
            && let Some(namespace) = Namespace::held_by(pid, number)
        {
            let _ = self.namespace.set(namespace);
        }
    }

    /// As [`inside`], in this one.
    pub(crate) fn inside<T: Serialize + DeserializeOwned>(
        &self,
        work: impl FnOnce() -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let namespace = self.namespace()?;
        answered(|work| namespace.start(work), work)
    }
}

/// Runs `work` in such a child, with umask 0, and gives what it returns.
///
/// **Runs in:** a process with one thread.
pub(crate) fn inside<T: Serialize + DeserializeOwned>(
    mapping: &Mapping,
    work: impl FnOnce() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    answered(|work| userns::start_in(mapping, work), work)
}

type Work<'a> = Box<dyn FnOnce() -> i32 + 'a>;

fn answered<'a, T: Serialize + DeserializeOwned + 'a>(
    start: impl FnOnce(Work<'a>) -> Result<OwnedFd, UsernsError>,
    work: impl FnOnce() -> Result<T, CommandError> + 'a,
) -> Result<T, CommandError> {
    let (mut reader, mut writer) = std::io::pipe().map_err(CommandError::host)?;
    let child = start(Box::new(move || {
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let bytes = serde_json::to_vec(&Answer::of(work())).unwrap_or_default();
        // A parent that is gone needs no answer.
        i32::from(writer.write_all(&bytes).is_err())
    }))?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(CommandError::host)?;
    let exit = userns::wait_for(&child)?;
    match serde_json::from_slice::<Answer<T>>(&bytes) {
        Ok(answer) => answer.into_result(),
        Err(_) => Err(CommandError::host(format!("the worker process ended with status {}", exit.code()))),
    }
}
