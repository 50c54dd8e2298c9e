//! `coracle build`: an image from a Dockerfile and a context.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use runtime::userns::Mapping;
use storage::build::BuildCache;
use storage::image::ImageStore;
use storage::image::index::Platform;
use storage::layer::tar::Timestamp;
use storage::state::request::PullPolicy;
use storage::transport::commit::Format;

use super::{Context, Outcome, pull};
use crate::build::check::{self, Surroundings};
use crate::build::containerfile::{self, Containerfile, ParseError};
use crate::build::context::Source;
use crate::build::graph::Names;
use crate::build::ignore::Ignore;
use crate::build::options::{Options, Progress, Secret, Squash};
use crate::build::output::Output;
use crate::build::remote::Remote;
use crate::build::schedule::{self, Failed, Stopped};
use crate::build::screen::Screen;
use crate::build::stage::{Build, platform_argument};
use crate::build::{finish, tidy};
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::{NotOfBuild, OfBuild};
use crate::cli::options::platform::PlatformOptions;
use crate::cli::output;
use crate::cli::parse::words;
use crate::cli::usage::one;
use crate::error::{CommandError, reason};
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle build -t app:1 .
  coracle build -f docker/Dockerfile --target test --build-arg VERSION=2 .
  coracle build --secret id=token,src=token.txt -t app .
  coracle build -t tool - < Dockerfile"#;

/// Build an image using instructions from Containerfiles
///
/// Builds an image from a Containerfile (or Dockerfile) and a context, the directory whose files it may copy. What was built before and has not changed is not built again.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name of the image (can be repeated)
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<String>,
    /// Containerfile; - reads it from stdin
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,
    /// Set a build argument; without a value it is that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// File with build arguments, one a line
    #[arg(long, value_name = "FILE")]
    build_arg_file: Vec<PathBuf>,
    /// Another context: a directory or an image
    #[arg(long, value_name = "NAME=VALUE")]
    build_context: Vec<String>,
    /// Build this stage instead of the last one
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Image to begin with instead of that of the first FROM
    #[arg(long, value_name = "IMAGE")]
    from: Option<String>,
    /// Do not use what was built before
    #[arg(long)]
    no_cache: bool,
    /// Keep the result of each step for later builds
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    layers: bool,
    /// When to pull base images: always, missing, never or newer
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pull: Option<String>,
    /// Secret that steps may ask for: id=ID[,src=FILE|,env=VARIABLE]
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// SSH agent that steps may ask for: default or ID[=SOCKET]
    #[arg(long, value_name = "AGENT")]
    ssh: Vec<String>,
    /// Set a label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Set an annotation of the image
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Set an environment variable of the image
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Take an environment variable away
    #[arg(long, value_name = "NAME")]
    unsetenv: Vec<String>,
    /// Take a label away
    #[arg(long, value_name = "NAME")]
    unsetlabel: Vec<String>,
    /// File to write the image ID to
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// File to write what was built to, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Check the Containerfile, and build nothing
    #[arg(long)]
    check: bool,
    /// Where the result goes: a directory, - for an archive of its files, or type=TYPE,dest=PATH (can be repeated)
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<String>,
    /// Make all layers one
    #[arg(long)]
    squash_all: bool,
    /// Format of the image's documents, oci or docker
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Time that files and history of the image have at most, in seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,
    /// Leave the history out
    #[arg(long)]
    omit_history: bool,
    /// Leave out stages that the target does not need
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    skip_unused_stages: bool,
    /// How many stages are built at the same time, 0 for as many as there are
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print nothing but the image ID
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown: auto, plain, tty, quiet or rawjson
    #[arg(long, value_name = "FORM")]
    progress: Option<String>,
    /// File that progress is written to instead
    #[arg(long, value_name = "FILE")]
    logfile: Option<PathBuf>,
    /// File that says what is left out of the context
    #[arg(long, value_name = "FILE")]
    ignorefile: Option<PathBuf>,
    /// Network of the steps
    #[arg(long, alias = "net", value_name = "MODE")]
    network: Option<String>,
    #[command(flatten)]
    steps: StepOptions,
    #[command(flatten)]
    platform: PlatformOptions,
    #[command(flatten)]
    registry: pull::RegistryArgs,
    #[command(flatten)]
    accepted: Accepted<OfBuild>,
    #[command(flatten)]
    refused: Accepted<NotOfBuild>,
    /// The context: a directory, or - for a Containerfile or an archive on stdin
    #[arg(value_name = "CONTEXT")]
    context: Option<String>,
}

/// Options of `run` that steps have.
#[derive(clap::Args, Debug)]
struct StepOptions {
    /// Add a line to the hosts file of steps
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// cgroup namespace of steps
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// Length of the CPU accounting period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<String>,
    /// CPU time per period in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Relative weight of CPU time
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    cpu_shares: Option<String>,
    /// CPUs to run on
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,
    /// Give steps a device of the host
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// DNS server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// DNS option
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Add a supplementary group
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Hand on the proxy variables of the caller
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    http_proxy: Option<String>,
    /// IPC namespace of steps
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Limit of memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Leave the hostname file of the image alone
    #[arg(long)]
    no_hostname: bool,
    /// Leave the hosts file of the image alone
    #[arg(long)]
    no_hosts: bool,
    /// PID namespace of steps
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Security option
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Limit of a resource
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// UTS namespace of steps
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Mount a directory of the host into steps
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    volume: Vec<String>,
}

impl StepOptions {
    /// As a command line of `run`.
    fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let many = [
            ("add-host", &self.add_host),
            ("cap-add", &self.cap_add),
            ("cap-drop", &self.cap_drop),
            ("device", &self.device),
            ("dns", &self.dns),
            ("dns-option", &self.dns_option),
            ("dns-search", &self.dns_search),
            ("group-add", &self.group_add),
            ("security-opt", &self.security_opt),
            ("ulimit", &self.ulimit),
            ("volume", &self.volume),
        ];
        let single = [
            ("cgroupns", &self.cgroupns),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpu-shares", &self.cpu_shares),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
            ("http-proxy", &self.http_proxy),
            ("ipc", &self.ipc),
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("pid", &self.pid),
            ("shm-size", &self.shm_size),
            ("uts", &self.uts),
        ];
        for (name, values) in many {
            flags.extend(values.iter().map(|value| format!("--{name}={value}")));
        }
        for (name, value) in single {
            flags.extend(value.iter().map(|value| format!("--{name}={value}")));
        }
        for (name, is_on) in [("no-hostname", self.no_hostname), ("no-hosts", self.no_hosts)] {
            flags.extend(is_on.then(|| format!("--{name}")));
        }
        flags
    }
}

/// Runs `build`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.refused.refuse()?;
    args.accepted.warn();
    let options = options(&args, context)?;
    let cache = BuildCache::open(&context.layout);
    let held = cache.hold()?;
    let built = build(&args, context, options, &cache);
    tidy::sweep(&cache);
    drop(held);
    built
}

fn build(args: &Args, context: &Context, mut options: Options, cache: &BuildCache) -> Outcome {
    let places = places(args, cache)?;
    let sources: Vec<&[u8]> = places.files.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let file = containerfile::parse_all(&sources).map_err(|error| misread(&error, &places.files))?;
    let source = Source::open(&places.directory, ignore(args, &places)?)?;
    let build_args: Vec<String> = options.build_args.keys().cloned().collect();
    let around = Surroundings { ignore: Some(&source.ignore), build_args: &build_args };
    let (warnings, lint) = check::check(&file, &around).map_err(|error| misread(&error, &places.files))?;
    if args.check {
        output::print(&check::report(&warnings, &places.files))?;
        return Ok(u8::from(!warnings.is_empty()));
    }
    if lint.is_error && !warnings.is_empty() {
        eprint!("{}", check::report(&warnings, &places.files));
        return Err(CommandError::user("the Containerfile asks for no warnings, and there are some")
            .hinted("its line \"# check=error=true\" asks for that"));
    }
    let outputs = args
        .output
        .iter()
        .map(|text| Output::parse(text).map_err(|why| CommandError::user(format!("--output {text}: {why}"))));
    let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    let is_on_stdout = outputs.iter().any(Output::is_on_stdout);
    if is_on_stdout {
        options.progress = Progress::Quiet;
    }
    for output in &outputs {
        if let Output::Image { name: Some(name) } = output {
            options.tags.push(super::tag::local_name(name)?);
            options.typed_tags.push(name.clone());
        }
    }
    let mut named = BTreeMap::new();
    // Gone when the build is over.
    let mut fetched = Vec::new();
    for (name, value) in &options.contexts {
        if is_remote(value)? {
            let staging = cache.stage()?;
            let (directory, file) = tidy::fetch_context(value, &staging)?;
            if file.is_some() {
                return Err(CommandError::user(format!("--build-context {name}: expected an archive or a repository")));
            }
            named.insert(name.clone(), Source::open(&directory, Ignore::default())?);
            fetched.push(staging);
        } else if !value.contains("://") {
            named.insert(name.clone(), Source::open(Path::new(value), Ignore::default())?);
        }
    }
    let global = global(&file, &options)?;
    let lookup = |name: &str| global.get(name).cloned();
    let names = Names { file: &file, contexts: &options.contexts, lookup: &lookup };
    let graph = names.graph(options.target.as_deref(), options.with_unused);
    let graph = graph.map_err(|error| misread(&error, &places.files))?;
    let log = match &args.logfile {
        None => None,
        Some(path) => {
            let file = fs::File::options().create(true).append(true).open(path);
            Some(file.map_err(|error| CommandError::user(format!("--logfile {}: {}", path.display(), reason(&error))))?)
        }
    };
    let mut screen = Screen::new(options.progress, &file, &graph, log);
    let store = ImageStore::open(&context.layout);
    // What a stage needs stays from now on.
    let _pin = store.pin()?;
    let mut build = Build {
        context,
        options,
        file,
        graph,
        global,
        source,
        named,
        cache: cache.clone(),
        store,
        mapping: Mapping::of_user(),
    };
    let built = match schedule::run(&build, &mut screen) {
        Ok(built) => built,
        Err(Stopped::Error(error)) => {
            tidy::after_interruption(context);
            return Err(error);
        }
        Err(Stopped::Failed(failed)) => {
            tidy::after_interruption(context);
            return Err(explain(context, &screen, failed, &places.files));
        }
    };
    warn_of_unused(&build, &built.used);
    let state = built.states.get(&build.graph.target).cloned();
    let state = state.ok_or_else(|| CommandError::new(crate::error::Kind::Internal, "the target was not built"))?;
    screen.committing(build.options.typed_tags.first().map(String::as_str));
    let is_docker = context.persona == Persona::Docker;
    let (trees, images): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.is_file_system());
    // With docker an image comes into the store only if nothing else is asked for.
    let is_stored = if is_docker {
        outputs.is_empty() || images.iter().any(|output| **output != Output::Nothing)
    } else {
        !images.contains(&&Output::Nothing)
    };
    let mut kept = None;
    if is_stored {
        let finished = finish::finish(&build, state.clone())?;
        let names: Vec<String> = build.options.tags.iter().map(ToString::to_string).collect();
        screen.committed(&finished.id, &names);
        if let Ok(id) = storage::digest::Digest::parse(&format!("sha256:{}", finished.id)) {
            context.note_image("build", &id, names.first().map_or("", String::as_str));
        }
        let image = stored(&build.store, &finished)?;
        for output in images {
            output.write(&build.store, &image, &build.options.tags)?;
        }
        write_results(args, &build, &finished, &names)?;
        kept = Some(image.id);
        if build.options.progress == Progress::Quiet && !is_on_stdout {
            let prefix = if is_docker { "sha256:" } else { "" };
            output::print_line(format!("{prefix}{}", finished.id))?;
        }
    }
    if !trees.is_empty() {
        build.options.squash = Squash::All;
        build.options.tags.clear();
        let image = stored(&build.store, &finish::finish(&build, state)?)?;
        let written = trees.iter().try_for_each(|output| output.write(&build.store, &image, &[]));
        // It was the way to the files.
        if image.names.is_empty() && kept.as_ref() != Some(&image.id) {
            build.store.remove(&image)?;
        }
        written?;
    }
    if is_docker && build.options.progress != Progress::Quiet {
        eprint!("{}", check::summary(&warnings));
    }
    Ok(0)
}

/// The image that was made, as the store has it.
fn stored(store: &ImageStore, finished: &finish::Finished) -> Result<storage::image::Image, CommandError> {
    let image = store.resolve(&finished.id)?;
    image.ok_or_else(|| CommandError::new(crate::error::Kind::Internal, format!("image {} is gone", finished.id)))
}

/// `--iidfile` and `--metadata-file`.
fn write_results(
    args: &Args,
    build: &Build<'_>,
    finished: &finish::Finished,
    names: &[String],
) -> Result<(), CommandError> {
    let write = |flag: &str, path: &Path, text: String| {
        fs::write(path, text)
            .map_err(|error| CommandError::user(format!("{flag} {}: {}", path.display(), reason(&error))))
    };
    if let Some(path) = &args.iidfile {
        write("--iidfile", path, format!("sha256:{}", finished.id))?;
    }
    if let Some(path) = &args.metadata_file {
        let json = serde_json::json!({
            "containerimage.config.digest": format!("sha256:{}", finished.id),
            "containerimage.digest": finished.digest,
            "image.name": names.join(","),
            "buildx.build.ref": format!("default/default/{}", build.source.path.display()),
        });
        write("--metadata-file", path, format!("{json:#}\n"))?;
    }
    Ok(())
}

/// A failed step: what it was, what it said, and where it stands.
fn explain(context: &Context, screen: &Screen, failed: Failed, files: &[(String, Vec<u8>)]) -> CommandError {
    let _ = std::io::stderr().write_all(screen.unseen(failed.stage));
    let Some((step, line)) = failed.step else {
        let error = CommandError::user(failed.message).with_code(failed.code);
        return failed.hint.into_iter().fold(error, CommandError::hinted);
    };
    let file = files.first().map_or("Containerfile", |(name, _)| name);
    let error = match context.persona {
        Persona::Podman => {
            CommandError::user(format!("building at STEP {step:?}: {}", failed.message)).with_code(failed.code)
        }
        Persona::Docker => {
            let why = match failed.message.strip_prefix("while running runtime: exit status ") {
                Some(code) => format!("process {step:?} did not complete successfully: exit code: {code}"),
                None => failed.message.clone(),
            };
            CommandError::user(format!("failed to solve: {why}")).with_code(1)
        }
    };
    let error = match failed.hint {
        Some(hint) => error.hinted(hint),
        None => error,
    };
    if line > 0 { error.hinted(format!("the step is in line {line} of {file}")) } else { error }
}

fn misread(error: &ParseError, files: &[(String, Vec<u8>)]) -> CommandError {
    let (name, source) = match files.get(usize::from(error.span.file)) {
        Some((name, source)) => (name.as_str(), source.as_slice()),
        None => ("Containerfile", b"".as_slice()),
    };
    if error.span.line > 0 {
        eprint!("{}", error.excerpt(source));
    }
    let out = match error.span.line {
        0 => CommandError::user(&error.message),
        _ => CommandError::user(format!("{name}:{error}")),
    };
    match &error.hint {
        Some(hint) => out.hinted(hint),
        None => out,
    }
}

fn warn_of_unused(build: &Build<'_>, used: &std::collections::BTreeSet<String>) {
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
    let known = |name: &String| {
        used.contains(name)
            || is_proxy(name)
            || name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
            || build.global.contains_key(name)
    };
    let unused: Vec<&str> = build.options.build_args.keys().filter(|name| !known(name)).map(String::as_str).collect();
    if !unused.is_empty() && build.options.progress != Progress::Quiet {
        eprintln!("[Warning] one or more build-args were not consumed: [{}]", unused.join(" "));
    }
}

/// Arguments before the first FROM.
fn global(file: &Containerfile, options: &Options) -> Result<BTreeMap<String, String>, CommandError> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let target = options.platform.clone().unwrap_or_else(Platform::host);
    for part in ["PLATFORM", "OS", "ARCH", "VARIANT"] {
        for side in ["TARGET", "BUILD"] {
            let name = format!("{side}{part}");
            if let Some(value) = platform_argument(&name, &target) {
                values.insert(name, value);
            }
        }
    }
    let automatic = values.clone();
    for arg in &file.global_args {
        let located = |error: containerfile::ExpandError| CommandError::user(error);
        let escape = file.directives.escape;
        let name = arg.name.expand(escape, &|name| values.get(name).cloned()).map_err(located)?;
        let default = arg.default.as_ref().map(|word| word.expand(escape, &|name| values.get(name).cloned()));
        let default = default.transpose().map_err(located)?;
        let value = options.build_args.get(&name).cloned().or(default).or_else(|| automatic.get(&name).cloned());
        if let Some(value) = value {
            values.insert(name, value);
        }
    }
    Ok(values)
}

/// Where everything is that is read.
struct Places {
    directory: PathBuf,
    /// Dockerfiles: their names and bytes.
    files: Vec<(String, Vec<u8>)>,
    /// Of the first, if it is a file.
    path: Option<PathBuf>,
    /// A context that was made for this build.
    _made: Option<storage::layer::Staging>,
}

/// Links of what was fetched do not choose a file of ours.
fn must_be_below(directory: &Path, path: &Path) -> Result<(), CommandError> {
    let is_below = match (directory.canonicalize(), path.canonicalize()) {
        (Ok(directory), Ok(path)) => path.starts_with(directory),
        // What is not there is refused when it is read.
        _ => true,
    };
    match is_below {
        true => Ok(()),
        false => Err(CommandError::user(format!("{}: it is outside of the context", name_of(path)))),
    }
}

fn read_stdin() -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|error| CommandError::user(format!("read stdin: {}", reason(&error))))?;
    Ok(bytes)
}

/// Finds the context and the Dockerfile.
fn places(args: &Args, cache: &BuildCache) -> Result<Places, CommandError> {
    let asked = args.context.as_deref();
    let mut made = None;
    let mut is_fetched = false;
    let mut from_stdin = None;
    let directory = match asked {
        Some("-") => {
            let bytes = read_stdin()?;
            let staging = cache.stage()?;
            let directory = staging.diff();
            match tidy::unpack_context(&bytes, &staging)? {
                true => {}
                false if args.file.is_empty() => from_stdin = Some(bytes),
                false => return Err(CommandError::user("-: stdin holds no archive, and -f names a Containerfile")),
            }
            made = Some(staging);
            directory
        }
        Some(text) if is_remote(text)? => {
            let staging = cache.stage()?;
            let (directory, file) = tidy::fetch_context(text, &staging)?;
            from_stdin = file;
            is_fetched = true;
            made = Some(staging);
            directory
        }
        Some(path) => PathBuf::from(path),
        // podman's default is the directory of the file, or this one.
        None => match args.file.first().filter(|file| *file != "-") {
            Some(file) => {
                Path::new(file).parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
            }
            None => PathBuf::from("."),
        },
    };
    if !directory.is_dir() {
        return Err(CommandError::user(format!("context must be a directory: {}", directory.display())));
    }
    let mut files = Vec::new();
    let mut path = None;
    if let Some(bytes) = from_stdin {
        files.push(("stdin".to_owned(), bytes));
    } else if args.file.is_empty() {
        let found = ["Containerfile", "Dockerfile", "dockerfile"]
            .iter()
            .map(|name| directory.join(name))
            .find(|path| path.is_file());
        let found = found.ok_or_else(|| {
            CommandError::user(format!(
                "no Containerfile or Dockerfile specified or found in context directory, {}",
                directory.display()
            ))
        })?;
        if is_fetched {
            must_be_below(&directory, &found)?;
        }
        files.push((name_of(&found), read(&found)?));
        path = Some(found);
    }
    for file in &args.file {
        if file == "-" {
            files.push(("stdin".to_owned(), read_stdin()?));
            continue;
        }
        let given = PathBuf::from(file);
        // podman looks beside the caller first, docker too; a name may also mean a file of the context.
        let is_here = !is_fetched && (given.is_file() || given.is_absolute());
        let found = if is_here { given } else { directory.join(&given) };
        if is_fetched {
            must_be_below(&directory, &found)?;
        }
        files.push((name_of(&found), read(&found)?));
        path.get_or_insert(found);
    }
    Ok(Places { directory, files, path, _made: made })
}

fn is_remote(text: &str) -> Result<bool, CommandError> {
    Ok(Remote::of_context(text).map_err(CommandError::user)?.is_some())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    fs::read(path).map_err(|error| CommandError::user(format!("read {}: {}", path.display(), reason(&error))))
}

/// What is left out of the context: by the file that is asked for, or that of the Dockerfile, or that of the context.
fn ignore(args: &Args, places: &Places) -> Result<Ignore, CommandError> {
    let mut candidates = Vec::new();
    if let Some(path) = &args.ignorefile {
        candidates.push(path.clone());
        if !path.is_file() {
            return Err(CommandError::user(format!("--ignorefile {}: no such file", path.display())));
        }
    } else {
        for suffix in ["containerignore", "dockerignore"] {
            if let Some(path) = &places.path {
                let mut name = path.clone().into_os_string();
                name.push(format!(".{suffix}"));
                candidates.push(name.into());
            }
        }
        candidates.extend([".containerignore", ".dockerignore"].iter().map(|name| places.directory.join(name)));
    }
    match candidates.iter().find(|path| path.is_file()) {
        None => Ok(Ignore::default()),
        Some(path) => {
            Ignore::parse(&read(path)?).map_err(|error| CommandError::user(format!("{}:{error}", path.display())))
        }
    }
}

/// Command line and environment become options.
fn options(args: &Args, context: &Context) -> Result<Options, CommandError> {
    let is_docker = context.persona == Persona::Docker;
    let tags = args.tag.iter().map(|name| super::tag::local_name(name)).collect::<Result<Vec<_>, _>>()?;
    let platform = args.platform.asked().map_err(CommandError::user)?;
    if platform.as_deref().is_some_and(|text| text.contains(',')) {
        return Err(CommandError::user("--platform: one platform is built at a time"));
    }
    let platform = pull::parse_platform(platform.as_deref())?;
    let pull = match args.pull.as_deref() {
        None => PullPolicy::Missing,
        Some("true") => PullPolicy::Always,
        Some("false") => PullPolicy::Missing,
        Some(text) => one("--pull", text, words::pull_policy).map_err(CommandError::user)?,
    };
    let environment = |name: &str| std::env::var(name).ok();
    let progress = args.progress.clone().or_else(|| environment("BUILDKIT_PROGRESS")).unwrap_or_default();
    let progress = match (args.quiet, progress.as_str()) {
        (true, _) | (_, "quiet") => Progress::Quiet,
        (_, "rawjson") => Progress::RawJson,
        (_, "auto" | "plain" | "tty" | "") if is_docker => Progress::Vertices,
        (_, "auto" | "plain" | "tty" | "") => Progress::Steps,
        (_, other) => {
            return Err(CommandError::user(format!("--progress {other}: one of auto, plain, tty, quiet, rawjson")));
        }
    };
    let timestamp = match (args.timestamp, environment("SOURCE_DATE_EPOCH")) {
        (Some(secs), _) => Some(secs),
        (None, Some(text)) if !text.is_empty() => {
            let parsed = text.parse::<i64>();
            Some(parsed.map_err(|_| CommandError::user(format!("SOURCE_DATE_EPOCH={text}: not a number of seconds")))?)
        }
        _ => None,
    };
    let pairs = |flag: &str, list: &[String]| -> Result<Vec<(String, String)>, CommandError> {
        list.iter()
            .map(|text| match text.split_once('=') {
                Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
                None if !text.is_empty() => Ok((text.clone(), String::new())),
                _ => Err(CommandError::user(format!("{flag} {text}: expected NAME=VALUE"))),
            })
            .collect()
    };
    let mut env = pairs("--env", &args.env)?;
    for (given, (name, value)) in args.env.iter().zip(&mut env) {
        if !given.contains('=') {
            *value = environment(name).unwrap_or_default();
        }
    }
    let jobs = match args.jobs {
        Some(0) => usize::MAX,
        Some(jobs) => jobs,
        // podman builds one stage after the other unless told otherwise; BuildKit all at once.
        None if is_docker => std::thread::available_parallelism().map_or(2, usize::from).max(2),
        None => 1,
    };
    let format = match args.format.as_deref() {
        None | Some("") if is_docker => Format::Docker,
        None | Some("" | "oci") => Format::Oci,
        Some("docker") => Format::Docker,
        Some(other) => return Err(CommandError::user(format!("unrecognized image format {other:?}"))),
    };
    Ok(Options {
        persona: context.persona,
        tags,
        typed_tags: args.tag.clone(),
        build_args: build_args(args)?,
        contexts: pairs("--build-context", &args.build_context)?.into_iter().collect(),
        target: args.target.clone().filter(|target| !target.is_empty()),
        from: args.from.clone(),
        platform,
        no_cache: args.no_cache,
        layers: args.layers,
        pull,
        client: args.registry.to_client_options()?,
        secrets: secrets(&args.secret)?,
        agents: agents(&args.ssh)?,
        run_flags: args.steps.flags(),
        network: args.network.clone().filter(|mode| !mode.is_empty() && mode != "default"),
        labels: pairs("--label", &args.label)?,
        annotations: pairs("--annotation", &args.annotation)?.into_iter().collect(),
        env,
        unset_env: args.unsetenv.clone(),
        unset_labels: args.unsetlabel.clone(),
        squash: if args.squash_all { Squash::All } else { Squash::No },
        format,
        timestamp: timestamp.map(|secs| Timestamp { secs, nanos: 0 }),
        omit_history: args.omit_history,
        with_unused: !args.skip_unused_stages,
        jobs,
        progress,
    })
}

/// `--build-arg-file` first, then `--build-arg`.
fn build_args(args: &Args) -> Result<BTreeMap<String, String>, CommandError> {
    let mut all = BTreeMap::new();
    for path in &args.build_arg_file {
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        all.extend(
            lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
    }
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) => drop(all.insert(name.to_owned(), value.to_owned())),
            None => match std::env::var(text) {
                Ok(value) => drop(all.insert(text.clone(), value)),
                // What is not in the environment is as if it had not been named.
                Err(_) => drop(all.remove(text)),
            },
        }
    }
    Ok(all)
}

/// `--secret id=ID[,src=FILE|,env=VARIABLE][,type=file|env]`.
fn secrets(asked: &[String]) -> Result<BTreeMap<String, Secret>, CommandError> {
    let mut all = BTreeMap::new();
    for text in asked {
        let bad = |why: &str| CommandError::user(format!("--secret {text}: {why}"));
        let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => id = Some(value),
                Some(("src" | "source", value)) => source = Some(value),
                Some(("env", value)) => variable = Some(value),
                Some(("type", value @ ("file" | "env"))) => kind = Some(value),
                _ => return Err(bad(&format!("expected id=, src=, env= or type=, not {part:?}"))),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| bad("expected id="))?;
        if kind == Some("env") && variable.is_none() {
            variable = source.take();
        }
        let bytes = match (source, variable) {
            (Some(path), None) => fs::read(path).map_err(|error| bad(&reason(&error)))?,
            (None, Some(name)) => variable_of(name).ok_or_else(|| bad("there is no such variable"))?,
            // The variable of that name, else the file.
            (None, None) => match variable_of(id) {
                Some(value) => value,
                None => fs::read(id).map_err(|error| bad(&reason(&error)))?,
            },
            (Some(_), Some(_)) => return Err(bad("src= and env= exclude each other")),
        };
        all.insert(id.to_owned(), Secret(bytes));
    }
    Ok(all)
}

fn variable_of(name: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(name).map(OsStringExt::into_vec)
}

/// `--ssh default|ID[=SOCKET]`.
fn agents(asked: &[String]) -> Result<BTreeMap<String, PathBuf>, CommandError> {
    let mut all = BTreeMap::new();
    for text in asked {
        let bad = |why: String| CommandError::user(format!("--ssh {text}: {why}"));
        let (id, given) =
            text.split_once('=').map_or((text.as_str(), None), |(id, path)| (id, Some(PathBuf::from(path))));
        let path = given.or_else(|| std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from));
        let path = path.ok_or_else(|| bad("SSH_AUTH_SOCK is not set: no agent runs".to_owned()))?;
        use std::os::unix::fs::FileTypeExt;
        let kind =
            fs::metadata(&path).map_err(|error| bad(format!("{}: {}", path.display(), reason(&error))))?.file_type();
        if !kind.is_socket() {
            return Err(bad(format!("{}: not the socket of an agent; keys are not read", path.display())));
        }
        all.insert(if id.is_empty() { "default".to_owned() } else { id.to_owned() }, path);
    }
    Ok(all)
}
