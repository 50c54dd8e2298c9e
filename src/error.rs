//! Errors as the user sees them; the only place that knows exit codes.

use std::error::Error;
use std::fmt;

use crate::cli::colour::{self, Colour};

/// A command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: Kind,
    message: String,
    hints: Vec<String>,
    code: Option<u8>,
}

/// Whose turn it is to do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command line asks for what cannot be.
    User,
    /// The host lacks something or refuses.
    Host,
    /// A bug of ours.
    Internal,
}

/// Exit status when coracle itself failed.
pub(crate) const FAILED: u8 = 125;

impl CommandError {
    /// An error that prints as `message`.
    pub(crate) fn new(kind: Kind, message: impl fmt::Display) -> Self {
        CommandError { kind, message: message.to_string(), hints: Vec::new(), code: None }
    }

    /// The command line asks for what cannot be.
    pub(crate) fn user(message: impl fmt::Display) -> Self {
        Self::new(Kind::User, message)
    }

    /// The host lacks something or refuses.
    pub(crate) fn host(message: impl fmt::Display) -> Self {
        Self::new(Kind::Host, message)
    }

    /// An error that has been printed where it happened, in a process of its own.
    pub(crate) fn printed(code: u8) -> Self {
        Self::new(Kind::Host, "").with_code(code)
    }

    /// Whether there is nothing left to say: the command is over, with this exit status.
    pub(crate) fn is_printed(&self) -> bool {
        self.message.is_empty()
    }

    /// Adds a command to run or a file to edit.
    pub(crate) fn hinted(mut self, hint: impl fmt::Display) -> Self {
        self.hints.push(hint.to_string());
        self
    }

    /// Puts what was being done before the message.
    pub(crate) fn while_doing(mut self, what: impl fmt::Display) -> Self {
        if !self.message.is_empty() {
            self.message = format!("{what}: {}", self.message);
        }
        self
    }

    /// Sets the exit status: 126 and 127 of programs that do not start, 1 where podman and docker have that.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = Some(code);
        self
    }

    /// The exit status.
    pub(crate) fn code(&self) -> u8 {
        self.code.unwrap_or(FAILED)
    }

    /// What to do about it.
    pub(crate) fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Prints the error and its hints on stderr.
    pub(crate) fn print(&self) {
        if self.message.is_empty() {
            return;
        }
        let bug = if self.kind == Kind::Internal { " (this is a bug in coracle)" } else { "" };
        // A closed stderr leaves the exit status.
        use std::io::Write;
        let mut stderr = std::io::stderr().lock();
        let is_coloured = colour::of_stderr();
        let heading = Colour::Red.paint("Error:", is_coloured);
        let _ = writeln!(stderr, "{heading} {}{bug}", one_line(&self.message));
        let heading = Colour::Cyan.paint("Hint:", is_coloured);
        for hint in &self.hints {
            let _ = writeln!(stderr, "{heading} {}", one_line(hint));
        }
    }
}

/// An I/O error's reason as messages have it: lower case, without the number.
pub(crate) fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// A message on one line, without control characters: parts of it may come from an image or a registry.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' => out.push_str("; "),
            '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CommandError {}

/// Errors of the libraries: the host's turn unless a command says otherwise.
macro_rules! host_errors {
    ($($type:ty),* $(,)?) => {
        $(impl From<$type> for CommandError {
            fn from(error: $type) -> Self {
                CommandError::host(error)
            }
        })*
    };
}

host_errors!(
    runtime::userns::UsernsError,
    runtime::process::SysError,
    runtime::process::spawn::JoinError,
    storage::state::layout::LayoutError,
    storage::state::atomic::WriteError,
    storage::state::lock::LockError,
    storage::state::version::ReadError,
    storage::volume::VolumeError,
    storage::secret::SecretError,
    storage::state::pod::PodError,
    storage::state::network::NetworkError,
    storage::state::records::RecordsError,
    storage::state::oci::OciError,
    runtime::cgroup::resources::ResourcesError,
    runtime::hooks::HookError,
    storage::state::status::StatusError,
    storage::state::name::NameError,
    storage::state::container::ContainerError,
    storage::state::trash::TrashError,
    storage::state::undo::UndoError,
    storage::image::StoreError,
    storage::prune::SweepError,
    storage::build::BuildError,
);
