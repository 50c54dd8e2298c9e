//! `coracle build`: an image from a Dockerfile and a context.

mod places;

mod platforms;

mod asked;

mod steps;

mod report;

mod conclude;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use storage::build::BuildCache;
use storage::image::ImageStore;
use storage::image::index::Platform;
use storage::layer::Staging;

use asked::{global, options};
use conclude::{Wanted, conclude};
use places::{ignore, is_remote, kept, places};
use report::{explain, misread, warn_of_unused};
use steps::StepOptions;

use super::{Context, Outcome};
use crate::build::Space;
use crate::build::check::{self, Surroundings};
use crate::build::containerfile;
use crate::build::context::Source;
use crate::build::debug;
use crate::build::exchange::{self, Cache};
use crate::build::graph::{Graph, Names};
use crate::build::ignore::Ignore;
use crate::build::interrupt;
use crate::build::options::{Options, Progress};
use crate::build::schedule::{self, Stopped};
use crate::build::screen::Screen;
use crate::build::stage::Build;
use crate::build::tidy;
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::{NotOfBuild, OfBuild};
use crate::cli::options::platform::PlatformsOptions;
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
    /// Open a shell in the file system of a step that failed
    #[arg(long)]
    debug: bool,
    /// Do not use what was built before
    #[arg(long)]
    no_cache: bool,
    /// Cache of another machine: a repository, or type=registry,ref=NAME, or type=local,src=DIR (can be repeated)
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,
    /// Write the results of the steps there for other machines: as --cache-from, or type=local,dest=DIR
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
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
    /// Make the layers one that the build adds to its base image
    #[arg(long)]
    squash: bool,
    /// Make all layers one
    #[arg(long)]
    squash_all: bool,
    /// Add the image to this manifest list, which is made if it is missing
    #[arg(long, value_name = "LIST")]
    manifest: Option<String>,
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
    platform: PlatformsOptions,
    /// Build for all platforms that the base images are there for
    #[arg(long, conflicts_with_all = ["platform", "arch", "os", "variant"])]
    all_platforms: bool,
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

/// Runs `build`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.refused.refuse()?;
    args.accepted.warn();
    let options = options(&args, context)?;
    let cache = BuildCache::open(&context.layout);
    let held = cache.hold()?;
    let mut made = Vec::new();
    let built = build(&args, context, options, &cache, &mut made);
    match &built {
        Err(error) if interrupt::is_error(error) => {
            made.into_iter().for_each(Staging::abandon);
            tidy::sweep_soon(context, &cache);
        }
        _ => {
            drop(made);
            tidy::sweep(&cache);
        }
    }
    drop(held);
    built
}

fn build(args: &Args, context: &Context, mut options: Options, cache: &BuildCache, made: &mut Vec<Staging>) -> Outcome {
    let places = places(args, cache, made)?;
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
    let wanted = Wanted::of(args, &mut options)?;
    let mut directories = BTreeMap::new();
    for (name, value) in &options.contexts {
        if is_remote(value)? {
            let (directory, file) = tidy::fetch_context(value, kept(made, cache.stage()?))?;
            if file.is_some() {
                return Err(CommandError::user(format!("--build-context {name}: expected an archive or a repository")));
            }
            directories.insert(name.clone(), directory);
        } else if !value.contains("://") {
            directories.insert(name.clone(), PathBuf::from(value));
        }
    }
    let log = match &args.logfile {
        None => None,
        Some(path) => {
            let file = fs::File::options().create(true).append(true).open(path);
            Some(file.map_err(|error| CommandError::user(format!("--logfile {}: {}", path.display(), reason(&error))))?)
        }
    };
    let (sources, targets) = (caches("--cache-from", &args.cache_from)?, caches("--cache-to", &args.cache_to)?);
    let is_inline = |cache: &Option<Cache>| cache.is_none();
    options.is_own_cache |= targets.iter().any(is_inline);
    if sources.iter().any(is_inline) {
        return Err(CommandError::user("--cache-from type=inline: which image carries it?")
            .hinted("--cache-from type=registry,ref=IMAGE"));
    }
    let (sources, targets): (Vec<Cache>, Vec<Cache>) =
        (sources.into_iter().flatten().collect(), targets.into_iter().flatten().collect());
    let space = Space::of_user();
    let store = ImageStore::open(&context.layout);
    // What a stage needs stays from now on.
    let _pin = store.pin()?;
    let imported = exchange::import(&sources, &options, &store, &space)?;
    let graph_of = |options: &Options, global: &BTreeMap<String, String>| -> Result<Graph, CommandError> {
        let lookup = |name: &str| global.get(name).cloned();
        let names = Names { file: &file, contexts: &options.contexts, lookup: &lookup };
        let graph = names.graph(options.target.as_deref(), options.with_unused);
        graph.map_err(|error| misread(&error, &places.files))
    };
    if args.all_platforms {
        let graph = graph_of(&options, &global(&file, &options)?)?;
        options.platforms = platforms::common(&graph, &options, &store, &space)?;
        wanted.check(args, &options)?;
    }
    let platforms: Vec<Option<Platform>> = match options.platforms.as_slice() {
        [] => vec![None],
        several => several.iter().cloned().map(Some).collect(),
    };
    let one = |platform: Option<Platform>| -> Result<Build<'_>, CommandError> {
        let options = Options { platform, ..options.clone() };
        let global = global(&file, &options)?;
        let graph = graph_of(&options, &global)?;
        let open = |directory: &PathBuf| Source::open(directory, Ignore::default());
        let named = directories.iter().map(|(name, directory)| Ok((name.clone(), open(directory)?)));
        Ok(Build {
            context,
            named: named.collect::<Result<_, CommandError>>()?,
            source: Source::open(&places.directory, source.ignore.clone())?,
            options,
            file: file.clone(),
            graph,
            global,
            cache: cache.clone(),
            store: store.clone(),
            space: &space,
            imported: imported.clone(),
        })
    };
    let mut builds = platforms.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let mut screen = Screen::new(options.progress, &builds, log);
    let (built, leaving) = match schedule::run(&builds, options.jobs, &mut screen) {
        Ok(built) => built,
        Err(stopped) => {
            screen.end();
            return Err(match stopped {
                Stopped::Error(error) if interrupt::is_error(&error) => error,
                Stopped::Error(error) => {
                    tidy::after_failure(context);
                    error
                }
                Stopped::Failed(mut failed) => {
                    tidy::after_failure(context);
                    let (broken, number) = (failed.broken.take(), failed.at.build);
                    let error = explain(context, &screen, *failed, &places.files);
                    if let (Some(broken), Some(build)) = (broken, builds.get(number)) {
                        error.print();
                        debug::shell(build, &broken)?;
                        return Err(CommandError::printed(error.code()));
                    }
                    error
                }
            });
        }
    };
    screen.settle(|| warn_of_unused(&builds, &built));
    let all: BTreeSet<String> = built.iter().flat_map(|built| built.keys.values().flatten()).cloned().collect();
    let small = builds.iter().zip(&built).filter_map(|(build, built)| built.keys.get(&build.graph.target));
    let small: BTreeSet<String> = small.flatten().cloned().collect();
    interrupt::ended_by_signals(|| {
        conclude(args, &mut builds, built, &wanted, &mut screen)?;
        screen.end();
        builds.first().map_or(Ok(()), |build| {
            let keys = |target: &Cache| if target.is_small { &small } else { &all };
            targets.iter().try_for_each(|target| exchange::export(target, build, keys(target), context))
        })
    })?;
    drop(leaving);
    if context.persona == Persona::Docker && options.progress != Progress::Quiet {
        eprint!("{}", check::summary(&warnings));
    }
    Ok(0)
}

/// What an option names; `None` is the image that is built.
fn caches(flag: &str, texts: &[String]) -> Result<Vec<Option<Cache>>, CommandError> {
    let parse = |text: &String| Cache::parse(text).map_err(|why| CommandError::user(format!("{flag} {text}: {why}")));
    texts.iter().filter(|text| !text.is_empty()).map(parse).collect()
}
