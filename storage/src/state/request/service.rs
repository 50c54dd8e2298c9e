//! How a container gets on with systemd: inside it, and round it.

use serde::{Deserialize, Serialize};

/// What a container has to do with systemd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its program is systemd, and finds what that needs.
    pub systemd: bool,
    /// Size in bytes of each temporary file system that systemd finds.
    pub systemd_tmpfs_bytes: Option<u64>,
    /// Who tells the service manager of whoever starts it that it is ready.
    pub notify: Notify,
}

/// Who tells `$NOTIFY_SOCKET` that a container is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notify {
    /// Its program.
    #[default]
    Container,
    /// Its supervisor, as soon as the program runs.
    Conmon,
    /// Its supervisor, when it is healthy.
    Healthy,
    /// Nobody.
    Ignore,
}

impl Notify {
    /// The word of `--sdnotify`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Conmon => "conmon",
            Self::Healthy => "healthy",
            Self::Ignore => "ignore",
        }
    }
}
