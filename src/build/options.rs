//! What a build was asked for, all defaults resolved.

use std::collections::BTreeMap;
use std::path::PathBuf;

use storage::image::index::Platform;
use storage::layer::tar::Timestamp;
use storage::reference::Reference;
use storage::state::request::PullPolicy;
use storage::transport::commit::Format;
use storage::transport::registry::ClientOptions;

use crate::role::Persona;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Lines as podman has them.
    Steps,
    /// Lines as BuildKit has them.
    Vertices,
    /// BuildKit's picture on a terminal.
    Terminal,
    /// JSON as BuildKit's clients read it.
    RawJson,
    /// Only the result.
    Quiet,
}

/// A secret of the caller's.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// What becomes one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Squash {
    /// Nothing does.
    No,
    /// What the build adds to the image that the stage begins with.
    New,
    /// All layers of the image.
    All,
}

/// Everything that the command line decides.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Whose lines and history are written.
    pub(crate) persona: Persona,
    /// `-t`.
    pub(crate) tags: Vec<Reference>,
    /// `-t` as they were typed.
    pub(crate) typed_tags: Vec<String>,
    /// `--build-arg`.
    pub(crate) build_args: BTreeMap<String, String>,
    /// `--build-context`.
    pub(crate) contexts: BTreeMap<String, String>,
    /// `--target`.
    pub(crate) target: Option<String>,
    /// `--from`.
    pub(crate) from: Option<String>,
    /// All of `--platform`; none is this machine's.
    pub(crate) platforms: Vec<Platform>,
    /// The one that is built for.
    pub(crate) platform: Option<Platform>,
    /// `--debug`.
    pub(crate) debug: bool,
    /// `--no-cache`.
    pub(crate) no_cache: bool,
    /// `--layers`.
    pub(crate) layers: bool,
    /// `--pull`.
    pub(crate) pull: PullPolicy,
    /// Of registries.
    pub(crate) client: ClientOptions,
    /// `--secret`, by id.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// `--ssh`: sockets by id.
    pub(crate) agents: BTreeMap<String, PathBuf>,
    /// Options of `run` that each RUN gets.
    pub(crate) run_flags: Vec<String>,
    /// `--network`.
    pub(crate) network: Option<String>,
    /// `--label`, `--annotation`, `--env`, `--unsetenv`, `--unsetlabel`.
    pub(crate) labels: Vec<(String, String)>,
    /// `--annotation`.
    pub(crate) annotations: BTreeMap<String, String>,
    /// `--env`.
    pub(crate) env: Vec<(String, String)>,
    /// `--unsetenv`.
    pub(crate) unset_env: Vec<String>,
    /// `--unsetlabel`.
    pub(crate) unset_labels: Vec<String>,
    /// `--squash`, `--squash-all`.
    pub(crate) squash: Squash,
    /// `--format`.
    pub(crate) format: Format,
    /// `--timestamp`, or `$SOURCE_DATE_EPOCH`.
    pub(crate) timestamp: Option<Timestamp>,
    /// `--omit-history`.
    pub(crate) omit_history: bool,
    /// `--skip-unused-stages`.
    pub(crate) with_unused: bool,
    /// `--jobs`.
    pub(crate) jobs: usize,
    /// `--cache-to type=inline`: the image says which steps its layers are.
    pub(crate) is_own_cache: bool,
    /// `--progress`, `-q`.
    pub(crate) progress: Progress,
}

impl Options {
    /// The time that is written down: the one that was asked for, or now.
    pub(crate) fn now(&self) -> String {
        match self.timestamp {
            Some(time) => jiff::Timestamp::new(time.secs, 0).unwrap_or_default().to_string(),
            None => jiff::Timestamp::now().to_string(),
        }
    }
}
