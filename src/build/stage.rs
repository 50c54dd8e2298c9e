//! One stage: its instructions in order, each from the cache or done.
//!
//! **Runs in:** a process of the stage's own, single-threaded, on the host; it forks for every piece of work.

use std::collections::BTreeMap;
use std::path::PathBuf;

use storage::build::Key;
use storage::layer::Staging;

use super::containerfile::{self, Instruction, ParseError, Step, Word};
use super::endings::Endings;
use super::graph::Origin;
use super::report::{Event, Reporter};
pub(crate) use super::state::{Build, Known, LayerRef, State};
use crate::error::CommandError;
use crate::role::Persona;

/// A stage that is being built.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(super) build: &'a Build<'a>,
    pub(super) index: usize,
    pub(super) done: &'a BTreeMap<usize, State>,
    pub(super) report: &'a mut Reporter,
    pub(super) endings: &'a Endings,
    /// Arguments that were declared, with their values.
    pub(super) args: BTreeMap<String, String>,
    pub(super) state: State,
    number: usize,
    count: usize,
    /// The first change of files tells in the history what was below.
    has_changed: bool,
    /// The command knows of our user namespace.
    has_namespace: bool,
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
    endings: &Endings,
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
        endings,
        args: BTreeMap::new(),
        state,
        number: 1,
        count,
        has_changed: false,
        has_namespace: build.space.number().is_some(),
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

    pub(super) fn expand_pairs(&self, pairs: &[(Word, Word)]) -> Result<Vec<(String, String)>, CommandError> {
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
        let known = self.find(&key);
        if let Instruction::Workdir(_) = step.instruction
            && match known {
                Some(known) => known.has_files,
                None => self.makes_workdir()?,
            }
        {
            let workdir = PathBuf::from(self.state.config.workdir());
            let (build, state) = (self.build, self.state.clone());
            return self.layer(key, &text, |staging| {
                build.fetch_missing(&state)?;
                let tree = build.tree(&state)?;
                build.space.inside(|| {
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
        self.build.fetch_missing(&self.state)?;
        let roots = self.build.roots(&self.state)?;
        if roots.is_empty() {
            return Ok(true);
        }
        let view = storage::layer::view::View::new(&roots);
        // What we may not look into was made by somebody.
        Ok(view.metadata(self.state.config.workdir(), true).is_ok_and(|found| found.is_none()))
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
        let created = found.as_ref().map_or_else(|| build.options.now(), |found| found.created.clone());
        if found.as_ref().is_none_or(|found| !found.is_here) {
            build.cache.keep(&key, None, &created, build.ownership()).map_err(CommandError::host)?;
        }
        self.finish(key, text, &created, found.is_some(), true)
    }

    fn find(&self, key: &Key) -> Option<Known> {
        let options = &self.build.options;
        (!options.no_cache && options.layers).then(|| self.build.known(key)).flatten()
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
        self.find(key).is_some_and(|found| found.has_files)
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
            None => self.find(&key).map(|found| found.created).unwrap_or_else(|| build.options.now()),
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
        if let (false, Some(number)) = (self.has_namespace, self.build.space.number()) {
            self.report.tell(&Event::Namespace(number));
            self.has_namespace = true;
        }
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
