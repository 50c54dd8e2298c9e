//! Where errors go: standard error, or the file that `--log` names, whose reader wants a line of JSON.

use std::fs::File;
use std::io::Write;
use std::str::FromStr;

use jiff::Timestamp;

use super::Globals;
use crate::error::{CommandError, reason};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        match text {
            "debug" | "trace" => Ok(Level::Debug),
            "info" => Ok(Level::Info),
            "warning" | "warn" => Ok(Level::Warning),
            "error" | "fatal" | "panic" => Ok(Level::Error),
            _ => Err("must be error, warning, info or debug".to_owned()),
        }
    }
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    is_json: bool,
    least: Level,
}

impl Log {
    /// Opens it.
    pub(super) fn open(globals: &Globals) -> Result<Log, CommandError> {
        let name = globals.log.as_deref().filter(|name| !name.is_empty());
        let name = name.map(|name| name.strip_prefix("file:").unwrap_or(name));
        if let Some(name) = name.filter(|name| name.starts_with("journald:") || name.starts_with("syslog:")) {
            return Err(CommandError::user(format_args!("--log {name}: the log is a file or standard error")));
        }
        let open = |name: &str| {
            let file = File::options().append(true).create(true).open(name);
            file.map_err(|error| CommandError::user(format_args!("--log {name}: {}", reason(&error))))
        };
        Ok(Log {
            file: name.map(open).transpose()?,
            is_json: globals.log_format == "json",
            least: if globals.debug { Level::Debug } else { globals.log_level },
        })
    }

    /// Writes one line, if it matters enough.
    pub(super) fn line(&self, level: Level, message: impl std::fmt::Display) {
        if level < self.least {
            return;
        }
        let (message, time) = (message.to_string(), Timestamp::now());
        let line = if self.is_json {
            serde_json::json!({ "msg": message, "level": level.name(), "time": time.to_string() }).to_string()
        } else {
            format!("time={:?} level={} msg={message:?}", time.to_string(), level.name())
        };
        // Nobody can be told that the log cannot be written.
        let _ = match &self.file {
            Some(file) => writeln!(&mut &*file, "{line}"),
            None => writeln!(std::io::stderr(), "{line}"),
        };
    }

    /// Writes what a command failed with; what is returned is for standard error, if that is still to be said there.
    pub(super) fn failed(&self, error: CommandError) -> CommandError {
        let code = match error.code() {
            crate::error::FAILED => 1,
            code => code,
        };
        if error.is_printed() {
            return error.with_code(code);
        }
        if self.file.is_none() && !self.is_json {
            return error.with_code(code);
        }
        self.line(Level::Error, &error);
        CommandError::printed(code)
    }
}
