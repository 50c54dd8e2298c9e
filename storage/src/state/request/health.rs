//! The health checks of a [`Request`](super::Request).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the container's health is found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", "…"]` or `["NONE"]`.
    pub test: Vec<String>,
    /// Time between two checks.
    pub interval: Option<Duration>,
    /// Time after which one check has failed.
    pub timeout: Option<Duration>,
    /// Time during which failures do not count.
    pub start_period: Option<Duration>,
    /// Time between two checks during the start period.
    pub start_interval: Option<Duration>,
    /// Consecutive failures that make it unhealthy.
    pub retries: Option<u32>,
    /// What happens when it is unhealthy.
    pub on_failure: HealthAction,
    /// How many results are kept; 0 for all.
    pub max_log_count: Option<u32>,
    /// How many bytes of output of one check are kept; 0 for all.
    pub max_log_size: Option<u32>,
    /// Where results are kept besides.
    #[serde(default)]
    pub log: HealthLog,
    /// What is checked first, until it succeeds.
    #[serde(default)]
    pub startup: Option<StartupCheck>,
}

/// The check of a container that starts: until it has succeeded, the other one is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartupCheck {
    /// `["CMD", …]` or `["CMD-SHELL", "…"]`.
    pub test: Vec<String>,
    /// Time between two checks.
    pub interval: Option<Duration>,
    /// Time after which one check has failed.
    pub timeout: Option<Duration>,
    /// Failures after which the container is restarted; never when absent or 0.
    pub retries: Option<u32>,
    /// Successes in a row that it takes; 0 is 1.
    pub successes: Option<u32>,
}

/// Where results of health checks are kept besides the container's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthLog {
    /// Nowhere.
    #[default]
    Local,
    /// With the events.
    Events,
    /// In `<id>-healthcheck.log` in this directory.
    Directory(PathBuf),
}

impl Healthcheck {
    /// Whether there is a command at all.
    pub fn is_on(&self) -> bool {
        self.test.first().is_some_and(|first| first != "NONE")
    }
}

/// What happens to a container that is unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum HealthAction {
    #[default]
    None,
    Kill,
    Restart,
    Stop,
}

impl HealthAction {
    /// The word of `--health-on-failure`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }
}
