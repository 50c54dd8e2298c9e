//! A container as a row: the fields of templates and of JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use storage::state::container::{Record, Summary};
use storage::state::request::{ExposedPorts, Mount, Protocol};
use storage::state::status::{HealthStatus, Observed, State};

use super::words::{image_name, mount_targets, network_names, pod_id, ports_text, status_text};
use super::{Bytes, Entry};
use crate::cli::colour::Colour;
use crate::cli::format::Value;
use crate::cli::printable::Printable;
use crate::cli::units;
use crate::commands::images::of_docker;
use crate::role::Persona;

/// How rows are made.
pub(super) struct View {
    pub(super) now: Timestamp,
    pub(super) no_trunc: bool,
    pub(super) with_size: bool,
    pub(super) with_namespaces: bool,
    pub(super) persona: Persona,
    /// On a terminal that takes colour.
    pub(super) is_coloured: bool,
}

/// The fields of `Namespaces`, and the files of `/proc/PID/ns`.
const NAMESPACES: [(&str, &str); 7] = [
    ("Mnt", "mnt"),
    ("Cgroup", "cgroup"),
    ("Ipc", "ipc"),
    ("Net", "net"),
    ("Pidns", "pid"),
    ("Uts", "uts"),
    ("User", "user"),
];

impl View {
    pub(super) fn row(&self, entry: &Entry<Box<Record>>) -> Value {
        let Entry { summary, record, observed, ports, .. } = entry;
        let request = &record.request;
        let id = if self.no_trunc { record.id.as_str() } else { record.id.short() };
        let command = self.command(summary);
        let created_ago = units::ago(record.created, self.now);
        let exit = observed.state.exit();
        let image_id = record.image.as_ref().map(|image| image.id.hex()).unwrap_or_default();
        let image_id = if self.no_trunc { image_id } else { image_id.get(..12).unwrap_or_default() };
        let labels = match self.persona {
            Persona::Podman => Value::map_or_nil(&request.labels),
            // docker gives one string here, and `.Label "key"` for the value of one.
            Persona::Docker => {
                let pairs: Vec<_> = request.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                Value::Str(pairs.join(","))
            }
        };
        let joined = |words: Vec<String>| Value::Str(words.join(","));
        let mounts = mount_targets(record);
        let volumes = request.mounts.iter().filter(|mount| matches!(mount, Mount::Volume(_))).count();
        let fields = vec![
            ("ID", id.into()),
            ("Image", Printable::line(&self.image(summary)).to_string().into()),
            ("Command", command.into()),
            ("CreatedHuman", created_ago.clone().into()),
            ("RunningFor", created_ago.into()),
            ("Created", Value::Time(Some(record.created))),
            ("CreatedAt", units::go_time(Some(self.created_at(record))).into()),
            ("Status", status_text(observed, self.now).into()),
            ("State", observed.state.as_str().into()),
            ("Ports", ports_text(ports, &request.network.exposed).into()),
            ("Names", record.name.as_str().into()),
            ("Size", self.size_text(entry)),
            ("Labels", labels),
            (
                "Mounts",
                match self.persona {
                    Persona::Podman => Value::strings(mounts),
                    Persona::Docker => joined(mounts),
                },
            ),
            ("Networks", joined(network_names(record, self.persona))),
            ("LocalVolumes", Value::from(volumes as u64)),
            ("Platform", record.image.as_ref().map(|image| image.platform.as_str()).unwrap_or_default().into()),
            ("Pid", Value::Int(i64::from(pid(observed)))),
            ("ExitCode", Value::Int(i64::from(exit.map_or(0, |exit| exit.code)))),
            ("Exited", exit.is_some().into()),
            ("ExitedAt", Value::Int(unix(exit.and_then(|exit| exit.finished_at)))),
            ("StartedAt", Value::Int(unix(observed.started_at))),
            ("Restarts", Value::from(u64::from(observed.restarts))),
            ("ImageID", image_id.into()),
            ("AutoRemove", request.remove.into()),
            ("CIDFile", request.cidfile.as_ref().map(|path| path.display().to_string()).unwrap_or_default().into()),
            ("Pod", pod_id(summary, self.no_trunc).into()),
            ("PodName", request.pod_name.as_str().into()),
            ("IsInfra", request.infra.into()),
            ("ExposedPorts", exposed_ports(&request.network.exposed, Value::Map(BTreeMap::new()))),
            ("Namespaces", Value::Struct(NAMESPACES.map(|(name, _)| (name, "".into())).to_vec())),
        ];
        let mut fields = fields;
        if self.persona == Persona::Podman {
            let columns = ["Cgroup", "IPC", "MNT", "NET", "PIDNS", "User", "UTS"];
            let known = self.with_namespaces.then(|| self.namespaces(entry));
            let value = |name: &str| known.as_ref().and_then(|known| known.get(name)).cloned();
            fields.extend(columns.map(|name| (name, value(name).unwrap_or_else(|| "".into()))));
        }
        let json = match self.persona {
            Persona::Podman => self.json_line(entry),
            Persona::Docker => docker_json(&fields),
        };
        Value::Row(fields, Box::new(json))
    }

    /// The headings of a plain listing.
    pub(super) fn headings(with_pod: bool) -> Vec<&'static str> {
        let mut headings = vec!["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
        if with_pod {
            headings.extend(["POD ID", "PODNAME"]);
        }
        headings
    }

    fn status(&self, observed: &Observed) -> String {
        let text = status_text(observed, self.now);
        let health = observed.health.as_ref().map(|health| health.status);
        let colour = match &observed.state {
            State::Running { .. } if health == Some(HealthStatus::Unhealthy) => Colour::Red,
            State::Running { .. } => Colour::Green,
            State::Paused { .. } | State::Restarting { .. } => Colour::Yellow,
            State::Stopped { exit } if exit.code != 0 => Colour::Red,
            State::Created | State::Starting { .. } | State::Stopped { .. } => return text,
        };
        colour.paint(&text, self.is_coloured)
    }

    /// A row of a plain listing: what the default format asks of [`View::row`], and nothing else.
    pub(super) fn cells<W>(&self, entry: &Entry<W>, with_pod: bool) -> Vec<String> {
        let Entry { summary, observed, ports, .. } = entry;
        let mut cells = vec![
            (if self.no_trunc { summary.id.as_str() } else { summary.id.short() }).to_owned(),
            Printable::line(&self.image(summary)).to_string(),
            self.command(summary),
            units::ago(summary.created, self.now),
            self.status(observed),
            ports_text(ports, &summary.exposed),
            summary.name.clone(),
        ];
        if with_pod {
            cells.extend([pod_id(summary, self.no_trunc).to_owned(), summary.pod_name.clone()]);
        }
        cells
    }

    /// docker shows whole seconds.
    fn created_at(&self, record: &Record) -> Timestamp {
        match self.persona {
            Persona::Podman => record.created,
            Persona::Docker => Timestamp::from_second(record.created.as_second()).unwrap_or(record.created),
        }
    }

    fn image(&self, summary: &Summary) -> String {
        let name = summary.image.as_str();
        match self.persona {
            Persona::Podman => name.to_owned(),
            Persona::Docker => storage::reference::Reference::parse(name).map_or_else(
                |_| name.to_owned(),
                |reference| {
                    let familiar = reference.familiar();
                    let name = of_docker(&familiar);
                    name.strip_suffix(":latest").unwrap_or(name).to_owned()
                },
            ),
        }
    }

    fn command(&self, summary: &Summary) -> String {
        let command = words(summary, self.persona).join(" ");
        let cut = |text: &str, length: usize| match text.char_indices().nth(length) {
            Some((at, _)) if !self.no_trunc => Some(text[..at].to_owned()),
            _ => None,
        };
        let shown = match self.persona {
            Persona::Podman => cut(&command, 17).map_or(command.clone(), |cut| cut + "..."),
            Persona::Docker => {
                let text = cut(&command, 20).and_then(|_| cut(&command, 19)).map_or(command.clone(), |cut| cut + "…");
                format!("\"{text}\"")
            }
        };
        Printable::line(&shown).to_string()
    }

    fn size_text(&self, entry: &Entry<Box<Record>>) -> Value {
        match entry.bytes {
            Some(Bytes { written, all }) if self.with_size => {
                format!("{} (virtual {})", units::human_size(written, 3), units::human_size(all, 3)).into()
            }
            _ => "".into(),
        }
    }

    /// As `ps --format json` has it.
    pub(super) fn json(&self, entry: &Entry<Box<Record>>) -> Value {
        let Value::Struct(mut fields) = self.json_line(entry) else { return Value::Nil };
        for (name, value) in &mut fields {
            match *name {
                "CreatedAt" => *value = units::ago(entry.record.created, self.now).into(),
                "Status" => *value = status_text(&entry.observed, self.now).into(),
                _ => {}
            }
        }
        // Here the moment stands at the end, in seconds.
        fields.retain(|(name, _)| *name != "Created");
        fields.push(("Created", Value::Int(entry.record.created.as_second())));
        Value::Struct(fields)
    }

    /// As `{{json .}}` has it.
    fn json_line(&self, entry: &Entry<Box<Record>>) -> Value {
        let Entry { summary, record, observed, ports, .. } = entry;
        let request = &record.request;
        let exit = observed.state.exit();
        let health = observed.health.as_ref().map(|health| health.status.as_str()).unwrap_or_default();
        let image_id = record.image.as_ref().map(|image| image.id.hex()).unwrap_or_default();
        let port_rows: Vec<Value> = ports
            .iter()
            .map(|port| {
                Value::Struct(vec![
                    ("host_ip", port.host_ip.map(|ip| ip.to_string()).unwrap_or_default().into()),
                    ("container_port", Value::from(u64::from(port.container_port))),
                    ("host_port", Value::from(u64::from(port.host_port))),
                    ("range", Value::from(u64::from(port.range.max(1)))),
                    ("protocol", port.protocol.as_str().into()),
                ])
            })
            .collect();
        let size = match entry.bytes {
            Some(Bytes { written, all }) => Value::Struct(vec![("rootFsSize", all.into()), ("rwSize", written.into())]),
            None => Value::Nil,
        };
        Value::Struct(vec![
            ("AutoRemove", request.remove.into()),
            ("Command", Value::strings_or_nil(words(summary, Persona::Podman).iter().map(String::as_str))),
            ("Created", Value::Time(Some(record.created))),
            ("CreatedAt", "".into()),
            ("CIDFile", request.cidfile.as_ref().map(|path| path.display().to_string()).unwrap_or_default().into()),
            ("Exited", exit.is_some().into()),
            ("ExitedAt", Value::Int(unix(exit.and_then(|exit| exit.finished_at)))),
            ("ExitCode", Value::Int(i64::from(exit.map_or(0, |exit| exit.code)))),
            ("ExposedPorts", exposed_ports(&request.network.exposed, Value::NilMap)),
            ("Id", record.id.as_str().into()),
            ("Image", image_name(record).into()),
            ("ImageID", image_id.into()),
            ("IsInfra", request.infra.into()),
            ("Labels", Value::map_or_nil(&request.labels)),
            ("Mounts", Value::strings(mount_targets(record))),
            ("Names", Value::strings([record.name.as_str()])),
            ("Namespaces", self.namespaces_json(entry)),
            ("Networks", Value::strings(network_names(record, Persona::Podman))),
            ("Pid", Value::Int(i64::from(pid(observed)))),
            ("Pod", pod_id(summary, self.no_trunc).into()),
            ("PodName", request.pod_name.as_str().into()),
            ("Ports", if port_rows.is_empty() { Value::NilList } else { Value::List(port_rows) }),
            ("Restarts", Value::from(u64::from(observed.restarts))),
            ("Size", size),
            ("StartedAt", Value::Int(unix(observed.started_at))),
            ("State", observed.state.as_str().into()),
            ("Status", health.into()),
        ])
    }

    /// `Namespaces`, which is empty unless it is asked for with `--ns`.
    fn namespaces_json(&self, entry: &Entry<Box<Record>>) -> Value {
        if !self.with_namespaces {
            return Value::Map(BTreeMap::new());
        }
        let pid = pid(&entry.observed);
        Value::Struct(NAMESPACES.map(|(name, file)| (name, namespace(pid, file).omitempty())).to_vec())
    }

    pub(super) fn namespaces(&self, entry: &Entry<Box<Record>>) -> Value {
        let pid = pid(&entry.observed);
        let inode = |name| namespace(pid, name);
        let record = &entry.record;
        Value::Struct(vec![
            ("ID", (if self.no_trunc { record.id.as_str() } else { record.id.short() }).into()),
            ("Names", record.name.as_str().into()),
            ("Pid", Value::Int(i64::from(pid))),
            ("Cgroup", inode("cgroup")),
            ("IPC", inode("ipc")),
            ("MNT", inode("mnt")),
            ("NET", inode("net")),
            ("PIDNS", inode("pid")),
            ("User", inode("user")),
            ("UTS", inode("uts")),
        ])
    }
}

/// The command as it is shown: docker's has the entrypoint in front, podman's is what stands behind it.
pub(super) fn words(summary: &Summary, persona: Persona) -> &[String] {
    match persona {
        Persona::Podman => &summary.cmd,
        Persona::Docker => summary.args(),
    }
}

/// The number of a namespace of a process; empty if there is none.
fn namespace(pid: i32, name: &str) -> Value {
    if pid == 0 {
        return "".into();
    }
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
    let text = link.and_then(|link| link.to_str().map(str::to_owned)).unwrap_or_default();
    text.split(['[', ']']).nth(1).unwrap_or_default().into()
}

fn pid(observed: &Observed) -> i32 {
    observed.state.init().map_or(0, |init| init.pid)
}

/// Seconds since 1970; no time is Go's year 1.
fn unix(time: Option<Timestamp>) -> i64 {
    time.map_or(-62_135_596_800, Timestamp::as_second)
}

fn exposed_ports(exposed: &[ExposedPorts], empty: Value) -> Value {
    let mut map: BTreeMap<String, Value> = BTreeMap::new();
    for one in exposed {
        for port in one.port..one.port.saturating_add(one.range.max(1)) {
            let protocols = map.entry(port.to_string()).or_insert_with(|| Value::List(Vec::new()));
            if let Value::List(list) = protocols {
                list.push(Protocol::as_str(one.protocol).into());
            }
        }
    }
    if map.is_empty() { empty } else { Value::Map(map) }
}

/// The fields docker prints, all of them strings.
fn docker_json(fields: &[(&'static str, Value)]) -> Value {
    const NAMES: [&str; 14] = [
        "Command",
        "CreatedAt",
        "ID",
        "Image",
        "Labels",
        "LocalVolumes",
        "Mounts",
        "Names",
        "Networks",
        "Ports",
        "RunningFor",
        "Size",
        "State",
        "Status",
    ];
    let field = |name: &'static str| {
        let value = fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.to_text());
        (name, Value::Str(value.unwrap_or_default()))
    };
    Value::Struct(NAMES.into_iter().map(field).collect())
}
