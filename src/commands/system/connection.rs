//! `system connection`: podman's word for services on other machines. There are none; scripts ask all the same.

use clap::Subcommand;

use crate::cli::format::{Json, Listing, Value};
use crate::cli::output;
use crate::commands::{Context, Outcome};
use crate::error::CommandError;
use crate::role::Persona;

/// What to do with connections.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Record the address of a service
    #[command(hide = true)]
    Add(Rest),
    /// Name the service that is used if none is named
    #[command(hide = true)]
    Default(Rest),
    /// List the services that are known, of which there are none
    #[command(visible_alias = "ls")]
    List {
        /// Format the output to JSON or a Go template
        #[arg(short, long, value_name = "FORMAT")]
        format: Option<String>,
        /// Print the names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Forget a service
    #[command(hide = true, visible_alias = "rm")]
    Remove(Rest),
    /// Rename a service
    #[command(hide = true)]
    Rename(Rest),
}

/// Whatever follows.
#[derive(clap::Args, Debug)]
pub(crate) struct Rest {
    /// What podman would take
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Runs the command.
pub(super) fn run(command: Command, context: &Context) -> Outcome {
    let (format, quiet) = match command {
        Command::List { format, quiet } => (format, quiet),
        Command::Add(Rest { words })
        | Command::Default(Rest { words })
        | Command::Remove(Rest { words })
        | Command::Rename(Rest { words }) => {
            let what = words.iter().find(|word| !word.starts_with('-')).map(|word| format!(" {word:?}"));
            return Err(CommandError::user(format_args!(
                "connection{}: containers are this user's, on this machine: there is no service to connect to",
                what.unwrap_or_default()
            )));
        }
    };
    if quiet {
        return Ok(0);
    }
    let format = match format.as_deref() {
        Some("json") => {
            let style = Json { indent: Some(0), escape_html: true, open_empty_maps: false };
            output::print_line(Value::List(Vec::new()).to_json(style))?;
            return Ok(0);
        }
        None | Some("table") => r"table {{.Name}}\t{{.URI}}\t{{.Identity}}\t{{.Default}}\t{{.ReadWrite}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "list",
        type_name: "system.namedDestination",
        format,
        headings: &[
            ("URI", "URI"),
            ("ReadWrite", "ReadWrite"),
            ("Name", "Name"),
            ("Identity", "Identity"),
            ("Default", "Default"),
        ],
        no_heading: false,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(Vec::new());
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}
