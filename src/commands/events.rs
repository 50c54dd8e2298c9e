//! `events`: the journal, and what is added to it as it happens.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::monitor::event_loop::{Interest, Turn};
use storage::state::events::{Event, Follower, Kind};

use super::filter::{self, label_fits};
use super::{Context, Outcome};
use crate::cli::format::{Json, Template, Value, is_json, normalize};
use crate::cli::printable::Printable;
use crate::cli::{output, units};
use crate::error::CommandError;
use crate::role::Persona;

/// Show system events
///
/// Prints new events as they occur. Previous events can be listed with --since and --until. The journal is `events` in
/// the data directory; it keeps the last 8 to 16 MiB.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Filter output: container, event, image, label, pod, type or volume (e.g. 'event=start')
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Format the output using a Go template, or as json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long, default_value = "true")]
    no_trunc: bool,
    /// Show all events created since timestamp
    #[arg(long, value_name = "TIMESTAMP")]
    since: Option<String>,
    /// Go on when the last known event has been shown
    #[arg(long, default_value = "true")]
    stream: bool,
    /// Show all events until timestamp
    #[arg(long, value_name = "TIMESTAMP")]
    until: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let filters = Filters::parse(&args.filters)?;
    let moment = |text: &Option<String>, name, parse: fn(&str) -> Result<Timestamp, CommandError>| {
        let parse = |text: &String| {
            let bad = |_| CommandError::user(format_args!("unable to convert {name} time of {text}"));
            parse(text).map_err(bad)
        };
        text.as_ref().map(parse).transpose()
    };
    let since = moment(&args.since, "since", filter::moment)?;
    let until = moment(&args.until, "until", filter::moment_ahead)?;
    let style = Style::of(&args, context.persona)?;
    let from_start = since.is_some() || until.is_some() || !args.stream;
    let mut follower = Follower::new(&context.layout, from_start).map_err(CommandError::host)?;
    let deadline = until.map(|until| {
        Instant::now() + Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
    });
    loop {
        // Whatever happened before the end is in the journal when it is read after the end.
        let last = !args.stream || deadline.is_some_and(|deadline| deadline <= Instant::now());
        let events = follower.read().map_err(CommandError::host)?;
        let mut text = String::new();
        for event in events {
            let in_time = since.is_none_or(|since| event.time > since) && until.is_none_or(|until| event.time < until);
            if in_time && filters.accept(&event, context.persona) {
                style.render(&event, &mut text)?;
            }
        }
        if !text.is_empty() {
            output::print(&text)?;
        }
        if last || !wait(&follower, deadline)? {
            return Ok(0);
        }
    }
}

/// Waits until there may be more to show; `false` if nobody looks any more.
fn wait(follower: &Follower, deadline: Option<Instant>) -> Result<bool, CommandError> {
    let stdout = std::io::stdout();
    let mut turn = Turn::new();
    turn.watch(follower.as_fd(), Interest::Read, true);
    turn.watch(stdout.as_fd(), Interest::Hangup, false);
    let ready = turn
        .wait(deadline)
        .map_err(|errno| CommandError::host(format_args!("poll(): {}", errno.desc().to_lowercase())))?;
    Ok(ready.iter().all(|ready| ready.event))
}

/// As Go marshals.
const JSON: Json = Json { indent: None, escape_html: true, open_empty_maps: false };

/// How an event is printed.
enum Style {
    Podman { no_trunc: bool },
    Docker,
    Json,
    Template(Template, Persona),
}

impl Style {
    fn of(args: &Args, persona: Persona) -> Result<Self, CommandError> {
        Ok(match (args.format.as_deref(), persona) {
            (None | Some(""), Persona::Podman) => Self::Podman { no_trunc: args.no_trunc },
            (None | Some(""), Persona::Docker) => Self::Docker,
            (Some(format), Persona::Podman) if is_json(format) => Self::Json,
            (Some("json"), Persona::Docker) => Self::Template(Template::parse("events", "{{json .}}\n")?, persona),
            (Some(format), _) => Self::Template(Template::parse("events", &normalize(format))?, persona),
        })
    }

    fn render(&self, event: &Event, out: &mut String) -> Result<(), CommandError> {
        match self {
            Self::Podman { no_trunc } => *out += &format!("{}\n", line(event, *no_trunc)),
            Self::Docker => *out += &docker_line(event),
            Self::Json => *out += &format!("{}\n", fields(event).to_json(JSON)),
            Self::Template(template, persona) => {
                let value = match persona {
                    Persona::Podman => fields(event),
                    Persona::Docker => docker_fields(event),
                };
                let (text, error) = template.execute(&value, "system.Event");
                *out += &text;
                if let Some(error) = error {
                    output::print(out)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// podman's line. Labels stand in the order of their names; in podman they stand in none.
fn line(event: &Event, no_trunc: bool) -> String {
    let Event { kind, action, name, .. } = event;
    let id = if no_trunc { event.id.as_str() } else { event.id.get(..12).unwrap_or(&event.id) };
    let start = format!("{} {} {action}", units::go_time(Some(event.time)), kind.as_str());
    let text = match kind {
        Kind::Container | Kind::Pod => {
            let mut text = format!("{start} {id} (image={}, name={name}", event.image);
            let optional = [("pod_id", &event.pod), ("health_status", &event.health)];
            let optional = optional.into_iter().filter(|(_, value)| !value.is_empty());
            let labels = event.attributes.iter().map(|(key, value)| (key.as_str(), value));
            text.extend(optional.chain(labels).map(|(key, value)| format!(", {key}={value}")));
            text + ")"
        }
        Kind::Network => match event.attributes.get("type") {
            Some(driver) => format!("{start} {id} (name={name}, type={driver})"),
            None => format!("{start} {id} (container={id}, name={name})"),
        },
        Kind::Image if event.error.is_empty() => format!("{start} {id} {name}"),
        Kind::Image => format!("{start} {id} {name} {}", event.error),
        Kind::Secret => format!("{start} {id}"),
        Kind::System if name.is_empty() => start,
        Kind::Volume | Kind::System => format!("{start} {name}"),
    };
    Printable::line(&text).to_string()
}

/// What podman's templates and its JSON know.
fn fields(event: &Event) -> Value {
    let text = |text: &str| Value::str(text).omitempty();
    let is_network = event.kind == Kind::Network;
    let mut fields = match event.exit_code {
        Some(code) => vec![("ContainerExitCode", Value::Int(i64::from(code)))],
        None => vec![("ContainerExitCode", Value::Omitted(Box::new(Value::Nil)))],
    };
    let attributes = match (event.kind, event.attributes.is_empty()) {
        (Kind::Container | Kind::Pod, _) | (_, false) => Value::map(&event.attributes),
        _ => Value::NilMap,
    };
    fields.extend([
        ("ID", text(&event.id)),
        ("Image", text(&event.image)),
        ("Name", text(if is_network { "" } else { &event.name })),
        ("Network", Value::Omitted(Box::new(Value::str(if is_network { &event.name } else { "" })))),
        ("Status", event.action.as_str().into()),
        ("Time", Value::Omitted(Box::new(Value::Int(event.time.as_second())))),
        ("TimeNano", Value::Omitted(Box::new(nanoseconds(event)))),
        ("time", Value::Int(event.time.as_second())),
        ("timeNano", nanoseconds(event)),
        ("Type", event.kind.as_str().into()),
        ("HealthStatus", Value::Omitted(Box::new(event.health.as_str().into()))),
    ]);
    if is_network {
        fields.push(("network", event.name.as_str().into()));
    }
    if !event.health.is_empty() {
        fields.push(("health_status", event.health.as_str().into()));
    }
    fields.extend([("Error", text(&event.error)), ("PodID", text(&event.pod)), ("Attributes", attributes)]);
    Value::Struct(fields)
}

fn nanoseconds(event: &Event) -> Value {
    Value::Int(i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX))
}

/// docker's word for what happened; nothing if docker does not tell.
fn docker_action(event: &Event) -> Option<&str> {
    Some(match (event.kind, event.action.as_str()) {
        (Kind::Container, "init" | "cleanup") => return None,
        (Kind::Container, "died") => "die",
        (Kind::Container, "exec") => "exec_start",
        (Kind::Container, "exec_died") => "exec_die",
        (Kind::Image, "remove") => "delete",
        (Kind::Image, "loadfromarchive") => "load",
        (Kind::Container | Kind::Volume | Kind::Network, "remove") => "destroy",
        (_, action) => action,
    })
}

fn docker_attributes(event: &Event) -> std::collections::BTreeMap<String, String> {
    let mut attributes = event.attributes.clone();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            attributes.insert(key.to_owned(), value.to_owned());
        }
    };
    add("image", &event.image);
    match event.kind {
        Kind::Volume => add("driver", "local"),
        _ => add("name", &event.name),
    }
    add("exitCode", &event.exit_code.map(|code| code.to_string()).unwrap_or_default());
    attributes
}

fn docker_id(event: &Event) -> &str {
    if event.id.is_empty() { &event.name } else { &event.id }
}

fn docker_line(event: &Event) -> String {
    let Some(action) = docker_action(event) else { return String::new() };
    let attributes: Vec<String> =
        docker_attributes(event).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(" ({})", attributes.join(", ")),
    };
    let zoned = event.time.to_zoned(units::local_zone());
    let zone = if zoned.offset().is_zero() { "Z" } else { "%:z" };
    let time = zoned.strftime(&format!("%Y-%m-%dT%H:%M:%S.%9f{zone}")).to_string();
    let text = format!("{time} {} {action} {}{attributes}", event.kind.as_str(), docker_id(event));
    format!("{}\n", Printable::line(&text))
}

fn docker_fields(event: &Event) -> Value {
    let action = docker_action(event).unwrap_or(&event.action);
    let id = docker_id(event);
    let mut fields: Vec<(&'static str, Value)> = Vec::new();
    if matches!(event.kind, Kind::Container | Kind::Image) {
        fields.extend([("status", action.into()), ("id", id.into())]);
    }
    if event.kind == Kind::Container {
        fields.push(("from", event.image.as_str().into()));
    }
    let seconds = Value::Int(event.time.as_second());
    let hidden = |value: Value| Value::Omitted(Box::new(value));
    fields.extend([
        ("Type", event.kind.as_str().into()),
        ("Action", action.into()),
        ("Actor", Value::Struct(vec![("ID", id.into()), ("Attributes", Value::map(&docker_attributes(event)))])),
        ("scope", "local".into()),
        ("time", seconds.clone()),
        ("timeNano", nanoseconds(event)),
        ("Status", hidden(action.into())),
        ("ID", hidden(id.into())),
        ("From", hidden(event.image.as_str().into())),
        ("Scope", hidden("local".into())),
        ("Time", hidden(seconds)),
        ("TimeNano", hidden(nanoseconds(event))),
    ]);
    Value::Struct(fields)
}

/// Filters of one key are alternatives, those of several must all fit.
struct Filters(Vec<(&'static str, Vec<String>)>);

const KEYS: &[(&str, &str)] = &[
    ("container", "container"),
    ("event", "event"),
    ("status", "event"),
    ("image", "image"),
    ("label", "label"),
    ("network", "network"),
    ("pod", "pod"),
    ("type", "type"),
    ("volume", "volume"),
];

impl Filters {
    fn parse(texts: &[String]) -> Result<Self, CommandError> {
        let mut filters: Vec<(&'static str, Vec<String>)> = Vec::new();
        for text in texts {
            let bad = || CommandError::user(format_args!("{text} is an invalid filter"));
            let (key, value) = text.split_once('=').ok_or_else(bad)?;
            let (_, key) = KEYS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .ok_or_else(|| CommandError::user(format_args!("{key} is an invalid filter")))?;
            match filters.iter_mut().find(|(known, _)| known == key) {
                Some((_, values)) => values.push(value.to_owned()),
                None => filters.push((key, vec![value.to_owned()])),
            }
        }
        Ok(Self(filters))
    }

    fn accept(&self, event: &Event, persona: Persona) -> bool {
        if persona == Persona::Docker && docker_action(event).is_none() {
            return false;
        }
        self.0.iter().all(|(key, values)| values.iter().any(|value| fits(event, key, value)))
    }
}

fn fits(event: &Event, key: &str, value: &str) -> bool {
    let named = |kind| event.kind == kind && (event.name == value || event.id.starts_with(value));
    match key {
        "container" => named(Kind::Container),
        "event" => event.action == value || docker_action(event) == Some(value),
        "image" => match event.kind {
            Kind::Image => named(Kind::Image) || short_name(&event.name) == short_name(value),
            Kind::Container => event.image == value || short_name(&event.image) == short_name(value),
            _ => false,
        },
        "label" => label_fits(event.attributes.iter(), value),
        "network" => named(Kind::Network),
        "pod" => named(Kind::Pod) || (!event.pod.is_empty() && event.pod.starts_with(value)),
        "type" => event.kind.as_str() == value,
        _ => event.kind == Kind::Volume && event.name.starts_with(value),
    }
}

/// A reference without what may be left out of it.
fn short_name(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/library/").or_else(|| name.strip_prefix("localhost/")).unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let mut event = Event::new(Kind::Container, "died", "2f8908ba7336c4b5", "web").with_exit_code(7);
        event.time = Timestamp::from_nanosecond(1_795_258_720_721_679_284).unwrap();
        event.image = "localhost/bb:latest".to_owned();
        event.attributes.insert("a".to_owned(), "b".to_owned());
        event
    }

    #[test]
    fn lines_and_json_are_podmans() {
        let line = line(&event(), false);
        let (time, rest) = line.split_once(" container ").unwrap();
        assert!(time.contains(":40.721679284 "), "{time}");
        assert_eq!(rest, "died 2f8908ba7336 (image=localhost/bb:latest, name=web, a=b)");
        assert_eq!(
            fields(&event()).to_json(JSON),
            r#"{"ContainerExitCode":7,"ID":"2f8908ba7336c4b5","Image":"localhost/bb:latest","Name":"web","Status":"died","time":1795258720,"timeNano":1795258720721679284,"Type":"container","Attributes":{"a":"b"}}"#
        );
        let volume = Event { time: event().time, ..Event::new(Kind::Volume, "create", "", "vol1") };
        assert_eq!(
            fields(&volume).to_json(JSON),
            r#"{"Name":"vol1","Status":"create","time":1795258720,"timeNano":1795258720721679284,"Type":"volume","Attributes":null}"#
        );
    }

    #[test]
    fn dockers_words_and_shape_differ() {
        let json = docker_fields(&event()).to_json(JSON);
        assert!(json.starts_with(r#"{"status":"die","id":"2f8908ba7336c4b5","from":"localhost/bb:latest","Type":"container","Action":"die","Actor":{"ID":"2f8908ba7336c4b5","Attributes":{"a":"b","exitCode":"7","image":"localhost/bb:latest","name":"web"}},"scope":"local","time":1795258720,"#), "{json}");
        assert!(
            docker_line(&event())
                .ends_with(" container die 2f8908ba7336c4b5 (a=b, exitCode=7, image=localhost/bb:latest, name=web)\n")
        );
    }

    #[test]
    fn filters_of_one_key_are_alternatives() {
        let accept = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Filters::parse(&texts).map(|filters| filters.accept(&event(), Persona::Podman))
        };
        for fitting in [
            &[][..],
            &["event=start", "event=died"],
            &["EVENT=die"],
            &["container=web", "type=container"],
            &["container=2f89", "label=a"],
            &["label=a=b"],
            &["image=bb"],
        ] {
            assert!(accept(fitting).unwrap(), "{fitting:?}");
        }
        for other in [&["event=start"][..], &["event=died", "type=image"], &["container=we"], &["volume=web"]] {
            assert!(!accept(other).unwrap(), "{other:?}");
        }
        assert_eq!(accept(&["colour=red"]).unwrap_err().to_string(), "colour is an invalid filter");
        assert!(accept(&["event"]).is_err());
    }
}
