//! `login` and `logout`: credentials for registries, where other tools find them too.

use std::io::Read;
use std::path::{Path, PathBuf};

use runtime::userns::Mapping;
use storage::reference::DOCKER_HUB;
use storage::transport::registry::credentials::{self, Credentials, Files, Style};
use storage::transport::registry::{ClientOptions, Registries, RegistryError, login};

use super::{Context, Outcome};
use crate::cli::{output, prompt};
use crate::error::{CommandError, reason};
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle login registry.example
  echo $TOKEN | coracle login -u me --password-stdin registry.example
  coracle login --get-login registry.example"#;

/// Log in to a container registry
///
/// Tries the credentials, then keeps them: in ~/.config/containers/auth.json, or with the credential helper that the
/// file names. Called as docker, in ~/.docker/config.json.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Registry, or a namespace of it; Docker Hub if not given
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// Username for the registry
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Password for the registry
    #[arg(short, long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Take the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Take the password from a secret of coracle's
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// Print the user that is logged in to the registry
    #[arg(long)]
    get_login: bool,
    /// Require HTTPS and verify certificates; false allows plain HTTP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// Directory with certificates for the registry
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Say where the credentials are kept
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    file: FileArgs,
}

/// Log out of a container registry
///
/// Removes the credentials of a registry from every file that is searched for them.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct LogoutArgs {
    /// Registry, or a namespace of it; Docker Hub if not given
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// Remove the credentials of all registries
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    file: FileArgs,
}

/// Which file of credentials.
#[derive(clap::Args, Debug)]
struct FileArgs {
    /// File with credentials for registries
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// A config.json of docker instead
    #[arg(long, value_name = "FILE")]
    compat_auth_file: Option<PathBuf>,
}

impl FileArgs {
    /// The one file that was named, by an option or the environment.
    fn named(&self) -> Result<Option<(PathBuf, Style)>, CommandError> {
        let variable = || std::env::var_os("REGISTRY_AUTH_FILE").filter(|value| !value.is_empty()).map(PathBuf::from);
        match (&self.authfile, &self.compat_auth_file) {
            (Some(_), Some(_)) => Err(CommandError::user(
                "options for paths to the credential file and to the Docker-compatible credential file can not be set \
                 simultaneously",
            )),
            (Some(path), None) => Ok(Some((path.clone(), Style::Containers))),
            (None, Some(path)) => Ok(Some((path.clone(), Style::Docker))),
            (None, None) => Ok(variable().map(|path| (path, Style::Containers))),
        }
    }
}

fn env(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// The registry or namespace that was typed, or the first that is searched.
fn key(typed: Option<&String>, context: &Context) -> Result<String, CommandError> {
    let typed = match typed {
        Some(typed) => typed.clone(),
        None if context.persona == Persona::Docker => DOCKER_HUB.to_owned(),
        None => {
            let searched = Registries::load(&env).map_err(CommandError::host)?.unqualified;
            searched.and_then(|all| all.into_iter().next()).unwrap_or_else(|| DOCKER_HUB.to_owned())
        }
    };
    let key = credentials::key_of(&typed);
    let is_sound = !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || c.is_control() || "@?#".contains(c));
    match is_sound {
        true => Ok(key.to_owned()),
        false => Err(CommandError::user(format!("{typed:?} is not the name of a registry"))),
    }
}

/// The registry of a key, and the namespace.
fn parts(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or((key, ""))
}

/// Where a login is written if no file is named: where an entry of the key would otherwise hide it, else where it lasts.
fn place(key: &str, context: &Context) -> Result<(PathBuf, Style), CommandError> {
    let files = Files::of(&env);
    let last = match context.persona {
        Persona::Docker => files.docker.map(|path| (path, Style::Docker)),
        Persona::Podman => files.config.map(|path| (path, Style::Containers)),
    };
    let last = last.ok_or_else(|| CommandError::host("there is no home directory to keep credentials in"))?;
    let files = Files::of(&env);
    for path in files.paths().take_while(|path| **path != *last.0) {
        if credentials::names(path, key).map_err(CommandError::host)? {
            return Ok((path.to_owned(), Style::Containers));
        }
    }
    Ok(last)
}

fn known(key: &str, authfile: Option<&Path>) -> Result<Option<Credentials>, CommandError> {
    let authfile = authfile.filter(|path| path.exists());
    let (registry, namespace) = parts(key);
    credentials::find(registry, namespace, authfile, &env).map_err(CommandError::host)
}

/// Runs `coracle login`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let key = key(args.registry.as_ref(), context)?;
    let named = args.file.named()?;
    let (path, style) = named.clone().map_or_else(|| place(&key, context), Ok)?;
    let is_missing = named.as_ref().is_some_and(|(path, _)| !path.exists());
    let existing = if is_missing { None } else { known(&key, named.as_ref().map(|(path, _)| path.as_path()))? };
    if args.get_login {
        return match existing {
            Some(Credentials::Password { user, .. }) => output::print_line(user).map(|()| 0),
            Some(Credentials::IdentityToken(_)) => output::print_line("<token>").map(|()| 0),
            None => Err(CommandError::user(format!("not logged into {key}"))),
        };
    }
    let typed = typed(&args, context)?;
    if typed.is_none()
        && args.username.is_none()
        && let Some(existing) = &existing
    {
        println!("Authenticating with existing credentials for {key}");
        if check(&key, existing, &args, context).is_ok() {
            println!("Existing credentials are valid. Already logged in to {key}");
            return Ok(0);
        }
        println!("Existing credentials are invalid, please enter valid username and password");
    }
    let credentials = match typed {
        Some(credentials) => credentials,
        None => ask(&args, existing.as_ref())?,
    };
    let identity = check(&key, &credentials, &args, context)?;
    let kept = identity.map_or(credentials, Credentials::IdentityToken);
    credentials::store(&path, style, &key, &kept).map_err(CommandError::host)?;
    if args.verbose {
        println!("Used:  {}", path.display());
    }
    println!("{}", if context.persona == Persona::Docker { "Login Succeeded" } else { "Login Succeeded!" });
    Ok(0)
}

/// The credentials that the command line has whole.
fn typed(args: &Args, context: &Context) -> Result<Option<Credentials>, CommandError> {
    let sources = [
        ("password", args.password.is_some()),
        ("password-stdin", args.password_stdin),
        ("secret", args.secret.is_some()),
    ];
    let mut given = sources.iter().filter(|(_, given)| *given).map(|(name, _)| name);
    if let (Some(one), Some(other)) = (given.next(), given.next()) {
        return Err(CommandError::user(format!("Can't specify both --{other} and --{one}")));
    }
    let user = args.username.clone();
    if args.password_stdin {
        let user = user.filter(|user| !user.is_empty());
        let user = user.ok_or_else(|| CommandError::user("Must provide --username with --password-stdin"))?;
        let mut text = String::new();
        let read = std::io::stdin().take(1 << 20).read_to_string(&mut text);
        read.map_err(|error| CommandError::user(format!("reading the password: {}", reason(&error))))?;
        let password = text.trim_end_matches(['\n', '\r']).to_owned();
        return Ok(Some(Credentials::Password { user, password }));
    }
    if let Some(name) = &args.secret {
        let secret = storage::secret::find(&context.layout, name)?;
        let password = String::from_utf8(secret.data.0)
            .map_err(|_| CommandError::user(format!("secret {name}: it is no text, so it is no password")))?;
        let password = password.trim_end_matches(['\n', '\r']).to_owned();
        return Ok(Some(Credentials::Password { user: user.unwrap_or_else(|| name.clone()), password }));
    }
    if args.password.is_some() && context.persona == Persona::Docker {
        eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    match (user, &args.password) {
        (Some(user), Some(password)) if !user.is_empty() => {
            Ok(Some(Credentials::Password { user, password: password.clone() }))
        }
        _ => Ok(None),
    }
}

/// Asks for what is missing.
fn ask(args: &Args, existing: Option<&Credentials>) -> Result<Credentials, CommandError> {
    let before = "getting username and password: reading";
    let known = match existing {
        Some(Credentials::Password { user, .. }) => Some(user.as_str()),
        _ => None,
    };
    let user = match args.username.clone().filter(|user| !user.is_empty()) {
        Some(user) => user,
        None => {
            let question = known.map_or_else(|| "Username: ".to_owned(), |user| format!("Username ({user}): "));
            let answer = prompt::line(&question).map_err(|error| error.while_doing(format!("{before} username")))?;
            match (answer.trim(), known) {
                ("", Some(known)) => known.to_owned(),
                ("", None) => return Err(CommandError::user(format!("{before} username: it is empty"))),
                (answer, _) => answer.to_owned(),
            }
        }
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None => prompt::secret("Password: ").map_err(|error| error.while_doing(format!("{before} password")))?,
    };
    Ok(Credentials::Password { user, password })
}

/// Tries credentials in a child of its own, as all talk with registries is. Gives the identity token that docker keeps.
fn check(key: &str, credentials: &Credentials, args: &Args, context: &Context) -> Result<Option<String>, CommandError> {
    let (registry, _) = parts(key);
    let options = ClientOptions {
        tls_verify: args.tls_verify,
        cert_dir: args.cert_dir.clone(),
        credentials: Some(credentials.clone()),
        ..ClientOptions::default()
    };
    let wants_identity = context.persona == Persona::Docker;
    let token = super::in_userns_with_output(&Mapping::of_user(), || {
        let checked = login::check(registry, &options, wants_identity);
        Ok(checked.map_err(|error| refused(registry, error))?.unwrap_or_default())
    })?;
    Ok(Some(token).filter(|token| !token.is_empty()))
}

fn refused(registry: &str, error: RegistryError) -> CommandError {
    match error {
        RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => {
            CommandError::user(format!("logging into {registry:?}: invalid username/password"))
        }
        error => CommandError::host(format!("authenticating creds for {registry:?}: {error}")),
    }
}

/// Runs `coracle logout`.
pub(crate) fn run_logout(args: LogoutArgs, context: &Context) -> Outcome {
    let paths: Vec<PathBuf> = match args.file.named()? {
        Some((path, _)) => vec![path],
        None => Files::of(&env).paths().map(Path::to_owned).collect(),
    };
    if args.all {
        for path in &paths {
            credentials::erase_all(path).map_err(CommandError::host)?;
        }
        output::print_line("Removed login credentials for all registries")?;
        return Ok(0);
    }
    let key = key(args.registry.as_ref(), context)?;
    let mut had = false;
    for path in &paths {
        had |= credentials::erase(path, &key).map_err(CommandError::host)?;
    }
    match (context.persona, had) {
        // docker does not look whether there was anything.
        (Persona::Docker, false) => output::print_line(format!("Not logged in to {key}"))?,
        (Persona::Docker, true) => output::print_line(format!("Removing login credentials for {key}"))?,
        (Persona::Podman, true) => output::print_line(format!("Removed login credentials for {key}"))?,
        (Persona::Podman, false) => return Err(CommandError::user(format!("not logged into {key}"))),
    }
    Ok(0)
}
