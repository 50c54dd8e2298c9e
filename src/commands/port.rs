//! `port`: where the ports of a container can be reached, and more or fewer of them while it runs.

mod publish;

use storage::state::container::Record;
use storage::state::status::{self, Port};

use super::select::{self, Selection};
use super::{Context, Outcome, ps};
use crate::cli::output;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle port web
  coracle port web 80/tcp
  coracle port add web 8443:443
  coracle port rm web 8443:443"#;

/// List port mappings or a specific mapping for the container
///
/// List port mappings for the CONTAINER, or look up the public-facing port that is NAT-ed to the PRIVATE_PORT.
///
/// With `add` or `rm` before the CONTAINER, publish more of its ports, or take some back: PORT is what `run --publish` takes.
/// A container that runs is not disturbed, and keeps the change for its later starts. Connections through a port that is
/// taken back go on.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// Port of the container, with its protocol unless that is tcp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
    /// After `add` or `rm`: ports, as `run --publish` takes them
    #[arg(value_name = "PUBLISHED")]
    published: Vec<String>,
    /// Display port information for all containers
    #[arg(short, long)]
    all: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if !args.published.is_empty() {
        let is_chosen = args.all || args.latest;
        return match (args.container.as_deref(), args.port.as_deref()) {
            (Some("add"), Some(name)) if !is_chosen => publish::add(context, name, &args.published),
            (Some("rm"), Some(name)) if !is_chosen => publish::remove(context, name, &args.published),
            _ => Err(CommandError::user(format_args!("unexpected argument {:?}", args.published[0]))),
        };
    }
    // With --latest the only argument is the port.
    let (names, port) = match (args.container, args.port, args.latest) {
        (Some(port), None, true) => (Vec::new(), Some(port)),
        (container, port, _) => (container.into_iter().collect::<Vec<_>>(), port),
    };
    if names.is_empty() && !args.all && !args.latest {
        return Err(CommandError::user("you must supply a running container name or id"));
    }
    let wanted = port.as_deref().map(|text| parse(text).map(|port| (text, port))).transpose()?;
    let selection = Selection { names: &names, all: args.all, latest: args.latest, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    select::each(&selected, errors, |one| {
        let observed = status::observe(&context.layout, &one.record)?;
        if !observed.state.is_alive() {
            return Ok(());
        }
        output::print(&lines(
            &one.record,
            &ps::shared_ports(&context.layout, &one.record, &observed),
            wanted.as_ref(),
            args.all,
        )?)
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
    wanted: Option<&(&str, (u16, String))>,
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
                Some((_, (number, name))) if *number == inside && name == protocol => {
                    text.push_str(&format!("{host}\n"))
                }
                Some(_) => {}
                None if with_id => text.push_str(&format!("{}\t{inside}/{protocol} -> {host}\n", record.id.short())),
                None => text.push_str(&format!("{inside}/{protocol} -> {host}\n")),
            }
        }
    }
    match wanted {
        Some((typed, _)) if text.is_empty() => {
            Err(CommandError::user(format_args!("failed to find published port {typed:?}")))
        }
        _ => Ok(text),
    }
}
