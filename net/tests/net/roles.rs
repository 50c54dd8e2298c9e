//! What a container of these tests can be told to do.

use crate::fixture::ip;

/// Obeys one command and returns the answer, one line.
pub(crate) fn obey(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["ip", ..] => ip(&command[3..]).map_or_else(|e| e, |out| out.replace('\n', " ")),
        ["read", path] => std::fs::read_to_string(path).map_or_else(|e| e.to_string(), |t| t.trim().to_owned()),
        _ => panic!("unknown command {command:?}"),
    }
}
