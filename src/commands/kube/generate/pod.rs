//! Containers that belong together → a Pod, and the Service of its ports. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use serde_json::{Map, Value, json};
use storage::state::container::Record;
use storage::state::pod::Pod;
use storage::state::request::{Namespace, Network, Protocol, RestartPolicy, UserNamespace};

use super::NodePorts;
use super::container::{self, Parts};

/// What a description takes from outside the records.
pub(super) struct World<'a> {
    /// The configuration of a container's image.
    pub(super) image: &'a dyn Fn(&Record) -> Option<ImageConfiguration>,
    /// Whether a path of the host is a directory; nothing if there is none.
    pub(super) is_directory: &'a dyn Fn(&Path) -> Option<bool>,
    /// Now.
    pub(super) created: &'a str,
    /// With annotations that no cluster understands.
    pub(super) podman_only: bool,
}

/// What becomes one pod.
#[derive(Clone, Debug)]
pub(super) struct Group {
    name: String,
    labels: BTreeMap<String, String>,
    hostname: Option<String>,
    shares_pids: bool,
    restart: Option<RestartPolicy>,
    /// What holds the namespaces of a pod: it has the network.
    infra: Option<Record>,
    members: Vec<Record>,
    is_pod: bool,
}

impl Group {
    /// A pod.
    pub(super) fn of_pod(pod: &Pod, members: Vec<Record>) -> Self {
        let (infra, members): (Vec<_>, Vec<_>) = members.into_iter().partition(|record| record.request.infra);
        let policies = members.iter().filter(|record| record.request.init_container.is_none());
        let own = policies.map(|record| record.request.restart).find(|policy| *policy != RestartPolicy::No);
        let is_made_by_play =
            pod.restart != RestartPolicy::No || !pod.create_command.iter().any(|word| word == "create");
        Self {
            name: pod.name.clone(),
            labels: pod.labels.clone(),
            hostname: Some(pod.hostname.clone()).filter(|name| *name != pod.name && !name.is_empty()),
            shares_pids: pod.share.iter().any(|name| name == "pid"),
            restart: own.or(is_made_by_play.then_some(pod.restart)),
            infra: infra.into_iter().next(),
            members,
            is_pod: true,
        }
    }

    /// Containers that were none so far.
    pub(super) fn of_containers(members: Vec<Record>) -> Self {
        let names: Vec<String> = members.iter().map(|record| plain(&record.name)).collect();
        let first = members.first();
        let set = members.iter().map(|record| record.request.restart).find(|policy| *policy != RestartPolicy::No);
        Self {
            name: format!("{}-pod", names.first().map(String::as_str).unwrap_or_default()),
            labels: BTreeMap::new(),
            hostname: first.and_then(|record| record.request.hostname.clone()),
            shares_pids: false,
            restart: set,
            infra: None,
            members,
            is_pod: false,
        }
    }

    /// Whose network the pod has.
    fn network(&self) -> Option<&Network> {
        self.infra.as_ref().or(self.members.first()).map(|record| &record.request.network)
    }
}

/// A name that a cluster takes.
pub(super) fn plain(name: &str) -> String {
    name.replace('_', "")
}

/// The object. What it cannot say goes to `warnings`.
pub(super) fn describe(group: &Group, world: &World<'_>, warnings: &mut Vec<String>) -> Value {
    let (mut containers, mut init) = (Vec::new(), Vec::new());
    let mut volumes = BTreeMap::new();
    let mut annotations: BTreeMap<String, String> = BTreeMap::new();
    let mut is_first = true;
    for record in &group.members {
        let name = match group.is_pod {
            true => plain(record.name.strip_prefix(&format!("{}-", group.name)).unwrap_or(&record.name)),
            false => plain(&record.name),
        };
        let image = (world.image)(record);
        let parts = Parts { record, name: &name, pod_name: &group.name, image: image.as_ref(), world };
        let mut made = container::describe(&parts, &mut volumes, warnings);
        let ports = match (&group.infra, record.request.init_container) {
            (Some(infra), None) if is_first => {
                is_first = false;
                ports(&infra.request.network)
            }
            (None, None) => ports(&record.request.network),
            _ => Vec::new(),
        };
        if !ports.is_empty() {
            made.insert("ports".to_owned(), ports.into());
        }
        for (key, value) in &record.request.annotations {
            annotations.entry(key.clone()).or_insert_with(|| value.clone());
        }
        if world.podman_only {
            annotations.extend(container::podman_annotations(record, &name));
        }
        if record.request.init_container.is_some() { &mut init } else { &mut containers }.push(Value::Object(made));
    }
    let mut spec = Map::new();
    let mut set = |key: &str, value: Value| drop(spec.insert(key.to_owned(), value));
    set("containers", containers.into());
    if !init.is_empty() {
        set("initContainers", init.into());
    }
    if !volumes.is_empty() {
        set("volumes", volumes.into_values().collect::<Vec<_>>().into());
    }
    if let Some(hostname) = &group.hostname {
        set("hostname", json!(hostname));
    }
    if group.shares_pids {
        set("shareProcessNamespace", json!(true));
    }
    let all = |has: fn(&Record) -> bool| !group.members.is_empty() && group.members.iter().all(has);
    if all(|record| record.request.pid == Namespace::Host) {
        set("hostPID", json!(true));
    }
    if all(|record| record.request.ipc == Namespace::Host) {
        set("hostIPC", json!(true));
    }
    if let Some(userns) = group.members.first().map(|record| &record.request.userns)
        && let UserNamespace::KeepId { .. } = userns
        && world.podman_only
    {
        annotations.insert("io.podman.annotations.userns".to_owned(), "keep-id".to_owned());
    }
    if let Some(network) = group.network() {
        network_of(network, &mut set);
    }
    match group.restart {
        Some(RestartPolicy::Always | RestartPolicy::UnlessStopped) => set("restartPolicy", json!("Always")),
        Some(RestartPolicy::OnFailure { .. }) => set("restartPolicy", json!("OnFailure")),
        Some(RestartPolicy::No) => set("restartPolicy", json!("Never")),
        None => {}
    }
    if let Some(seconds) = group.members.iter().filter_map(|record| record.request.stop_timeout).max() {
        set("terminationGracePeriodSeconds", json!(seconds));
    }
    let mut labels = group.labels.clone();
    labels.entry("app".to_owned()).or_insert_with(|| plain(&group.name));
    let mut metadata = json!({ "creationTimestamp": world.created, "labels": labels, "name": plain(&group.name) });
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

fn network_of(network: &Network, set: &mut impl FnMut(&str, Value)) {
    if network.mode == "host" {
        set("hostNetwork", json!(true));
    }
    let aliases: Vec<Value> = network
        .add_hosts
        .iter()
        .flat_map(|host| host.names.iter().map(move |name| json!({ "hostnames": [name], "ip": host.address })))
        .collect();
    if !aliases.is_empty() {
        set("hostAliases", aliases.into());
    }
    let mut dns = Map::new();
    if !network.dns.is_empty() {
        dns.insert("nameservers".to_owned(), json!(network.dns));
    }
    if !network.dns_search.is_empty() {
        dns.insert("searches".to_owned(), json!(network.dns_search));
    }
    if !network.dns_options.is_empty() {
        let option = |text: &String| match text.split_once(':') {
            Some((name, value)) => json!({ "name": name, "value": value }),
            None => json!({ "name": text }),
        };
        dns.insert("options".to_owned(), network.dns_options.iter().map(option).collect::<Vec<_>>().into());
    }
    if !dns.is_empty() {
        set("dnsConfig", dns.into());
    }
}

fn ports(network: &Network) -> Vec<Value> {
    let mut ports = Vec::new();
    for port in &network.published {
        for number in 0..port.range.max(1) {
            let mut one = json!({ "containerPort": port.container_port.saturating_add(number) });
            // Without one a free port is chosen at each start.
            if let Some(host) = port.host_port {
                one["hostPort"] = json!(host.saturating_add(number));
            }
            if let Some(ip) = port.host_ip {
                one["hostIP"] = json!(ip);
            }
            if port.protocol != Protocol::Tcp {
                one["protocol"] = json!(port.protocol.as_str().to_uppercase());
            }
            ports.push(one);
        }
    }
    ports
}

/// The Service of a pod's ports.
pub(super) fn service(pod: &Value, node_ports: &mut NodePorts) -> Value {
    let metadata = &pod["metadata"];
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports: Vec<Value> = containers
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .map(|port| {
            let number = &port["containerPort"];
            let mut one = json!({
                "name": number.to_string(),
                "nodePort": node_ports.next(),
                "port": number,
                "targetPort": number,
            });
            if let Some(protocol) = port.get("protocol") {
                one["protocol"] = protocol.clone();
            }
            one
        })
        .collect();
    let mut spec = json!({ "selector": { "app": metadata["labels"]["app"] }, "type": "NodePort" });
    if !ports.is_empty() {
        spec["ports"] = ports.into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "creationTimestamp": metadata["creationTimestamp"],
            "labels": metadata["labels"],
            "name": metadata["name"],
        },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests;
