//! `port`: where the ports of a container can be reached.

use storage::state::container::Record;
use storage::state::status::{self, Port};

use super::select::{self, Selection};
use super::{Context, Outcome, ps};
use crate::cli::output;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle port web
  coracle port web 80/tcp"#;

/// List port mappings or a specific mapping for the container
///
/// List port mappings for the CONTAINER, or look up the public-facing port that is NAT-ed to the PRIVATE_PORT.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// Port of the container, with its protocol unless that is tcp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
    /// Display port information for all containers
    #[arg(short, long)]
    all: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    // With --latest the only argument is the port.
    let (names, port) = match (args.container, args.port, args.latest) {
        (Some(port), None, true) => (Vec::new(), Some(port)),
        (container, port, _) => (container.into_iter().collect::<Vec<_>>(), port),
    };
    if names.is_empty() && !args.all && !args.latest {
        return Err(CommandError::user("you must supply a running container name or id"));
    }
    let wanted = port.as_deref().map(parse).transpose()?;
    let selection = Selection { names: &names, all: args.all, latest: args.latest, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    select::each(&selected, errors, |one| {
        let observed = status::observe(&context.layout, &one.record)?;
        if !observed.state.is_alive() {
            return Ok(());
        }
        output::print(&lines(&one.record, &ps::ports(&one.record, &observed), wanted.as_ref(), args.all)?)
    })
}

fn parse(text: &str) -> Result<(u16, String), CommandError> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port.parse().map_err(|_| CommandError::user(format_args!("invalid port {text:?}")))?;
    Ok((port, protocol.to_ascii_lowercase()))
}

fn lines(
    record: &Record,
    ports: &[Port],
    wanted: Option<&(u16, String)>,
    with_id: bool,
) -> Result<String, CommandError> {
    let mut text = String::new();
    for port in ports {
        for offset in 0..port.range.max(1) {
            let address = match port.host_ip {
                Some(ip) if ip.is_ipv6() => format!("[{ip}]"),
                Some(ip) => ip.to_string(),
                None => "0.0.0.0".to_owned(),
            };
            let host = format!("{address}:{}", port.host_port.saturating_add(offset));
            let inside = port.container_port.saturating_add(offset);
            let protocol = port.protocol.as_str();
            match wanted {
                Some((number, name)) if *number == inside && name == protocol => text.push_str(&format!("{host}\n")),
                Some(_) => {}
                None if with_id => text.push_str(&format!("{}\t{inside}/{protocol} -> {host}\n", record.id.short())),
                None => text.push_str(&format!("{inside}/{protocol} -> {host}\n")),
            }
        }
    }
    match wanted {
        Some((number, _)) if text.is_empty() => {
            Err(CommandError::user(format_args!("failed to find published port \"{number}\"")))
        }
        _ => Ok(text),
    }
}
