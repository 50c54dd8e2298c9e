//! `coracle build`: an image from a Dockerfile and a context.

mod places;

mod asked;

mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use runtime::userns::Mapping;
use storage::build::BuildCache;
use storage::image::ImageStore;

use asked::{global, options};
use places::{ignore, is_remote, places};
use report::{explain, misread, warn_of_unused, write_results};

use super::{Context, Outcome};
use crate::build::check::{self, Surroundings};
use crate::build::containerfile;
use crate::build::context::Source;
use crate::build::graph::Names;
use crate::build::ignore::Ignore;
use crate::build::options::{Options, Progress, Squash};
use crate::build::output::Output;
use crate::build::schedule::{self, Stopped};
use crate::build::screen::Screen;
use crate::build::stage::Build;
use crate::build::{finish, tidy};
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::{NotOfBuild, OfBuild};
use crate::cli::options::platform::PlatformOptions;
use crate::cli::output;
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
    /// Push the image to the registries of its names
    #[arg(long)]
    push: bool,
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
    registry: crate::commands::pull::RegistryArgs,
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
    /// Slice or path that the cgroups of steps are made in
    #[arg(long, value_name = "PARENT")]
    cgroup_parent: Option<String>,
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
            ("cgroup-parent", &self.cgroup_parent),
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
        if let Output::Image { name: Some(name), .. } = output {
            options.tags.push(super::tag::local_name(name)?);
            options.typed_tags.push(name.clone());
        }
    }
    let is_pushed = args.push || outputs.iter().any(|output| matches!(output, Output::Image { is_pushed: true, .. }));
    if is_pushed && options.tags.is_empty() {
        return Err(CommandError::user("--push: the image has no name that says where to").hinted("--tag NAME"));
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
        if is_pushed {
            push(args, &build, &image, context)?;
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

/// Brings the image to the registries of all its names.
fn push(args: &Args, build: &Build<'_>, image: &storage::image::Image, context: &Context) -> Result<(), CommandError> {
    let client = args.registry.to_client_options()?;
    let options = storage::transport::push::PushOptions { client, ..Default::default() };
    let is_quiet = build.options.progress == Progress::Quiet;
    build
        .options
        .tags
        .iter()
        .try_for_each(|name| super::push::upload(image, name, &options, is_quiet, context).map(drop))
}

/// The image that was made, as the store has it.
fn stored(store: &ImageStore, finished: &finish::Finished) -> Result<storage::image::Image, CommandError> {
    let image = store.resolve(&finished.id)?;
    image.ok_or_else(|| CommandError::new(crate::error::Kind::Internal, format!("image {} is gone", finished.id)))
}
