//! `context`: docker's word for where its daemon is. There is one place, this machine.

use clap::Subcommand;

use super::{Context, Outcome};
use crate::cli::format::{Json, Listing, Template, Value, enforce_range, is_json, normalize};
use crate::cli::output;
use crate::error::CommandError;

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Display detailed information on one or more contexts
    Inspect {
        /// Names
        #[arg(value_name = "CONTEXT")]
        names: Vec<String>,
        /// Format the output to a Go template
        #[arg(short, long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// List contexts
    #[command(visible_alias = "list")]
    Ls {
        /// Format the output to JSON or a Go template
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
        /// Only show context names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print the name of the current context
    Show,
    /// Set the current context
    Use {
        /// The name
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
}

const NAME: &str = "default";
const DESCRIPTION: &str = "The containers of this user on this machine";

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Show => output::print_line(NAME)?,
        Command::Use { name } => {
            known(&name)?;
            output::print_line(NAME)?;
            eprintln!("Current context is now \"{NAME}\"");
        }
        Command::Ls { quiet: true, .. } => output::print_line(NAME)?,
        Command::Ls { format, .. } => return list(format.as_deref(), context),
        Command::Inspect { names, format } => {
            names.iter().try_for_each(|name| known(name))?;
            let list = Value::List(vec![document(context)]);
            match format {
                None => output::print_line(list.to_json(Json { indent: Some(4), ..Json::LINE }))?,
                Some(format) => {
                    let template = Template::parse("context", &enforce_range(&normalize(&format)))?;
                    let (text, error) = template.execute(&list, "*context.Context");
                    output::print(&text)?;
                    return error.map_or(Ok(0), Err);
                }
            }
        }
    }
    Ok(0)
}

fn known(name: &str) -> Result<(), CommandError> {
    match name {
        NAME => Ok(()),
        _ => Err(CommandError::user(format_args!(
            "context {name:?}: there is none but {NAME:?}: coracle acts on the machine it runs on"
        ))),
    }
}

/// Where a service for other programs would listen.
fn endpoint(context: &Context) -> String {
    let runtime_dir = context.layout.runtime_dir();
    let parent = runtime_dir.parent().unwrap_or(runtime_dir);
    format!("unix://{}/docker.sock", parent.display())
}

fn list(format: Option<&str>, context: &Context) -> Outcome {
    // The table marks the current one.
    let name = if matches!(format, None | Some("table")) { format!("{NAME} *") } else { NAME.to_owned() };
    let fields = || {
        vec![
            ("Name", name.as_str().into()),
            ("Description", DESCRIPTION.into()),
            ("DockerEndpoint", endpoint(context).into()),
            ("Current", true.into()),
            ("Error", "".into()),
            ("ContextType", "moby".into()),
        ]
    };
    let format = match format {
        None | Some("table") => "table {{.Name}}\\t{{.Description}}\\t{{.DockerEndpoint}}\\t{{.Error}}",
        Some(format) if is_json(format) => "{{json .}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "context",
        type_name: "*formatter.clientContextContext",
        format,
        headings: &[("DockerEndpoint", "DOCKER ENDPOINT"), ("Current", ""), ("ContextType", "TYPE")],
        no_heading: false,
        docker: true,
    };
    let (text, error) = listing.render(vec![Value::Row(fields(), Box::new(Value::Struct(fields())))]);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn document(context: &Context) -> Value {
    let docker = Value::Struct(vec![("Host", endpoint(context).into()), ("SkipTLSVerify", false.into())]);
    Value::Struct(vec![
        ("Name", NAME.into()),
        ("Metadata", Value::Struct(Vec::new())),
        ("Endpoints", Value::Struct(vec![("docker", docker)])),
        ("TLSMaterial", Value::Struct(Vec::new())),
        ("Storage", Value::Struct(vec![("MetadataPath", "<IN MEMORY>".into()), ("TLSPath", "<IN MEMORY>".into())])),
    ])
}
