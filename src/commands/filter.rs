//! `--filter` of `ps` and its kin, of `images` and of `volume ls`.

use jiff::{SignedDuration, Timestamp};
use storage::image::store::ImageStore;
use storage::reference::Reference;
use storage::state::container::{self, Record};
use storage::state::request::{Mount, RestartPolicy};
use storage::state::status::{self, Observed, State};

use super::Context;
use crate::cli::parse::duration::go_duration;
use crate::cli::pattern::{glob_fits, regex_is_found};
use crate::error::CommandError;

/// Splits `key=value`.
pub(crate) fn pair(filter: &str) -> Option<(&str, &str)> {
    filter.split_once('=').map(|(key, value)| (key.trim(), value))
}

/// Whether labels answer `key` or `key=value`; podman lets a value be a pattern with `*`.
pub(crate) fn label_fits<'a>(mut labels: impl Iterator<Item = (&'a String, &'a String)>, wanted: &str) -> bool {
    let (key, value) = match wanted.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (wanted, None),
    };
    labels.any(|(name, has)| name == key && value.is_none_or(|value| has == value || glob_fits(value, has)))
}

/// A moment: a duration back from now, seconds since 1970, or a date.
pub(crate) fn moment(text: &str) -> Result<Timestamp, CommandError> {
    let now = Timestamp::now();
    if let Some(time) = exact_seconds(text) {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<f64>()
        && let Ok(duration) = SignedDuration::try_from_secs_f64(seconds)
        && let Ok(time) = Timestamp::UNIX_EPOCH.checked_add(duration)
    {
        return Ok(time);
    }
    if let Some(duration) = go_duration(text)
        && let Ok(time) = now.checked_sub(duration)
    {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let zone = crate::cli::units::local_zone();
    let local = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.to_datetime(jiff::civil::Time::midnight())));
    local
        .ok()
        .and_then(|local| local.to_zoned(zone).ok())
        .map(|zoned| zoned.timestamp())
        .ok_or_else(|| CommandError::user(format_args!("failed to parse time value {text:?}")))
}

/// Seconds since 1970, to the nanosecond as they are written, which a floating point number could not hold.
fn exact_seconds(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(seconds) || !is_number(fraction) || fraction.len() > 9 {
        return None;
    }
    Timestamp::new(seconds.parse().ok()?, format!("{fraction:0<9}").parse().ok()?).ok()
}

/// As [`moment`], for ends: a span of time counts from now on.
pub(crate) fn moment_ahead(text: &str) -> Result<Timestamp, CommandError> {
    let ahead = go_duration(text).filter(|_| text.parse::<f64>().is_err());
    match ahead.and_then(|duration| Timestamp::now().checked_add(duration).ok()) {
        Some(time) => Ok(time),
        None => moment(text),
    }
}

/// Filters of containers. Values of one key are alternatives, keys all have to agree; every label has to.
#[derive(Debug, Default)]
pub(crate) struct ContainerFilters {
    alternatives: Vec<(Key, Vec<String>)>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    /// Image ids, and the references they were found by.
    ancestors: Vec<(String, Option<String>)>,
    /// Networks as they were typed, and their names.
    networks: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Id,
    Name,
    Label,
    NoLabel,
    Status,
    Exited,
    Ancestor,
    Volume,
    Network,
    Health,
    Pod,
    Publish,
    Expose,
    Until,
    RestartPolicy,
    ShouldStartOnBoot,
    Command,
}

impl ContainerFilters {
    /// Parses and resolves all filters of a command line.
    pub(crate) fn parse(context: &Context, filters: &[String]) -> Result<Self, CommandError> {
        let mut parsed =
            Self { alternatives: Vec::new(), before: None, since: None, ancestors: Vec::new(), networks: Vec::new() };
        for filter in filters {
            let bad = || {
                CommandError::user(format_args!("invalid filter {filter:?}: must be in the format \"filter=value\""))
            };
            let (key, value) = pair(filter).ok_or_else(bad)?;
            let key = match key {
                "id" => Key::Id,
                "name" => Key::Name,
                "label" => Key::Label,
                "label!" => Key::NoLabel,
                "status" => {
                    check_status(value)?;
                    Key::Status
                }
                "exited" => {
                    let invalid =
                        |_| CommandError::user(format_args!("exited code out of range {value:?}: invalid argument"));
                    value.parse::<i32>().map_err(invalid)?;
                    Key::Exited
                }
                "ancestor" => {
                    parsed.add_ancestor(context, value)?;
                    Key::Ancestor
                }
                "before" => {
                    let created = container::find(&context.layout, value)?.created;
                    parsed.before = Some(parsed.before.map_or(created, |before| before.min(created)));
                    continue;
                }
                "since" => {
                    let created = container::find(&context.layout, value)?.created;
                    parsed.since = Some(parsed.since.map_or(created, |since| since.max(created)));
                    continue;
                }
                "volume" => Key::Volume,
                "network" => {
                    // By name, id or another name of the default one; modes are no networks.
                    let found = crate::networks::find(&context.layout, value);
                    parsed.networks.extend(found.ok().map(|network| (value.to_owned(), network.name)));
                    Key::Network
                }
                "health" => Key::Health,
                "pod" => Key::Pod,
                "publish" => Key::Publish,
                "expose" => Key::Expose,
                "until" => {
                    let until = moment(value)?;
                    parsed.before = Some(parsed.before.map_or(until, |before| before.min(until)));
                    Key::Until
                }
                "restart-policy" => Key::RestartPolicy,
                "should-start-on-boot" => Key::ShouldStartOnBoot,
                "command" => Key::Command,
                other => return Err(CommandError::user(format_args!("{other} is an invalid filter"))),
            };
            match parsed.alternatives.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) => values.push(value.to_owned()),
                None => parsed.alternatives.push((key, vec![value.to_owned()])),
            }
        }
        Ok(parsed)
    }

    fn add_ancestor(&mut self, context: &Context, value: &str) -> Result<(), CommandError> {
        let found = ImageStore::open(&context.layout).resolve(value)?;
        let reference = Reference::parse(value).ok().map(|name| name.with_default_tag().to_string());
        self.ancestors.push((found.map_or_else(|| value.to_owned(), |image| image.id.to_string()), reference));
        Ok(())
    }

    /// Whether a state is asked for, so that `ps` shows more than what runs.
    pub(crate) fn asks_for_state(&self) -> bool {
        self.alternatives.iter().any(|(key, _)| matches!(key, Key::Status | Key::Exited | Key::Health))
    }

    /// Whether all filters accept a container.
    pub(crate) fn accept(&self, context: &Context, record: &Record) -> Result<bool, CommandError> {
        let needs_state = self.asks_for_state();
        let observed = if needs_state { Some(status::observe(&context.layout, record)?) } else { None };
        Ok(self.accept_observed(record, observed.as_ref()))
    }

    /// As [`Self::accept`], for a caller who knows the state.
    pub(crate) fn accept_observed(&self, record: &Record, observed: Option<&Observed>) -> bool {
        self.before.is_none_or(|before| record.created < before)
            && self.since.is_none_or(|since| record.created > since)
            && self.alternatives.iter().all(|(key, values)| self.accepts(*key, values, record, observed))
    }

    fn accepts(&self, key: Key, values: &[String], record: &Record, observed: Option<&Observed>) -> bool {
        let request = &record.request;
        let any = |fits: &dyn Fn(&str) -> bool| values.iter().any(|value| fits(value));
        match key {
            Key::Id => any(&|value| {
                record.id.as_str().starts_with(&value.to_ascii_lowercase())
                    || (value.starts_with('^') && regex_is_found(value, record.id.as_str()))
            }),
            Key::Name => any(&|value| regex_is_found(value.trim_start_matches('/'), &record.name)),
            Key::Label => values.iter().all(|value| label_fits(request.labels.iter(), value)),
            Key::NoLabel => !any(&|value| label_fits(request.labels.iter(), value)),
            Key::Status => observed.is_some_and(|observed| any(&|value| status_fits(value, observed))),
            Key::Exited => observed.is_some_and(|observed| {
                let code = observed.state.exit().map(|exit| exit.code.to_string());
                any(&|value| Some(value) == code.as_deref())
            }),
            Key::Ancestor => record.image.as_ref().is_some_and(|image| {
                let id = image.id.to_string();
                self.ancestors.iter().any(|(ancestor, reference)| {
                    *ancestor == id
                        || reference.as_deref() == Some(image.full.as_str())
                        || (ancestor.len() >= 2 && image.id.hex().starts_with(ancestor.as_str()))
                })
            }),
            Key::Volume => any(&|value| {
                let (wanted, target) = value.split_once(':').map_or((value, None), |(a, b)| (a, Some(b)));
                request.mounts.iter().any(|mount| {
                    let source = match mount {
                        Mount::Bind(mount) => mount.source.to_str(),
                        Mount::Volume(mount) => mount.name.as_deref(),
                        Mount::Image(mount) => Some(mount.image.as_str()),
                        Mount::Tmpfs(_) | Mount::Devpts(_) => None,
                    };
                    let at = mount.target().to_str();
                    match target {
                        Some(target) => source == Some(wanted) && at == Some(target),
                        None => source == Some(wanted) || at == Some(wanted),
                    }
                })
            }),
            Key::Network => {
                let places = request.network.places();
                let on = |name: &str| places.iter().any(|place| place.network == name);
                any(&|value| {
                    let by_id = self.networks.iter().find(|(typed, _)| typed == value);
                    value == request.network.mode.split(':').next().unwrap_or_default() && !request.network.is_bridge()
                        || on(by_id.map_or(value, |(_, name)| name))
                })
            }
            Key::Health => observed.is_some_and(|observed| {
                let health = observed.health.as_ref().map_or("none", |health| health.status.as_str());
                any(&|value| value == health)
            }),
            Key::Pod => any(&|value| match &request.pod {
                Some(id) => value == request.pod_name || !value.is_empty() && id.starts_with(value),
                None => value.is_empty(),
            }),
            Key::Publish => any(&|value| {
                port_fits(value, |port, protocol| {
                    request.network.published.iter().any(|published| {
                        let first = published.host_port.unwrap_or(published.container_port);
                        let range = first..first.saturating_add(published.range);
                        range.contains(&port) && protocol == published.protocol.as_str()
                    })
                })
            }),
            Key::Expose => any(&|value| {
                port_fits(value, |port, protocol| {
                    request.network.exposed.iter().any(|exposed| {
                        let range = exposed.port..exposed.port.saturating_add(exposed.range);
                        range.contains(&port) && protocol == exposed.protocol.as_str()
                    })
                })
            }),
            Key::Until => true,
            Key::RestartPolicy => any(&|value| value == restart_policy_name(request.restart)),
            Key::ShouldStartOnBoot => {
                let starts = match request.restart {
                    RestartPolicy::Always => true,
                    RestartPolicy::UnlessStopped => observed.is_none_or(|observed| !observed.stopped_by_user),
                    RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
                };
                any(&|value| matches!(value, "true" | "1") == starts)
            }
            Key::Command => any(&|value| request.args.first().is_some_and(|command| regex_is_found(value, command))),
        }
    }
}

/// The policy as `--restart` has it, without its count.
pub(crate) fn restart_policy_name(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::No => "no",
        RestartPolicy::Always => "always",
        RestartPolicy::UnlessStopped => "unless-stopped",
        RestartPolicy::OnFailure { .. } => "on-failure",
    }
}

fn port_fits(value: &str, fits: impl Fn(u16, &str) -> bool) -> bool {
    let (ports, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).any(|port| fits(port, protocol)),
        _ => false,
    }
}

const STATUSES: &[&str] = &[
    "created",
    "initialized",
    "running",
    "paused",
    "exited",
    "stopped",
    "stopping",
    "removing",
    "restarting",
    "dead",
    "configured",
    "unknown",
];

fn check_status(value: &str) -> Result<(), CommandError> {
    match STATUSES.contains(&value) {
        true => Ok(()),
        false => Err(CommandError::user(format_args!("unknown container state: {value}: invalid argument"))),
    }
}

fn status_fits(wanted: &str, observed: &Observed) -> bool {
    match wanted {
        // Two words each for one thing.
        "stopped" => matches!(observed.state, State::Stopped { .. }),
        "configured" => observed.state == State::Created,
        wanted => observed.state.as_str() == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_relative_absolute_or_seconds() {
        assert_eq!(moment("1700000000").unwrap(), Timestamp::from_second(1_700_000_000).unwrap());
        assert_eq!(moment("1700000000.123456789").unwrap().as_nanosecond(), 1_700_000_000_123_456_789);
        assert_eq!(moment("2024-01-02T03:04:05Z").unwrap().as_second(), 1_704_164_645);
        assert!(moment("10m").unwrap() < Timestamp::now());
        assert!(moment("2024-01-02").is_ok() && moment("2024-01-02T03:04").is_ok());
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn labels_fit_by_key_value_and_pattern() {
        let labels =
            std::collections::BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        for (wanted, fits) in
            [("a", true), ("a=b", true), ("a=x", false), ("a=*", true), ("c=", true), ("c", true), ("d", false)]
        {
            assert_eq!(label_fits(labels.iter(), wanted), fits, "{wanted}");
        }
    }
}
