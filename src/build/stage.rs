//! One stage: its instructions in order, each from the cache or done.
//!
//! **Runs in:** a process of the stage's own, single-threaded, on the host; it forks for every piece of work.

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime::userns::Mapping;
use serde::{Deserialize, Serialize};
use storage::build::tree::Tree;
use storage::build::{BuildCache, Key};
use storage::digest::DiffId;
use storage::image::manifest::Descriptor;
use storage::image::{Image, ImageStore};
use storage::layer::{IdPolicy, Staging};
use storage::state::layout::Ownership;
use storage::transport::PullOptions;

use super::config::Config;
use super::containerfile::{self, Containerfile, Instruction, ParseError, Step, Word};
use super::context::Source;
use super::graph::{Graph, Names, Origin};
use super::inside::inside;
use super::options::{Options, Progress};
use super::report::{Event, Reporter};
use crate::commands::{Context, pull};
use crate::error::CommandError;
use crate::role::Persona;

/// A build: what all its stages share, read-only.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    /// The command's.
    pub(crate) context: &'a Context,
    /// What was asked for.
    pub(crate) options: Options,
    /// The Dockerfile.
    pub(crate) file: Containerfile,
    /// What is built.
    pub(crate) graph: Graph,
    /// Arguments before the first FROM, with their values.
    pub(crate) global: BTreeMap<String, String>,
    /// The context.
    pub(crate) source: Source,
    /// Contexts by name that are directories.
    pub(crate) named: BTreeMap<String, Source>,
    /// What was built before.
    pub(crate) cache: BuildCache,
    /// Images.
    pub(crate) store: ImageStore,
    /// The user's ids.
    pub(crate) mapping: Mapping,
}

impl Build<'_> {
    /// How files get their owners.
    pub(crate) fn ids(&self) -> IdPolicy {
        if self.mapping.single.is_some() { IdPolicy::Single } else { IdPolicy::identity() }
    }

    /// The same, as it is written into names.
    pub(crate) fn ownership(&self) -> Ownership {
        self.ids().ownership()
    }

    /// What names mean.
    pub(crate) fn names<'b>(&'b self, lookup: &'b dyn Fn(&str) -> Option<String>) -> Names<'b> {
        Names { file: &self.file, contexts: &self.options.contexts, lookup }
    }

    /// The roots of the trees of a state, topmost first.
    pub(crate) fn roots(&self, state: &State) -> Result<Vec<PathBuf>, CommandError> {
        let ownership = self.ownership();
        let root = |layer: &LayerRef| match layer {
            LayerRef::Stored { diff_id, .. } => Ok(self.context.layout.layer(diff_id, ownership).join("diff")),
            LayerRef::Step(key) => {
                let diff = self.cache.find(key, ownership).and_then(|found| found.diff);
                diff.ok_or_else(|| CommandError::host(format!("build cache: step {} is gone", key.short())))
            }
        };
        state.layers.iter().rev().map(root).collect()
    }

    /// The files of a state.
    pub(crate) fn tree(&self, state: &State) -> Result<Tree, CommandError> {
        Ok(Tree::of_layers(self.roots(state)?, self.ownership()))
    }

    /// An image as a state, pulled and unpacked if need be.
    pub(crate) fn image(&self, name: &str, platform: Option<&str>) -> Result<State, CommandError> {
        let platform = match platform {
            Some(text) => pull::parse_platform(Some(text))?,
            None => self.options.platform.clone(),
        };
        let options = PullOptions { platform, client: self.options.client.clone(), ..PullOptions::default() };
        let quiet = self.options.progress != Progress::Steps;
        let image = pull::ensure(self.context, name, self.options.pull, &options, quiet)?;
        self.unpack(&image)?;
        let bad = |error: serde_json::Error| CommandError::host(format!("image {name}: its configuration: {error}"));
        let sizes = image.layer_sizes.clone().unwrap_or_default();
        let layers = image.layers.iter().enumerate().map(|(at, layer)| LayerRef::Stored {
            blob: Box::new(layer.blob.clone()),
            diff_id: layer.diff_id.clone(),
            size: sizes.get(at).copied(),
        });
        let digest = image.manifest.digest.to_string();
        let full = image.names.first().map_or_else(|| name.to_owned(), ToString::to_string);
        Ok(State {
            layers: layers.collect(),
            config: Config::of_image(&image.raw_config).map_err(bad)?,
            key: self.root_key(&["image", &digest]),
            base: Some((full, digest)),
        })
    }

    fn unpack(&self, image: &Image) -> Result<(), CommandError> {
        let ownership = self.ownership();
        let is_there = |layer: &storage::image::store::Layer| {
            self.context.layout.layer(&layer.diff_id, ownership).join("diff").is_dir()
        };
        if image.layers.iter().all(is_there) {
            return Ok(());
        }
        inside(&self.mapping, || {
            let silent = storage::progress::Silent;
            storage::layer::ensure_unpacked(&self.store, image, &self.ids(), &silent).map_err(CommandError::host)?;
            Ok(())
        })
    }

    /// A key that everything with these ids and this time begins with.
    fn root_key(&self, parts: &[&str]) -> Key {
        let time = self.options.timestamp.map(|time| time.secs.to_string()).unwrap_or_default();
        let ownership = format!("{:?}", self.ownership());
        let all = ["coracle build 1", &ownership, &time].into_iter().chain(parts.iter().copied());
        Key::of(all.map(str::as_bytes))
    }

    /// The state that a stage begins with, or that is copied from.
    pub(crate) fn origin(
        &self,
        origin: &Origin,
        done: &BTreeMap<usize, State>,
        platform: Option<&str>,
    ) -> Result<State, CommandError> {
        match origin {
            Origin::Scratch => {
                let platform = self.options.platform.clone().unwrap_or_else(storage::image::index::Platform::host);
                Ok(State {
                    layers: Vec::new(),
                    config: Config::scratch(&platform),
                    key: self.root_key(&["scratch", &platform.to_string()]),
                    base: None,
                })
            }
            Origin::Stage(index) => {
                let state = done.get(index).cloned();
                state.ok_or_else(|| {
                    CommandError::new(crate::error::Kind::Internal, format!("stage {index} is not built"))
                })
            }
            Origin::Image(name) => self.image(name, platform),
            Origin::Context(name) => {
                let value = self.options.contexts.get(name).map(String::as_str).unwrap_or_default();
                match value.strip_prefix("docker-image://").or(value.strip_prefix("container-image://")) {
                    Some(image) => self.image(image, platform),
                    None => Err(CommandError::user(format!("build context {name}: a directory is no image"))),
                }
            }
        }
    }
}

/// A layer of a state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum LayerRef {
    /// Of an image.
    Stored {
        /// Its blob.
        blob: Box<Descriptor>,
        /// Its tree.
        diff_id: DiffId,
        /// The length of its tar, if known.
        size: Option<u64>,
    },
    /// Of a step.
    Step(Key),
}

/// What a stage has come to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Bottom first.
    pub(crate) layers: Vec<LayerRef>,
    /// What the image is, beside its files.
    pub(crate) config: Config,
    /// What it is known by.
    pub(crate) key: Key,
    /// The image at the bottom: name and digest.
    pub(crate) base: Option<(String, String)>,
}

/// A stage that is being built.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(super) build: &'a Build<'a>,
    pub(super) index: usize,
    pub(super) done: &'a BTreeMap<usize, State>,
    pub(super) report: &'a mut Reporter,
    /// Arguments that were declared, with their values.
    pub(super) args: BTreeMap<String, String>,
    pub(super) state: State,
    number: usize,
    count: usize,
    /// The first change of files tells in the history what was below.
    has_changed: bool,
    platform: Option<String>,
}

/// Where a stage failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The step as written, and its line.
    pub(crate) step: Option<(String, u32)>,
    /// Why.
    pub(crate) error: CommandError,
}

/// Builds one stage.
pub(crate) fn run(
    build: &Build<'_>,
    index: usize,
    done: &BTreeMap<usize, State>,
    report: &mut Reporter,
) -> Result<State, Failure> {
    let begin = |error: CommandError| Failure { step: None, error };
    let stage =
        build.file.stages.get(index).ok_or_else(|| {
            begin(CommandError::new(crate::error::Kind::Internal, format!("there is no stage {index}")))
        })?;
    let escape = build.file.directives.escape;
    let lookup = |name: &str| build.global.get(name).cloned();
    let platform = stage.platform.as_ref().map(|word| word.expand(escape, &lookup)).transpose();
    let platform = platform.map_err(|error| begin(located(error)))?.filter(|text| !text.is_empty());
    let node = build.graph.nodes.iter().find(|node| node.index == index);
    let base = match (&build.options.from, node.map(|node| &node.base)) {
        (Some(from), _) if index == 0 => Origin::Image(from.clone()),
        (_, Some(base)) => base.clone(),
        (_, None) => Origin::Scratch,
    };
    let count = stage.steps.len() + 1;
    let text = match &build.options.from {
        Some(from) if index == 0 => format!("FROM {from}"),
        _ => stage.original.clone(),
    };
    report.tell(&Event::Step { number: 1, count, text: text.clone(), key: String::new() });
    let at = |error: CommandError| Failure { step: Some((text.clone(), stage.span.line)), error };
    let mut state = build.origin(&base, done, platform.as_deref()).map_err(at)?;
    state.config.begin_stage();
    report.tell(&Event::Done { key: None });
    let mut run = Stage {
        build,
        index,
        done,
        report,
        args: BTreeMap::new(),
        state,
        number: 1,
        count,
        has_changed: false,
        platform,
    };
    let triggers = if matches!(base, Origin::Stage(_)) { Vec::new() } else { run.state.config.take_triggers() };
    for trigger in triggers {
        let parsed = containerfile::parse_step(&trigger, escape);
        let step = parsed.map_err(|error| at(CommandError::user(format!("ONBUILD {trigger}: {error}"))))?;
        run.count += 1;
        run.step(&step)?;
    }
    for step in &stage.steps {
        run.step(step)?;
    }
    build.source.keep_hashes(&build.cache);
    Ok(run.state)
}

/// An error of the language, with its place.
pub(super) fn located(error: impl Into<ParseError>) -> CommandError {
    CommandError::user(error.into())
}

impl Stage<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        self.number += 1;
        let event = Event::Step {
            number: self.number,
            count: self.count,
            text: step.original.clone(),
            key: self.state.key.hex().to_owned(),
        };
        self.report.tell(&event);
        let failed = |error| Failure { step: Some((step.original.clone(), step.span.line)), error };
        self.instruction(step).map_err(failed)
    }

    /// The value of a variable: ENV hides ARG.
    pub(super) fn lookup(&self, name: &str) -> Option<String> {
        self.state.config.variable(name).or_else(|| self.args.get(name).cloned())
    }

    /// A word with its variables replaced.
    pub(super) fn expand(&self, word: &Word) -> Result<String, CommandError> {
        word.expand(self.build.file.directives.escape, &|name| self.lookup(name)).map_err(located)
    }

    fn expand_pairs(&self, pairs: &[(Word, Word)]) -> Result<Vec<(String, String)>, CommandError> {
        pairs.iter().map(|(name, value)| Ok((self.expand(name)?, self.expand(value)?))).collect()
    }

    fn instruction(&mut self, step: &Step) -> Result<(), CommandError> {
        match &step.instruction {
            Instruction::Run(run) => return self.run(run),
            Instruction::Copy(copy) => return self.copy(copy, step),
            Instruction::Add(add) => return self.add(add, step),
            Instruction::Arg(args) => {
                for arg in args {
                    self.declare(arg)?;
                }
                // It changes nothing by itself: what uses it does.
                let key = self.state.key.clone();
                self.report.tell(&Event::Done { key: Some(key.hex().to_owned()) });
                if self.build.options.persona == Persona::Docker {
                    let created = self.build.options.now();
                    self.state.config.add_history(&created, &step.original, "buildkit.dockerfile.v0", true);
                }
                return Ok(());
            }
            _ => {}
        }
        let text = self.configure(step)?;
        let key = Key::of([self.state.key.hex().as_bytes(), b"config", text.as_bytes()]);
        if let Instruction::Workdir(_) = step.instruction
            && self.makes_workdir()?
        {
            let workdir = PathBuf::from(self.state.config.workdir());
            let (build, tree) = (self.build, self.build.tree(&self.state)?);
            return self.layer(key, &text, |staging| {
                inside(&build.mapping, || {
                    let ids = build.ids();
                    let mut place =
                        storage::build::copy::Place::open(&staging.diff(), tree, &ids).map_err(CommandError::host)?;
                    let path = place.resolve(&workdir).map_err(CommandError::host)?;
                    place.make_directory(&path).map_err(CommandError::host)?;
                    place.finish().map_err(CommandError::host)
                })
            });
        }
        self.note(key, &text)
    }

    /// Whether the working directory is not there yet.
    fn makes_workdir(&self) -> Result<bool, CommandError> {
        let roots = self.build.roots(&self.state)?;
        if roots.is_empty() {
            return Ok(true);
        }
        let view = storage::layer::view::View::new(&roots);
        // What we may not look into was made by somebody.
        Ok(view.metadata(self.state.config.workdir(), true).is_ok_and(|found| found.is_none()))
    }

    /// Applies an instruction that changes the configuration; says how it reads with its variables replaced.
    fn configure(&mut self, step: &Step) -> Result<String, CommandError> {
        let quoted = |pairs: &[(String, String)]| {
            let one =
                |(name, value): &(String, String)| match value.contains([' ', '"', '\\', '\'']) || value.is_empty() {
                    true => format!("{name}={value:?}"),
                    false => format!("{name}={value}"),
                };
            pairs.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        Ok(match &step.instruction {
            Instruction::Env(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                for (name, value) in &pairs {
                    self.state.config.set_variable(name, value);
                }
                format!("ENV {}", quoted(&pairs))
            }
            Instruction::Label(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                for (name, value) in &pairs {
                    self.state.config.set_label(name, value);
                }
                format!("LABEL {}", quoted(&pairs))
            }
            Instruction::User(word) => {
                let user = self.expand(word)?;
                self.state.config.set_user(&user);
                format!("USER {user}")
            }
            Instruction::Workdir(word) => {
                let asked = self.expand(word)?;
                let path = super::steps::clean(&PathBuf::from(self.state.config.workdir()).join(&asked));
                self.state.config.set_workdir(&path.to_string_lossy());
                format!("WORKDIR {}", path.display())
            }
            Instruction::Expose(words) => {
                let escape = self.build.file.directives.escape;
                let mut ports = Vec::new();
                for word in words {
                    ports.extend(word.expand_words(escape, &|name| self.lookup(name)).map_err(located)?);
                }
                for port in &ports {
                    for port in exposed(port)? {
                        self.state.config.expose(&port);
                    }
                }
                format!("EXPOSE {}", ports.join(" "))
            }
            Instruction::Volume(words) => {
                let paths = words.iter().map(|word| self.expand(word)).collect::<Result<Vec<_>, _>>()?;
                for path in &paths {
                    self.state.config.add_volume(path);
                }
                format!("VOLUME {}", paths.join(" "))
            }
            Instruction::Entrypoint(command) => {
                let words = self.words(command);
                self.state.config.set_entrypoint(&words);
                format!("ENTRYPOINT {}", json(&words))
            }
            Instruction::Cmd(command) => {
                let words = self.words(command);
                self.state.config.set_cmd(&words);
                format!("CMD {}", json(&words))
            }
            Instruction::Shell(words) => {
                self.state.config.set_shell(words);
                format!("SHELL {}", json(words))
            }
            Instruction::StopSignal(word) => {
                let signal = self.expand(word)?;
                crate::cli::parse::words::signal(&signal)
                    .map_err(|_| CommandError::user(format!("invalid signal: {signal}")))?;
                self.state.config.set_stop_signal(&signal);
                format!("STOPSIGNAL {signal}")
            }
            Instruction::Healthcheck(check) => {
                let check = self.healthcheck(check);
                self.state.config.set_healthcheck(check.clone());
                format!("HEALTHCHECK {check}")
            }
            Instruction::OnBuild(trigger) => {
                self.state.config.add_trigger(&trigger.original);
                format!("ONBUILD {}", trigger.original)
            }
            Instruction::Maintainer(name) => {
                self.state.config.set_author(name);
                format!("MAINTAINER {name}")
            }
            Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Arg(_) => {
                step.original.clone()
            }
        })
    }

    fn words(&self, command: &containerfile::Command) -> Vec<String> {
        match command {
            containerfile::Command::Exec(words) => words.clone(),
            containerfile::Command::Shell(line) if line.is_empty() => Vec::new(),
            containerfile::Command::Shell(line) => {
                self.state.config.shell().into_iter().chain([line.clone()]).collect()
            }
        }
    }

    fn healthcheck(&self, check: &containerfile::Healthcheck) -> serde_json::Value {
        use containerfile::{Command, Healthcheck};
        let Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } = check else {
            return serde_json::json!({"Test": ["NONE"]});
        };
        let test = match command {
            Command::Exec(words) => ["CMD".to_owned()].into_iter().chain(words.iter().cloned()).collect::<Vec<_>>(),
            Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        };
        let mut json = serde_json::json!({"Test": test});
        let times = [
            ("Interval", interval),
            ("Timeout", timeout),
            ("StartPeriod", start_period),
            ("StartInterval", start_interval),
        ];
        for (name, time) in times {
            if let Some(time) = time.filter(|time| !time.is_zero()) {
                json[name] = serde_json::json!(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
        }
        if let Some(retries) = retries.filter(|retries| *retries > 0) {
            json["Retries"] = serde_json::json!(retries);
        }
        json
    }

    /// ARG: what was given on the command line, else the default, else what it is before the first FROM.
    fn declare(&mut self, arg: &containerfile::ArgDeclaration) -> Result<(), CommandError> {
        let name = self.expand(&arg.name)?;
        let default = arg.default.as_ref().map(|word| self.expand(word)).transpose()?;
        let given = self.build.options.build_args.get(&name).cloned();
        if given.is_some() {
            self.report.tell(&Event::Used(name.clone()));
        }
        let value = given.or(default).or_else(|| self.build.global.get(&name).cloned());
        let value = value.or_else(|| self.automatic(&name));
        match value {
            Some(value) => self.args.insert(name, value),
            None => self.args.remove(&name),
        };
        Ok(())
    }

    /// `TARGETPLATFORM` and its kin.
    fn automatic(&self, name: &str) -> Option<String> {
        let target = match &self.platform {
            Some(text) => storage::image::index::Platform::parse(text).ok()?,
            None => self.state.config.platform(),
        };
        platform_argument(name, &target)
    }

    /// A step that changes no file.
    pub(super) fn note(&mut self, key: Key, text: &str) -> Result<(), CommandError> {
        let build = self.build;
        let found = self.find(&key);
        let created = match &found {
            Some(found) => found.step.created.clone(),
            None => {
                let created = build.options.now();
                build.cache.keep(&key, None, &created, build.ownership()).map_err(CommandError::host)?;
                created
            }
        };
        self.finish(key, text, &created, found.is_some(), true)
    }

    fn find(&self, key: &Key) -> Option<storage::build::cache::Found> {
        let options = &self.build.options;
        (!options.no_cache && options.layers).then(|| self.build.cache.find(key, self.build.ownership())).flatten()
    }

    /// A step that changes files: `make` fills the tree unless the result is known.
    pub(super) fn layer(
        &mut self,
        key: Key,
        text: &str,
        make: impl FnOnce(&Staging) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let made = match self.is_known(&key) {
            true => None,
            false => {
                let staging = self.build.cache.stage().map_err(CommandError::host)?;
                make(&staging)?;
                Some(staging)
            }
        };
        self.layer_made(key, text, made)
    }

    /// Whether the tree of a step need not be made.
    pub(super) fn is_known(&self, key: &Key) -> bool {
        self.find(key).is_some_and(|found| found.diff.is_some())
    }

    /// A step that changed files; `None` if they were known.
    pub(super) fn layer_made(&mut self, key: Key, text: &str, made: Option<Staging>) -> Result<(), CommandError> {
        let build = self.build;
        let is_cached = made.is_none();
        let created = match made {
            Some(staging) => {
                let created = build.options.now();
                build.cache.keep(&key, Some(staging), &created, build.ownership()).map_err(CommandError::host)?;
                created
            }
            None => self.find(&key).map(|found| found.step.created).unwrap_or_else(|| build.options.now()),
        };
        self.state.layers.push(LayerRef::Step(key.clone()));
        self.finish(key, text, &created, is_cached, false)
    }

    fn finish(
        &mut self,
        key: Key,
        text: &str,
        created: &str,
        is_cached: bool,
        is_empty: bool,
    ) -> Result<(), CommandError> {
        let from = self.state.base.as_ref().map(|(name, _)| format!("FROM {name}"));
        let (created_by, comment) = match self.build.options.persona {
            Persona::Docker => (format!("{text} # buildkit"), "buildkit.dockerfile.v0".to_owned()),
            Persona::Podman => {
                let text = match text.strip_prefix("RUN ") {
                    Some(command) => command.to_owned(),
                    None => format!("/bin/sh -c #(nop) {text}"),
                };
                (text, if self.has_changed { String::new() } else { from.unwrap_or_default() })
            }
        };
        self.has_changed = true;
        let created = match self.build.options.timestamp {
            Some(_) => self.build.options.now(),
            None => created.to_owned(),
        };
        self.state.config.add_history(&created, &created_by, &comment, is_empty);
        self.state.key = key;
        let hex = self.state.key.hex().to_owned();
        if is_cached {
            self.report.tell(&Event::Cached { key: hex.clone() });
        }
        self.report.tell(&Event::Done { key: Some(hex) });
        Ok(())
    }
}

/// The value of an argument that says which machine is built for, or on.
pub(crate) fn platform_argument(name: &str, target: &storage::image::index::Platform) -> Option<String> {
    let host = storage::image::index::Platform::host();
    let (platform, part) = match name.strip_prefix("TARGET") {
        Some(part) => (target, part),
        None => (&host, name.strip_prefix("BUILD")?),
    };
    Some(match part {
        "PLATFORM" => platform.to_string(),
        "OS" => platform.os.clone(),
        "ARCH" => platform.architecture.clone(),
        "VARIANT" => platform.variant.clone().unwrap_or_default(),
        _ => return None,
    })
}

fn json(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}

/// A port or range of EXPOSE as the configuration has it.
fn exposed(text: &str) -> Result<Vec<String>, CommandError> {
    let bad = || CommandError::user(format!("invalid containerPort: {text}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(CommandError::user(format!("invalid proto: {protocol}")));
    }
    // The published side means nothing in an image.
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}
