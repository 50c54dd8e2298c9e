//! `coracle attach`: become one more client of a running container.

use std::os::fd::AsFd;

use runtime::monitor::attach::{Client, ClientError, Request};
use storage::state::container::{self, Record};

use super::run::{parse_detach_keys, stay};
use super::{Context, Outcome};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle attach web                     # ctrl-p ctrl-q lets go"#;

/// Attach to a running container
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER", required_unless_present = "latest")]
    container: Option<String>,
    /// Act on the latest container
    #[arg(short, long, conflicts_with = "container")]
    latest: bool,
    /// Keys that detach from the container, or an empty value for none
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Do not attach standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the container
    #[arg(long, default_value_t = true)]
    sig_proxy: bool,
}

/// Runs `coracle attach`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let record = match &args.container {
        Some(name) => container::find(&context.layout, name).map_err(CommandError::user)?,
        None => super::select::latest(context)?,
    };
    attach(context, &record, args.detach_keys.as_deref(), (!args.no_stdin, args.sig_proxy), || Ok(()))
}

/// Attaches to a container that runs, or that `attached` lets begin.
pub(crate) fn attach(
    context: &Context,
    record: &Record,
    detach_keys: Option<&str>,
    (with_stdin, sig_proxy): (bool, bool),
    attached: impl FnOnce() -> Result<(), CommandError>,
) -> Outcome {
    let keys = parse_detach_keys(detach_keys)?;
    let refused = |error: &dyn std::fmt::Display| CommandError::host(format!("container {}: {error}", record.name));
    let directory = std::fs::File::open(context.layout.runtime_container(&record.id))
        .map_err(|_| refused(&"you can only attach to running containers"))?;
    let client = Client::connect(directory.as_fd()).map_err(|error| match error {
        ClientError::NotRunning => refused(&"you can only attach to running containers"),
        error => refused(&error),
    })?;
    super::run::block_proxied_signals();
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let request = Request {
        stdin: (with_stdin && record.request.stdin_open).then(|| stdin.as_fd()),
        stdout: Some(stdout.as_fd()),
        stderr: (!record.request.tty).then(|| stderr.as_fd()),
        detach_keys: keys,
    };
    client.attach(&request).map_err(|error| refused(&error))?;
    attached()?;
    context.note(record, "attach");
    stay(client, record, sig_proxy)
}
