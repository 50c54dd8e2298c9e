//! Probes → the container's health check.

use std::time::Duration;

use storage::state::request::{HealthAction, Healthcheck, RestartPolicy};

use crate::commands::kube::model::{Container, PortRef, Probe};

/// The check that a container's probes ask for; nothing without any.
///
/// There are no checks of their own for the start: a startup probe gives the liveness probe the time that it would have
/// had, and is the check itself where there is no other.
pub(super) fn check(container: &Container, restart: RestartPolicy) -> Result<Healthcheck, String> {
    let asks = |probe: &&Probe| probe.exec.is_some() || probe.http_get.is_some() || probe.tcp_socket.is_some();
    let liveness = container.liveness_probe.as_ref().filter(asks);
    let startup = container.startup_probe.as_ref().filter(asks);
    let Some(probe) = liveness.or(startup) else { return Ok(Healthcheck::default()) };
    let mut check = one(probe, container)?;
    if let Some(startup) = startup {
        let startup = one(startup, container)?;
        let times = startup.retries.unwrap_or(1);
        let time = startup.interval.unwrap_or_default().saturating_mul(times);
        let before = startup.start_period.unwrap_or_default();
        check.start_period = check.start_period.max(Some(before.saturating_add(time)));
    }
    if restart != RestartPolicy::No {
        check.on_failure = HealthAction::Restart;
    }
    Ok(check)
}

fn one(probe: &Probe, container: &Container) -> Result<Healthcheck, String> {
    let or = |number: u32, default: u32| if number == 0 { default } else { number };
    let seconds = |number: u32| Duration::from_secs(number.into());
    Ok(Healthcheck {
        test: test(probe, container)?,
        interval: Some(seconds(or(probe.period_seconds, 10))),
        timeout: Some(seconds(or(probe.timeout_seconds, 1))),
        retries: Some(or(probe.failure_threshold, 3)),
        start_period: Some(seconds(probe.initial_delay_seconds)).filter(|time| !time.is_zero()),
        ..Healthcheck::default()
    })
}

/// As podman has it: by the container's own curl and nc.
fn test(probe: &Probe, container: &Container) -> Result<Vec<String>, String> {
    let shell = |text: String| Ok(vec!["CMD-SHELL".to_owned(), text]);
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    if let Some(exec) = &probe.exec {
        if exec.command.is_empty() {
            return Err("exec.command is empty".to_owned());
        }
        return Ok(std::iter::once("CMD".to_owned()).chain(exec.command.iter().cloned()).collect());
    }
    if let Some(get) = &probe.http_get {
        let (scheme, host) = (or(&get.scheme, "HTTP"), or(&get.host, "localhost"));
        let url = format!("{scheme}://{host}:{}{}", port(&get.port, container)?, or(&get.path, "/"));
        // It goes to a shell.
        if url.contains(|c: char| c.is_whitespace() || c.is_control() || "'\"\\`$;|<>(){}*!#".contains(c)) {
            return Err(format!("httpGet: {url:?} is no address"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '.' | '-' | '_');
        let quote = if url.chars().all(is_plain) { "" } else { "'" };
        return shell(format!("curl -f {quote}{url}{quote} || exit 1"));
    }
    let Some(socket) = &probe.tcp_socket else { return Err("neither exec nor httpGet nor tcpSocket".to_owned()) };
    let host = or(&socket.host, "localhost");
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_')) {
        return Err(format!("tcpSocket.host: {host:?} is no name of a host"));
    }
    shell(format!("nc -z -v {host} {} || exit 1", port(&socket.port, container)?))
}

fn port(port: &PortRef, container: &Container) -> Result<u16, String> {
    if let Ok(number) = port.0.parse() {
        return Ok(number);
    }
    let named = container.ports.iter().find(|other| !port.0.is_empty() && other.name == port.0);
    named.map(|port| port.container_port).ok_or_else(|| format!("unknown port: {}", port.0))
}
