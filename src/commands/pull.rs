//! `coracle pull`, and the pull that other commands do for themselves.

use std::path::PathBuf;

use runtime::userns::Mapping;
use storage::image::index::Platform;
use storage::image::{Image, ImageStore, StoreError};
use storage::layer::IdPolicy;
use storage::reference::Reference;
use storage::state::request::PullPolicy;
use storage::transport::registry::{ClientOptions, Credentials, Registries, RegistryError, credentials, search};
use storage::transport::{PullError, PullOptions, Source, TransportError};

use super::{Context, Outcome, lazy};
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::OfPull;
use crate::cli::options::platform::PlatformOptions;
use crate::cli::parse::duration::go_duration;
use crate::cli::parse::words;
use crate::cli::printable::Printable;
use crate::cli::usage::one;
use crate::error::CommandError;
use crate::role::Persona;
use crate::supervisor::arrival::Verdict;
use crate::supervisor::rootfs::DriverChoice;

const EXAMPLES: &str = r#"Examples:
  coracle pull nginx                      # docker.io/library/nginx:latest
  coracle pull registry.example/team/app:1
  coracle pull --lazy registry.example/team/large
  coracle pull --platform linux/arm64 debian:12
  coracle pull docker-archive:image.tar"#;

/// Pull an image from a registry, an archive or a layout
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Image reference, or TRANSPORT:WHERE (docker://, oci:, oci-archive:, docker-archive:, dir:)
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Print nothing but the image's ID
    #[arg(short, long)]
    quiet: bool,
    /// Pull all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Return as soon as containers can be started, and go on in the background: run --pull=lazy starts one at once
    #[arg(long)]
    lazy: bool,
    /// When to pull: always, missing, never or newer
    #[arg(long, value_name = "POLICY", default_value = "always", conflicts_with = "lazy")]
    policy: String,
    #[command(flatten)]
    platform: PlatformOptions,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    accepted: Accepted<OfPull>,
}

/// How to talk to registries; shared by all commands that do.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct RegistryArgs {
    /// Require HTTPS and verify certificates; false allows plain HTTP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// File with credentials for registries
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Credentials for the registry
    #[arg(long, value_name = "USER[:PASSWORD]")]
    creds: Option<String>,
    /// How often a request that failed for a passing reason is repeated [default: 3]
    #[arg(long, value_name = "N")]
    retry: Option<u32>,
    /// How long to wait before repeating a request [default: 1s, then longer each time]
    #[arg(long, value_name = "DURATION")]
    retry_delay: Option<String>,
    /// Directory with certificates for the registry
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

impl RegistryArgs {
    /// What a command knows that has no more options of this kind.
    pub(crate) fn of(tls_verify: Option<bool>, authfile: Option<PathBuf>) -> Self {
        Self { tls_verify, authfile, ..Self::default() }
    }

    /// As the registry client takes them.
    pub(crate) fn to_client_options(&self) -> Result<ClientOptions, CommandError> {
        let credentials = match &self.creds {
            Some(text) => Some(Credentials::parse(text).map_err(CommandError::user)?),
            None => None,
        };
        let delay = |text: &str| {
            go_duration(text).ok_or_else(|| CommandError::user(format!("time: invalid duration {text:?}")))
        };
        Ok(ClientOptions {
            tls_verify: self.tls_verify,
            cert_dir: self.cert_dir.clone(),
            credentials,
            authfile: self.authfile.clone(),
            retries: self.retry.unwrap_or_else(|| ClientOptions::default().retries),
            retry_delay: self.retry_delay.as_deref().map(delay).transpose()?,
            ..ClientOptions::default()
        })
    }
}

/// Runs `coracle pull`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.accepted.warn();
    let policy = one("--policy", &args.policy, words::pull_policy).map_err(CommandError::user)?;
    let options = PullOptions {
        platform: parse_platform(args.platform.asked().map_err(CommandError::user)?.as_deref())?,
        client: args.registry.to_client_options()?,
        ..PullOptions::default()
    };
    let images = match args.all_tags {
        true => args.images.iter().map(|name| all_tags(name, &options)).collect::<Result<Vec<_>, _>>()?.concat(),
        false => args.images,
    };
    for name in &images {
        let image = match policy {
            _ if args.lazy => ensure_lazily(context, name, &options, args.quiet, lazy::Interest::Lasting)?.0,
            PullPolicy::Always => pull(context, name, &options, args.quiet)?,
            _ => ensure(context, name, policy, &options, args.quiet)?,
        };
        println!("{}", image.id.hex());
    }
    Ok(0)
}

/// The names of every tag that a repository has.
fn all_tags(name: &str, options: &PullOptions) -> Result<Vec<String>, CommandError> {
    let Source::Registry(repository) = Source::parse(name).map_err(CommandError::user)? else {
        return Err(CommandError::user(format!("{name}: only a registry has tags to list")));
    };
    if repository.tag().is_some() || repository.digest().is_some() {
        return Err(CommandError::user(format!("{name}: tag can't be used with --all-tags/-a")));
    }
    let tags = super::in_userns_with_output(&Mapping::of_user(), || {
        let tags = search::tags(&repository, usize::MAX, &options.client);
        Ok(tags.map_err(|error| CommandError::host(error).while_doing("getting repository tags"))?.join("\n"))
    })?;
    // A registry may say anything; what is no tag is no reference.
    let names = tags.lines().map(|tag| repository.with_tag(tag).map(|name| name.to_string()));
    names.collect::<Result<_, _>>().map_err(CommandError::host)
}

/// Parses `--platform`.
pub(crate) fn parse_platform(text: Option<&str>) -> Result<Option<Platform>, CommandError> {
    text.map(Platform::parse).transpose().map_err(CommandError::user)
}

/// The image that `name` means, pulled if the policy says so.
pub(crate) fn ensure(
    context: &Context,
    name: &str,
    policy: PullPolicy,
    options: &PullOptions,
    quiet: bool,
) -> Result<Image, CommandError> {
    let store = ImageStore::open(&context.layout);
    let local = match policy {
        PullPolicy::Always => None,
        _ => here(&store, name, options).map_err(CommandError::host)?,
    };
    match (policy, local) {
        (PullPolicy::Missing | PullPolicy::Never | PullPolicy::Lazy, Some(image)) => Ok(image),
        (PullPolicy::Never, None) => {
            Err(CommandError::user(format!("{name}: image not known")).hinted(format!("coracle pull {name}")))
        }
        (PullPolicy::Newer, Some(image)) => Ok(pull(context, name, options, quiet).unwrap_or(image)),
        (_, None) => {
            let is_wanted = matches!(policy, PullPolicy::Missing | PullPolicy::Lazy);
            if !quiet && is_wanted && Reference::parse(name).is_ok() {
                eprintln!("Unable to find image '{}' locally", Printable::line(name));
            }
            if policy == PullPolicy::Lazy {
                let name = Printable::line(name);
                eprintln!("Warning: {name}: it is pulled whole: only `run` starts a container while its image arrives");
            }
            pull(context, name, options, quiet)
        }
        (PullPolicy::Always, Some(_)) => pull(context, name, options, quiet),
    }
}

/// As [`ensure`] with [`PullPolicy::Lazy`]: an image that is not here is about to come, and so is what becomes of that.
pub(crate) fn ensure_lazily(
    context: &Context,
    name: &str,
    options: &PullOptions,
    quiet: bool,
    interest: lazy::Interest,
) -> Result<(Image, Option<Verdict>), CommandError> {
    let store = ImageStore::open(&context.layout);
    if let Some(image) = here(&store, name, options).map_err(CommandError::host)? {
        return Ok((image, None));
    }
    if let Some(why) = why_not_lazily(context)? {
        eprintln!("Warning: {}: it is pulled whole before it is used: {why}", Printable::line(name));
        return ensure(context, name, PullPolicy::Missing, options, quiet).map(|image| (image, None));
    }
    let lazy::Arriving { image, verdict } = lazy::begin(context, name, options, quiet, interest)?;
    Ok((image, Some(verdict)))
}

/// What keeps this user from using an image before all of it is here.
fn why_not_lazily(context: &Context) -> Result<Option<&'static str>, CommandError> {
    if Mapping::of_user().single.is_some() {
        return Ok(Some("that needs subordinate ids"));
    }
    Ok(match context.storage_driver()? {
        DriverChoice::Fuse => Some("that needs the kernel's overlay, not the storage driver fuse"),
        DriverChoice::Auto | DriverChoice::Overlay | DriverChoice::OverlayFuse => None,
    })
}

/// An image that is for no platform at all but its own comes whatever was asked for, as podman has it, but not silently.
pub(crate) fn tell_of_platform(image: &Image, options: &PullOptions) {
    if let Some(wanted) = options.platform.as_ref().filter(|_| !fits(image, options)) {
        let has = &image.platform;
        eprintln!("WARNING: image platform ({has}) does not match the expected platform ({wanted})");
    }
}

/// The image that `name` means, if the store has it for the platform that is asked for.
fn here(store: &ImageStore, name: &str, options: &PullOptions) -> Result<Option<Image>, StoreError> {
    let wanted = || options.platform.clone().unwrap_or_else(Platform::host);
    match store.resolve(name)? {
        Some(image) if fits(&image, options) => Ok(Some(image)),
        // The name is that of another platform's image since this one was pulled, or built.
        Some(other) => store.image_beside(&other, &wanted()),
        None => store.listed_image(name, &wanted()),
    }
}

fn fits(image: &Image, options: &PullOptions) -> bool {
    options.platform.as_ref().is_none_or(|wanted| image.platform.rank_for(wanted).is_some())
}

/// Pulls what `name` means; where that may be several images, the first that some registry has.
///
/// In a child of its own: it has threads, TLS and a large heap, and this process is about to fork.
fn pull(context: &Context, name: &str, options: &PullOptions, quiet: bool) -> Result<Image, CommandError> {
    super::space::sweep(context);
    let mapping = Mapping::of_user();
    let store = ImageStore::open(&context.layout);
    let mut options = options.clone();
    if mapping.single.is_some() {
        options.ids = IdPolicy::Single;
    }
    let candidates = candidates(context, name, &options)?;
    let id = super::in_userns_with_output(&mapping, || {
        let progress = crate::cli::progress::for_terminal(quiet);
        let mut failures = Vec::new();
        for candidate in &candidates {
            if !quiet {
                eprintln!("Trying to pull {}...", Printable::line(&candidate.shown));
            }
            match storage::transport::pull(&store, &candidate.source, &candidate.options, progress.as_ref()) {
                Ok(image) => return Ok(image.id.to_string()),
                Err(error) => failures.push((candidate, error)),
            }
        }
        Err(none_gave(name, failures))
    })?;
    let image = store.resolve(&id).map_err(CommandError::host)?;
    let image =
        image.ok_or_else(|| CommandError::host(format!("{name}: the image was removed while it was pulled")))?;
    context.note_image("pull", &image.id, name);
    Ok(image)
}

/// An image that may be meant.
pub(crate) struct Candidate {
    pub(crate) source: Source,
    pub(crate) options: PullOptions,
    registry: String,
    pub(crate) shown: String,
}

pub(crate) fn candidates(context: &Context, name: &str, options: &PullOptions) -> Result<Vec<Candidate>, CommandError> {
    let reference = match Source::parse(name).map_err(CommandError::user)? {
        Source::Registry(reference) => reference,
        source => {
            let (options, registry, shown) = (options.clone(), String::new(), name.to_owned());
            return Ok(vec![Candidate { source, options, registry, shown }]);
        }
    };
    let with_login = |reference: Reference| {
        let mut options = options.clone();
        ask_helper(&mut options.client, &reference)?;
        let (registry, shown) = (reference.registry().to_owned(), reference.clone().with_default_tag().to_string());
        Ok(Candidate { source: Source::Registry(reference), options, registry, shown })
    };
    meanings(context, name, &reference)?.into_iter().map(with_login).collect()
}

/// The error of a pull that no candidate satisfied.
pub(crate) fn none_gave(name: &str, mut failures: Vec<(&Candidate, PullError)>) -> CommandError {
    match failures.pop() {
        None => CommandError::user(format!("{name}: no registry to pull from")),
        Some((candidate, error)) if failures.is_empty() => {
            with_login_hint(&candidate.registry, is_refused(&error.reason), error)
        }
        Some(last) => {
            failures.push(last);
            let all: Vec<_> = failures.iter().map(|(_, error)| error.to_string()).collect();
            CommandError::host(format!("{name}: none of {} registries gives it: {}", all.len(), all.join("; ")))
        }
    }
}

/// The references that a typed name may mean by `registries.conf`. Docker's names all mean Docker Hub.
fn meanings(context: &Context, name: &str, parsed: &Reference) -> Result<Vec<Reference>, CommandError> {
    if context.persona == Persona::Docker || name.starts_with("docker://") {
        return Ok(vec![parsed.clone()]);
    }
    let registries = Registries::load(&|name| std::env::var_os(name)).map_err(CommandError::host)?;
    let found = registries.meanings(name, parsed);
    match registries.is_enforcing() && found.len() > 1 {
        false => Ok(found),
        // Nobody is asked in the middle of a command, so that scripts and terminals see the same.
        true => Err(CommandError::user(format!(
            "{name}: short-name-mode is enforcing and the name may mean several images"
        ))
        .hinted(format!("coracle pull {}", found.last().unwrap_or(parsed)))),
    }
}

/// Asks the credential helper that the user has for a registry, if there is one: here, where we still are the user.
pub(crate) fn ask_helper(options: &mut ClientOptions, reference: &Reference) -> Result<(), CommandError> {
    let (registry, repository) = (reference.registry(), reference.repository());
    let (authfile, env) = (options.authfile.clone(), |name: &str| std::env::var_os(name));
    if options.credentials.is_none()
        && credentials::has_helper(registry, repository, authfile.as_deref(), &env).map_err(CommandError::host)?
    {
        let found = credentials::find(registry, repository, authfile.as_deref(), &env);
        options.credentials = found.map_err(CommandError::host)?;
    }
    Ok(())
}

/// Whether a registry wants to know, or knows and does not like, who asks.
pub(crate) fn is_refused(reason: &TransportError) -> bool {
    let TransportError::Registry(error) = reason else { return false };
    match error {
        RegistryError::Mirrors { primary, .. } => is_login_wanted(primary),
        error => is_login_wanted(error),
    }
}

fn is_login_wanted(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Unauthorized { .. } | RegistryError::Denied { .. })
}

/// A transfer that failed, with what to do about it.
pub(crate) fn with_login_hint(registry: &str, is_refused: bool, error: impl std::fmt::Display) -> CommandError {
    let error = CommandError::host(error);
    if is_refused { error.hinted(format!("coracle login {registry}")) } else { error }
}

/// The user's ids, and the options of a transfer that asks no registry.
pub(crate) fn local_options() -> (Mapping, PullOptions) {
    let mapping = Mapping::of_user();
    let ids = if mapping.single.is_some() { IdPolicy::Single } else { IdPolicy::identity() };
    (mapping, PullOptions { ids, ..PullOptions::default() })
}
