//! `port add` and `port rm`: the record says what is published, and the supervisor does what the record says.

use net::mode::Mode;
use runtime::monitor::attach::{Answer, Question};
use storage::state::container::{self, Record};
use storage::state::request::PublishedPort;
use storage::state::status::{self, Port};

use super::lines;
use crate::cli::{output, parse};
use crate::commands::{Context, Outcome, pause, ps};
use crate::error::CommandError;
use crate::supervisor::network;

/// Publishes more ports, and prints where they are.
pub(super) fn add(context: &Context, name: &str, specs: &[String]) -> Outcome {
    let record = container::find(&context.layout, name).map_err(CommandError::user)?;
    let mode = Mode::parse(&record.request.network.mode).map_err(CommandError::user)?;
    if !mode.can_publish() {
        return Err(CommandError::user(format_args!(
            "container {} has no network of its own to publish ports of",
            record.name
        )));
    }
    let mut wanted = parse_all(specs)?;
    if status::observe(&context.layout, &record)?.state.is_alive() {
        // Its supervisor binds them; what stands in the way is better told from here.
        wanted = network::choose(&context.layout, &wanted)?;
    }
    let published = &record.request.network.published;
    let after = published.iter().cloned().chain(wanted.into_iter().filter(|one| !published.contains(one))).collect();
    let before = ps::ports(&record, &status::observe(&context.layout, &record)?);
    let changed = change(context, &record, after)?;
    let mut now = ps::ports(&changed, &status::observe(&context.layout, &changed)?);
    now.retain(|port| !before.contains(port));
    output::print(&lines(&changed, &now, None, false)?)?;
    Ok(0)
}

/// Publishes fewer ports.
pub(super) fn remove(context: &Context, name: &str, specs: &[String]) -> Outcome {
    let record = container::find(&context.layout, name).map_err(CommandError::user)?;
    let bound = ps::ports(&record, &status::observe(&context.layout, &record)?);
    let mut kept: Vec<PublishedPort> = record.request.network.published.iter().flat_map(singles).collect();
    for (spec, text) in parse_all(specs)?.iter().zip(specs) {
        for one in singles(spec) {
            let count = kept.len();
            kept.retain(|other| !is_meant(&one, other, &bound));
            if kept.len() == count {
                return Err(CommandError::user(format_args!("container {} does not publish {text}", record.name)));
            }
        }
    }
    change(context, &record, kept)?;
    output::print_line(name)?;
    Ok(0)
}

fn parse_all(specs: &[String]) -> Result<Vec<PublishedPort>, CommandError> {
    specs.iter().map(|spec| parse::ports::published(spec).map_err(CommandError::user)).collect()
}

/// One for each port of a range.
fn singles(port: &PublishedPort) -> Vec<PublishedPort> {
    let single = |offset: u16| PublishedPort {
        host_port: port.host_port.map(|first| first.saturating_add(offset)),
        container_port: port.container_port.saturating_add(offset),
        range: 1,
        ..port.clone()
    };
    (0..port.range.max(1)).map(single).collect()
}

/// Whether somebody who says `said` means `port`. What is not said is any; a port that was chosen at the start is meant by
/// the number that it has.
fn is_meant(said: &PublishedPort, port: &PublishedPort, bound: &[Port]) -> bool {
    let is_bound = |number: u16| {
        let mut of_port = bound.iter().filter(|one| one.container_port == port.container_port);
        of_port.any(|one| one.host_port == number)
    };
    let has_number = |number: u16| match port.host_port {
        Some(first) => {
            (first..=port.host_port_end.unwrap_or(first)).contains(&number) && (first == number || is_bound(number))
        }
        None => is_bound(number),
    };
    (said.container_port, said.protocol) == (port.container_port, port.protocol)
        && said.host_port.is_none_or(has_number)
        && said.host_ip.is_none_or(|ip| port.host_ip == Some(ip))
}

/// Writes what is published from now on, and has the supervisor do it; what it cannot is taken back.
fn change(context: &Context, record: &Record, published: Vec<PublishedPort>) -> Result<Record, CommandError> {
    let write = |published: Vec<PublishedPort>| {
        container::update(&context.layout, &record.id, |request| request.network.published = published)
    };
    write(published)?;
    if let Some(Answer::Failed(errno)) = pause::ask(context, record, Question::Reload)? {
        write(record.request.network.published.clone())?;
        let reason = nix::errno::Errno::from_raw(errno).desc().to_lowercase();
        return Err(CommandError::host(format_args!("container {}: ports: {reason}", record.name)));
    }
    context.note(record, "update");
    container::find(&context.layout, record.id.as_str()).map_err(CommandError::user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_meant_by_what_is_said_of_them() {
        let port = |text: &str| parse::ports::published(text).unwrap();
        let bound =
            [Port { host_ip: None, host_port: 40000, container_port: 80, range: 1, protocol: port("80").protocol }];
        for (said, published, expected) in [
            ("8080:80", "8080:80", true),
            ("80", "8080:80", true),
            ("80", "8080:81", false),
            ("8081:80", "8080:80", false),
            ("8080:80/udp", "8080:80", false),
            ("127.0.0.1:8080:80", "8080:80", false),
            ("8080:80", "127.0.0.1:8080:80", true),
            ("40000:80", "80", true),
            ("40001:80", "80", false),
        ] {
            assert_eq!(is_meant(&port(said), &port(published), &bound), expected, "{said} {published}");
        }
    }

    #[test]
    fn a_range_is_one_port_after_the_other() {
        let all: Vec<(Option<u16>, u16)> = singles(&parse::ports::published("8000-8002:80-82").unwrap())
            .iter()
            .map(|one| (one.host_port, one.container_port))
            .collect();
        assert_eq!(all, [(Some(8000), 80), (Some(8001), 81), (Some(8002), 82)]);
    }
}
