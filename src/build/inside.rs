//! Work on files of subordinate ids: in a child that is root of the user's namespace.

use std::io::{Read, Write};

use runtime::userns::{self, Mapping};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::CommandError;

#[derive(Serialize, Deserialize)]
enum Answer<T> {
    Done(T),
    Failed { message: String, code: u8 },
}

/// Runs `work` in such a child, with umask 0, and gives what it returns.
///
/// **Runs in:** a process with one thread.
pub(crate) fn inside<T: Serialize + DeserializeOwned>(
    mapping: &Mapping,
    work: impl FnOnce() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let (mut reader, mut writer) = std::io::pipe().map_err(CommandError::host)?;
    let child = userns::start_in(mapping, || {
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let answer = match work() {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Failed { message: error.to_string(), code: error.code() },
        };
        let bytes = serde_json::to_vec(&answer).unwrap_or_default();
        // A parent that is gone needs no answer.
        i32::from(writer.write_all(&bytes).is_err())
    })?;
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(CommandError::host)?;
    let exit = userns::wait_for(&child)?;
    match serde_json::from_slice(&bytes) {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Failed { message, code }) => Err(CommandError::host(message).with_code(code)),
        Err(_) => Err(CommandError::host(format!("the worker process ended with status {}", exit.code()))),
    }
}
