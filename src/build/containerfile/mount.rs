//! What `RUN --mount` asks for.

use super::error::{ParseError, Span};
use super::word::Word;

/// A `--mount` of RUN as written: its keys are checked, its values may hold variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunMount {
    /// `type`; `bind` if not said.
    pub(crate) kind: MountKind,
    /// `from`: the stage, image or context whose files it shows. Never holds variables.
    pub(crate) from: Option<Word>,
    /// Every option but those two, in order, under its main name; `None` where it stands without a value.
    pub(super) options: Vec<(&'static str, Option<Word>)>,
    /// Where.
    pub(crate) span: Span,
}

/// The type of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file or variable that is never written.
    Secret,
    /// An SSH agent's socket.
    Ssh,
}

/// A `--mount` of RUN with its variables expanded. Paths are as written: relative ones are to be taken from WORKDIR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mount {
    /// `type=bind`.
    Bind {
        /// The path within `from` or the context; its root if empty.
        source: String,
        /// Where it appears.
        target: String,
        /// The stage, image or context.
        from: Option<String>,
        /// `rw`: writes are taken and thrown away.
        writable: bool,
    },
    /// `type=cache`.
    Cache {
        /// What names it; the target if not said.
        id: Option<String>,
        /// Where it appears.
        target: String,
        /// `ro`.
        read_only: bool,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// What it is filled from when it is new.
        from: Option<String>,
        /// The path within `from`.
        source: String,
        /// Of its root directory when it is new; 0755 if not said.
        mode: Option<u32>,
        /// Of its root directory when it is new; 0 if not said.
        uid: Option<u32>,
        /// Of its root directory when it is new; 0 if not said.
        gid: Option<u32>,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// Where it appears.
        target: String,
        /// How much it may hold, in bytes.
        size: Option<u64>,
    },
    /// `type=secret`.
    Secret {
        /// Which one.
        id: String,
        /// The file it appears as: `/run/secrets/ID` if neither this nor `env` is said.
        target: Option<String>,
        /// The variable it appears as.
        env: Option<String>,
        /// Whether it is an error if the build was not given it.
        required: bool,
        /// 0400 if not said.
        mode: Option<u32>,
        /// 0 if not said.
        uid: Option<u32>,
        /// 0 if not said.
        gid: Option<u32>,
    },
    /// `type=ssh`.
    Ssh {
        /// Which agent: `default` if not said.
        id: String,
        /// The socket: `/run/buildkit/ssh_agent.N` if not said.
        target: Option<String>,
        /// Whether it is an error if the build was not given it.
        required: bool,
        /// 0600 if not said.
        mode: Option<u32>,
        /// 0 if not said.
        uid: Option<u32>,
        /// 0 if not said.
        gid: Option<u32>,
    },
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One at a time; the others get a new one.
    Private,
    /// One at a time; the others wait.
    Locked,
}

impl RunMount {
    /// The mount with its variables expanded and every value checked.
    ///
    /// # Errors
    /// A value that is not what its option takes, or an option that its type does not have.
    pub(crate) fn expand(&self, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Mount, ParseError> {
        let _ = (escape, lookup);
        Err(ParseError::new(self.span, "not written yet"))
    }
}
