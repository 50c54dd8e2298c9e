//! `secret create`.

use std::io::{IsTerminal, Read};

use storage::secret::{self, Secret};

use crate::cli::output;
use crate::commands::{Context, Outcome};
use crate::error::{CommandError, reason};

/// More is refused anyway.
const LIMIT: u64 = 1 << 20;

/// Create a new secret
///
/// The secret is read from a file, from standard input (-) or from an environment variable (--env). It is kept in a file
/// that only its owner can read; containers get it with run --secret.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name of the secret
    #[arg(value_name = "NAME")]
    name: String,
    /// A file, - for standard input, or with --env a variable
    #[arg(value_name = "FILE|-", allow_hyphen_values = true)]
    source: String,
    /// Specify secret driver
    #[arg(short, long, value_name = "DRIVER", default_value = "file")]
    driver: String,
    /// Specify driver specific options
    #[arg(long, value_name = "KEY=VALUE")]
    driver_opts: Vec<String>,
    /// Read secret data from environment variable
    #[arg(long)]
    env: bool,
    /// Specify labels on the secret
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// If a secret with the same name exists, replace it
    #[arg(long)]
    replace: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.driver != "file" {
        return Err(CommandError::user(format_args!(
            "secret driver {:?} is not supported, there is only file",
            args.driver
        )));
    }
    if let Some(option) = args.driver_opts.iter().find(|option| !option.starts_with("path=")) {
        return Err(CommandError::user(format_args!("secret driver option {option:?} is unknown")));
    }
    if !args.driver_opts.is_empty() {
        eprintln!("Warning: --driver-opts path=: secrets are kept in coracle's own directory");
    }
    secret::check_name(&args.name).map_err(CommandError::user)?;
    let mut secret = Secret::new(&args.name, data(&args)?);
    secret.labels = pairs(&args.labels);
    if args.replace
        && let Ok(old) = secret::find(&context.layout, &args.name)
    {
        secret.created = old.created;
    }
    secret::create(&context.layout, &secret, args.replace)?;
    output::print_line(&secret.id)?;
    Ok(0)
}

fn data(args: &Args) -> Result<Vec<u8>, CommandError> {
    if args.env {
        let value = std::env::var_os(&args.source).ok_or_else(|| {
            CommandError::user(format!(
                "cannot create store secret data: environment variable {} is not set",
                args.source
            ))
        })?;
        return Ok(value.into_encoded_bytes());
    }
    let failed = |error: std::io::Error| CommandError::user(format!("read {}: {}", args.source, reason(&error)));
    let mut bytes = Vec::new();
    match args.source.as_str() {
        "-" if std::io::stdin().is_terminal() => {
            return Err(CommandError::user("if `-` is used, data must be passed into stdin"));
        }
        "-" => std::io::stdin().lock().take(LIMIT).read_to_end(&mut bytes).map_err(failed)?,
        path => std::fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)).map_err(failed)?,
    };
    Ok(bytes)
}

fn pairs(texts: &[String]) -> std::collections::BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}
