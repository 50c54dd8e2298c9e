//! RUN: a container over the trees below, whose upper directory is the step's tree.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use runtime::monitor::attach::{Client, Manners, Outcome};
use storage::build::Key;
use storage::build::stubs::{self, Stub};
use storage::image::index::Platform;
use storage::layer::Staging;
use storage::layer::view::View;
use storage::state::container::{self, Record};
use storage::state::layout::ContainerId;
use storage::state::request::{BindMount, Log, LogDriver, Mount as RequestMount, Request};

use super::super::config::Config;
use super::super::containerfile::{Network, Run, RunForm, Security};
use super::super::debug::Broken;
use super::super::report::Event;
use super::super::stage::{Build, LayerRef, Stage};
use super::mounts::Asked;
use crate::cli::container_options::ContainerOptions;
use crate::commands::create::{self, StepRoot};
use crate::error::{CommandError, reason};
use crate::role::Persona;
use crate::supervisor::secrets::Secrets;
use crate::supervisor::{Birth, FirstClient, network};

/// Arguments that RUN sees without a declaration, and that decide nothing.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// What every container gets, and what an image need not have.
const OWN_PLACES: [&str; 8] =
    ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv", "/run/secrets", "/proc", "/sys", "/dev"];

impl Stage<'_> {
    /// RUN.
    pub(in super::super) fn run(&mut self, run: &Run) -> Result<(), CommandError> {
        if !run.devices.is_empty() {
            return Err(CommandError::user(
                "RUN --device: devices cannot be asked for by a step; see --device of build",
            ));
        }
        if run.security == Security::Insecure {
            return Err(CommandError::user("RUN --security=insecure: steps are always confined"));
        }
        let build = self.build;
        let form = run.form();
        let (args, file) = match &form {
            RunForm::Shell(line) => (self.state.config.shell().into_iter().chain([line.clone()]).collect(), None),
            RunForm::Exec(words) => (words.clone(), None),
            RunForm::File { name, content } => {
                let path = format!("/dev/pipes/{}", name.replace('/', "_"));
                (vec![path.clone()], Some((PathBuf::from(path), content.clone())))
            }
        };
        let asked = self.asked(&run.mounts)?;
        let network = match run.network {
            Network::Default => build.options.network.clone(),
            Network::None => Some("none".to_owned()),
            Network::Host => Some("host".to_owned()),
        };
        let declared: Vec<String> = self
            .args
            .iter()
            .filter(|(name, _)| self.state.config.variable(name).is_none())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut parts: Vec<String> = vec![self.state.key.hex().to_owned(), "run".to_owned()];
        parts.push(serde_json::to_string(&args).unwrap_or_default());
        parts.push(declared.join("\n"));
        parts.push(self.mount_inputs(&asked)?);
        parts.push(format!("{network:?}"));
        parts.push(build.options.run_flags.join("\n"));
        parts.push(file.as_ref().map(|(_, content)| content.clone()).unwrap_or_default());
        let key = Key::of(parts.iter().map(String::as_bytes));
        let command = match &form {
            RunForm::Exec(words) => words.join(" "),
            RunForm::Shell(_) => args.join(" "),
            RunForm::File { content, .. } => content.clone(),
        };
        let text = match (build.options.persona, declared.is_empty()) {
            (Persona::Podman, false) => format!("RUN |{} {} {command}", declared.len(), declared.join(" ")),
            _ => format!("RUN {command}"),
        };
        let mut env = self.state.config.env();
        env.extend(declared);
        env.extend(self.proxies());
        let broken = build.options.debug.then(|| (env.clone(), network.clone()));
        let started = Started { args, env, file, network };
        // Both the closure and the stage's bookkeeping need the stage.
        let this: &Stage<'_> = self;
        let make = |staging: &Staging| this.start(staging, started, asked);
        let state = match this.is_known(&key) {
            true => None,
            false => {
                let staging = build.cache.stage().map_err(CommandError::host)?;
                match (make(&staging), broken) {
                    (Ok(()), _) => Some(staging),
                    (Err(error), None) => return Err(error),
                    (Err(error), Some((env, network))) => {
                        self.keep_broken(&key, staging, env, network)?;
                        return Err(error);
                    }
                }
            }
        };
        self.layer_made(key, &text, state)
    }

    /// Keeps what a failed step had changed, for a shell.
    fn keep_broken(
        &mut self,
        key: &Key,
        staging: Staging,
        env: Vec<String>,
        network: Option<String>,
    ) -> Result<(), CommandError> {
        let build = self.build;
        let key = Key::of([key.hex().as_bytes(), b"failed"]);
        build.cache.keep(&key, Some(staging), &build.options.now(), build.ownership())?;
        let mut state = self.state.clone();
        state.layers.push(LayerRef::Step(key));
        self.report.tell(&Event::Broken(Box::new(Broken { state, env, network })));
        Ok(())
    }

    /// Says so if the image is for another machine, whose programs this one can only run with an emulator.
    fn unless_foreign(&self, error: CommandError) -> CommandError {
        let (platform, host) = (self.state.config.platform(), Platform::host());
        match platform.rank_for(&host) {
            Some(_) => error,
            None => error.hinted(format!(
                "the image is for {platform}, this machine runs {host}: register an emulator with binfmt_misc \
                 (Debian: apt install qemu-user-static)"
            )),
        }
    }

    /// Proxies that were given, by both spellings.
    fn proxies(&self) -> Vec<String> {
        let given = &self.build.options.build_args;
        let is_proxy = |name: &str| PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name));
        given.iter().filter(|(name, _)| is_proxy(name)).map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Runs the step's program.
    fn start(&self, staging: &Staging, started: Started, asked: Vec<Asked<'_>>) -> Result<(), CommandError> {
        let build = self.build;
        let own = staging.tree().parent().map(Path::to_owned).unwrap_or_default();
        let failed = |path: &Path, error: std::io::Error| {
            CommandError::host(format!("create {}: {}", path.display(), reason(&error)))
        };
        let work = own.join("work");
        fs::create_dir(&work).map_err(|error| failed(&work, error))?;
        build.fetch_missing(&self.state)?;
        let mut lowers = build.roots(&self.state)?;
        if lowers.is_empty() {
            let empty = own.join("empty");
            fs::create_dir(&empty).map_err(|error| failed(&empty, error))?;
            lowers.push(empty);
        }
        let mut request = step_request(build, &self.state.config, started.args.clone(), started.network.as_deref())?;
        request.env.clone_from(&started.env);
        let mut made = self.make_mounts(asked, &own)?;
        if let Some((target, content)) = &started.file {
            let path = own.join("script");
            fs::write(&path, content).map_err(|error| failed(&path, error))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|error| failed(&path, error))?;
            let bind = BindMount { source: path, target: target.clone(), read_only: true, ..BindMount::default() };
            made.mounts.push(RequestMount::Bind(bind));
        }
        request.mounts.append(&mut made.mounts);
        request.env.append(&mut made.env);
        let stubs = stubs_of(&lowers, &made.targets, &request);
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
        let secrets = Secrets::given(std::mem::take(&mut made.files), std::mem::take(&mut made.variables));
        let root = StepRoot { lowers, upper: staging.diff(), work, secrets, base: build.space.descriptor()? };
        let needs_leader = network::needs_leader(&record.request);
        let prepared = create::prepare_step(build.context, record, root)?;
        let keys = crate::commands::run::parse_detach_keys(Some(""))?;
        let client = FirstClient { stdin: false, stdout: true, stderr: true, detach_keys: keys, size: None };
        let running = prepared.launch(build.context, Birth::New { name: None }, Some(client))?;
        if needs_leader {
            self.endings.keep_leader(build);
        }
        let (control, supervisor) = running.wait_started().map_err(|error| match error.code() {
            // What cannot be started is the step's failure, not ours.
            126 | 127 => self.unless_foreign(error.with_code(1)),
            _ => error,
        })?;
        let Some(control) = control else {
            return Err(CommandError::new(crate::error::Kind::Internal, "a step without a control channel"));
        };
        let manners = Manners { terminal: None, sig_proxy: false };
        let ended = Client::inherited(control).run(manners, |_, _| {}).map_err(CommandError::host)?;
        // Its mount of the tree is gone; the rest of its end goes on beside the next step.
        self.endings.add(supervisor);
        let code = match ended {
            Outcome::Exited(exit) => exit.code(),
            Outcome::Interrupted(signal) => 128 + signal.number() as u8,
            Outcome::Detached | Outcome::Lost => return Err(CommandError::host("the step's supervisor was killed")),
        };
        if code != 0 {
            return Err(CommandError::user(format!("while running runtime: exit status {code}")).with_code(code));
        }
        if stubs.is_empty() {
            return Ok(());
        }
        build.space.inside(|| stubs::remove(&staging.diff(), &stubs).map_err(CommandError::host))
    }
}

/// The options of `run` that a step has.
pub(crate) fn step_request(
    build: &Build<'_>,
    config: &Config,
    args: Vec<String>,
    network: Option<&str>,
) -> Result<Request, CommandError> {
    use clap::{Args as _, FromArgMatches as _};
    let mut words: Vec<String> = vec!["run".to_owned()];
    words.extend(build.options.run_flags.iter().cloned());
    if let Some(network) = network {
        words.push(format!("--network={network}"));
    }
    words.extend(["step".to_owned(), "true".to_owned()]);
    let command = ContainerOptions::augment_args(clap::Command::new("run").disable_help_flag(true));
    let misparsed = |error: clap::Error| CommandError::user(crate::cli::usage::one_line(&error));
    let matches = command.try_get_matches_from(words).map_err(misparsed)?;
    let options = ContainerOptions::from_arg_matches(&matches).map_err(misparsed)?;
    let asked = create::with_caller(|caller| options.ask(caller, Vec::new()).map_err(CommandError::user))?;
    let mut request = asked.finish(None).map_err(CommandError::user)?;
    request.args = args;
    request.workdir = config.workdir().into();
    request.user = config.user();
    request.remove = true;
    request.accounts.untouched = true;
    request.log = Log { driver: LogDriver::None, ..Log::default() };
    request.healthcheck = None;
    Ok(request)
}

/// What a step's program is started with.
struct Started {
    args: Vec<String>,
    env: Vec<String>,
    /// A script that is not in the image.
    file: Option<(PathBuf, String)>,
    network: Option<String>,
}

/// Places that are mounted over and not there: what is made for them is taken away again.
fn stubs_of(lowers: &[PathBuf], targets: &[PathBuf], request: &Request) -> Vec<Stub> {
    let view = View::new(lowers);
    let mounted = request.mounts.iter().map(|mount| mount.target().clone());
    let all = OWN_PLACES.iter().map(PathBuf::from).chain(targets.iter().cloned()).chain(mounted);
    let mut stubs = Vec::new();
    for target in all {
        let mut path = PathBuf::from("/");
        for part in target.components().skip(1) {
            path.push(part);
            // What we may not look at is there.
            if view.metadata(&path, true).is_ok_and(|found| found.is_none()) {
                stubs.push(Stub { first: path, target: target.clone() });
                break;
            }
        }
    }
    stubs
}
