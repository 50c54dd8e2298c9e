//! The instructions as values.

use std::time::Duration;

use super::directive::Directives;
use super::error::{Span, Warning};
use super::heredoc::opening;
use super::mount::RunMount;
use super::word::Word;

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Containerfile {
    /// The comment lines at the top that mean something.
    pub(crate) directives: Directives,
    /// ARGs before the first FROM: FROM lines see them, a stage sees those it declares again.
    pub(crate) global_args: Vec<ArgDeclaration>,
    /// The stages in their order; never empty.
    pub(crate) stages: Vec<Stage>,
    /// What was noticed while reading.
    pub(crate) warnings: Vec<Warning>,
}

/// FROM and what follows until the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    /// The image, an earlier stage's name, or `scratch`.
    pub(crate) image: Word,
    /// `--platform`.
    pub(crate) platform: Option<Word>,
    /// `AS name`, in lower case.
    pub(crate) name: Option<String>,
    /// Where FROM stands.
    pub(crate) span: Span,
    /// FROM as it was written.
    pub(crate) original: String,
    /// What is done to it.
    pub(crate) steps: Vec<Step>,
}

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// From the instruction's name to the end, heredocs included.
    pub(crate) span: Span,
    /// As written, on one line: continuations joined, comments left out, without the bodies of heredocs. What progress
    /// and history show.
    pub(crate) original: String,
    /// What it says.
    pub(crate) instruction: Instruction,
}

/// What a step says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// RUN.
    Run(Run),
    /// COPY.
    Copy(Copy),
    /// ADD.
    Add(Add),
    /// ENV, both forms. All values see the variables as they were before the line.
    Env(Vec<(Word, Word)>),
    /// LABEL.
    Label(Vec<(Word, Word)>),
    /// ARG.
    Arg(Vec<ArgDeclaration>),
    /// USER.
    User(Word),
    /// WORKDIR.
    Workdir(Word),
    /// EXPOSE; each word is split once more after its expansion ([`Word::expand_words`]).
    Expose(Vec<Word>),
    /// VOLUME.
    Volume(Vec<Word>),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// CMD.
    Cmd(Command),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    StopSignal(Word),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// ONBUILD: the trigger parsed; its `original` (with the bodies of heredocs) is what the image's config keeps.
    OnBuild(Box<Step>),
    /// MAINTAINER.
    Maintainer(String),
}

/// What RUN, CMD, ENTRYPOINT and HEALTHCHECK run. Neither form is expanded: the shell does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// A line for the shell; empty where CMD or ENTRYPOINT has no arguments.
    Shell(String),
    /// A program and its arguments; empty for `[]`.
    Exec(Vec<String>),
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The command as its line has it, heredoc words such as `<<EOF` still in it. See [`Run::form`] for what to run.
    pub(crate) command: Command,
    /// `--mount`, in order.
    pub(crate) mounts: Vec<RunMount>,
    /// `--network`.
    pub(crate) network: Network,
    /// `--security`.
    pub(crate) security: Security,
    /// `--device`, as written: `[name=]vendor/class=device[,required]`.
    pub(crate) devices: Vec<Word>,
    /// The heredocs of the line, in order.
    pub(crate) heredocs: Vec<Heredoc>,
}

/// How a RUN is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunForm {
    /// With the shell: SHELL and this as its last argument.
    Shell(String),
    /// As it is.
    Exec(Vec<String>),
    /// The content is a program of its own (it begins with `#!`): to be put into a file of mode 0755 that is not in the
    /// layer (BuildKit mounts it at `/dev/pipes/NAME`), and executed without arguments.
    File {
        /// The heredoc's name, for the file.
        name: String,
        /// The program.
        content: String,
    },
}

impl Run {
    /// What is to be run, heredocs put in their place.
    ///
    /// A heredoc that stands alone is the script itself; a line that uses heredocs goes to the shell with them behind
    /// it, as one writes them there.
    pub(crate) fn form(&self) -> RunForm {
        let line = match &self.command {
            Command::Exec(words) => return RunForm::Exec(words.clone()),
            Command::Shell(line) => line,
        };
        let Some(first) = self.heredocs.first() else { return RunForm::Shell(line.clone()) };
        if opening(line).is_some() {
            let content = first.text();
            return match first.raw.starts_with("#!") {
                true => RunForm::File { name: first.name.clone(), content },
                false => RunForm::Shell(content),
            };
        }
        let bodies: String = self.heredocs.iter().map(|heredoc| format!("\n{}{}", heredoc.raw, heredoc.name)).collect();
        RunForm::Shell(format!("{line}{bodies}"))
    }
}

/// `--network` of RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Network {
    /// The build's.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's; the build must allow it.
    Host,
}

/// `--security` of RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Security {
    /// Confined as any build step.
    #[default]
    Sandbox,
    /// With all capabilities and without filters; the build must allow it.
    Insecure,
}

/// What COPY and ADD have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Transfer {
    /// What is taken, in order; never empty.
    pub(crate) sources: Vec<Source>,
    /// Where to.
    pub(crate) destination: Word,
    /// `--chown`.
    pub(crate) chown: Option<Word>,
    /// `--chmod`: octal or symbolic.
    pub(crate) chmod: Option<Word>,
    /// `--link`.
    pub(crate) link: bool,
    /// `--exclude`, in order.
    pub(crate) excludes: Vec<Word>,
}

/// What COPY or ADD takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A path, a pattern, or with ADD a URL.
    Path(Word),
    /// A file that stands in the Dockerfile: its name is the heredoc's, its mode 0644.
    Heredoc(Heredoc),
}

/// COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Sources, destination and what is changed on the way.
    pub(crate) transfer: Transfer,
    /// `--from`: a stage's name or number, an image, or a build context's name.
    pub(crate) from: Option<Word>,
    /// `--parents`.
    pub(crate) parents: bool,
}

/// ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Add {
    /// Sources, destination and what is changed on the way.
    pub(crate) transfer: Transfer,
    /// `--checksum`.
    pub(crate) checksum: Option<Word>,
    /// `--keep-git-dir`; `None` if not said.
    pub(crate) keep_git_dir: Option<bool>,
    /// `--unpack`; `None`: local archives are, downloaded ones are not.
    pub(crate) unpack: Option<bool>,
}

/// A name of ARG with its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArgDeclaration {
    /// The name, which may hold variables.
    pub(crate) name: Word,
    /// What stands after `=`.
    pub(crate) default: Option<Word>,
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Healthcheck {
    /// `NONE`: the base image's is switched off.
    None,
    /// `CMD`.
    Check {
        /// What is run: `CMD-SHELL` or `CMD` of the image's config.
        command: Command,
        /// `--interval`.
        interval: Option<Duration>,
        /// `--timeout`.
        timeout: Option<Duration>,
        /// `--start-period`.
        start_period: Option<Duration>,
        /// `--start-interval`.
        start_interval: Option<Duration>,
        /// `--retries`.
        retries: Option<u32>,
    },
}

impl Healthcheck {
    /// As `config` of an image has it.
    pub(crate) fn to_config(&self) -> serde_json::Value {
        let Self::Check { command, interval, timeout, start_period, start_interval, retries } = self else {
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
}

/// A document that follows the line of its instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// The word that ends it.
    pub(crate) name: String,
    /// The content as written, each line with its end, tabs not yet removed.
    pub(crate) raw: String,
    /// Whether variables are expanded in COPY and ADD: the word was not quoted.
    pub(crate) expand: bool,
    /// `<<-`: the tabs at the beginning of lines are removed.
    pub(crate) strip_tabs: bool,
    /// The number of the file descriptor before `<<`.
    pub(crate) file_descriptor: u32,
    /// Where the content stands.
    pub(crate) span: Span,
}
