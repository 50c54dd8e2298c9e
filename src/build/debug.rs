//! `--debug`: a shell where a step failed, with what the step had changed until then. What is done there is kept nowhere.
//!
//! **Runs in:** the command, after all stages have ended.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use runtime::monitor::attach::Client;
use serde::{Deserialize, Serialize};
use storage::state::container::{self, Record};
use storage::state::layout::ContainerId;

use super::stage::{Build, State};
use super::steps::step_request;
use crate::commands::create::{self, StepRoot};
use crate::commands::run;
use crate::error::{CommandError, Kind, reason};
use crate::supervisor::Birth;
use crate::supervisor::secrets::Secrets;

/// A step that failed, as it was when it did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Broken {
    /// Its files, and the configuration that it began with.
    pub(crate) state: State,
    /// The environment of its program.
    pub(crate) env: Vec<String>,
    /// Its network.
    pub(crate) network: Option<String>,
}

/// Runs the shell of the stage in it, until that ends.
pub(crate) fn shell(build: &Build<'_>, broken: &Broken) -> Result<(), CommandError> {
    let (context, staging) = (build.context, build.cache.stage()?);
    let work = staging.tree().parent().unwrap_or(Path::new("/")).join("work");
    fs::create_dir(&work)
        .map_err(|error| CommandError::host(format!("create {}: {}", work.display(), reason(&error))))?;
    let shell = broken.state.config.shell().into_iter().take(1).collect();
    let mut request = step_request(build, &broken.state.config, shell, broken.network.as_deref())?;
    request.env.clone_from(&broken.env);
    request.stdin_open = true;
    request.tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let record = Record {
        version: container::VERSION,
        id: ContainerId::random(),
        name: String::new(),
        created: jiff::Timestamp::now(),
        image: None,
        driver: String::new(),
        started_at_once: true,
        anonymous_volumes: Vec::new(),
        addresses: std::collections::BTreeMap::new(),
        request,
    };
    eprintln!("A shell in the failed step's file system; `exit` ends it. What is changed here is kept nowhere.");
    build.fetch_missing(&broken.state)?;
    let secrets = Secrets::given(Vec::new(), Vec::new());
    let root = StepRoot {
        lowers: build.roots(&broken.state)?,
        upper: staging.diff(),
        work,
        secrets,
        base: build.space.descriptor()?,
    };
    let client = run::first_client(context, &record, run::parse_detach_keys(Some(""))?)?;
    let raw = run::enter_raw_mode(&record, &client)?;
    let prepared = create::prepare_step(context, record.clone(), root)?;
    let running = prepared.launch(context, Birth::New { name: None }, Some(client))?;
    let (control, supervisor) = running.wait_started()?;
    let control = control.ok_or_else(|| CommandError::new(Kind::Internal, "a shell without a control channel"))?;
    let ended = run::stay(Client::inherited(control), &record, true);
    drop(raw);
    let _ = runtime::process::wait(std::os::fd::AsFd::as_fd(&supervisor), true);
    ended.map(drop)
}
