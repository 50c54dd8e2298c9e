//! Kubernetes objects as far as they mean something on one machine. What is not named here is left unread, as a cluster
//! leaves what it does not know.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// What stands for nothing: absent, or `null`.
fn nothing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An object with its members by name: all optional, in camel case, `null` for absent ones.
macro_rules! object {
    ($($(#[$about:meta])* $name:ident { $($(#[$member_about:meta])* $member:ident: $kind:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub(super) struct $name {
            $($(#[$member_about])* #[serde(default, deserialize_with = "nothing")] pub(super) $member: $kind,)*
        }
    )*};
}

type Texts = BTreeMap<String, String>;

object! {
    /// What every object begins with.
    Head { kind: String, metadata: Metadata, }
    Metadata { name: String, labels: Texts, annotations: Texts, }

    /// Objects of kind `List`.
    List { items: Vec<serde_json::Value>, }
    /// `data` is text, `binary_data` base64.
    ConfigMap { metadata: Metadata, data: Texts, binary_data: Texts, }
    /// `data` is base64, `string_data` text.
    Secret { metadata: Metadata, data: Texts, string_data: Texts, }
    Claim { metadata: Metadata, }
    Pod { metadata: Metadata, spec: PodSpec, }
    /// Deployment, DaemonSet or Job: what makes pods.
    Workload { metadata: Metadata, spec: WorkloadSpec, }
    WorkloadSpec { replicas: Option<i64>, template: Pod, }

    PodSpec {
        containers: Vec<Container>,
        init_containers: Vec<Container>,
        volumes: Vec<Volume>,
        restart_policy: String,
        hostname: String,
        host_network: bool,
        #[serde(rename = "hostPID")]
        host_pid: bool,
        #[serde(rename = "hostIPC")]
        host_ipc: bool,
        host_users: Option<bool>,
        share_process_namespace: bool,
        host_aliases: Vec<HostAlias>,
        dns_config: Option<DnsConfig>,
        security_context: SecurityContext,
        termination_grace_period_seconds: Option<u32>,
    }
    HostAlias { ip: String, hostnames: Vec<String>, }
    DnsConfig { nameservers: Vec<String>, searches: Vec<String>, options: Vec<DnsOption>, }
    DnsOption { name: String, value: Option<String>, }

    Container {
        name: String,
        image: String,
        image_pull_policy: String,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: String,
        env: Vec<EnvVar>,
        env_from: Vec<EnvFrom>,
        ports: Vec<Port>,
        resources: Resources,
        security_context: SecurityContext,
        volume_mounts: Vec<VolumeMount>,
        liveness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        readiness_probe: Option<Unread>,
        lifecycle: Option<Unread>,
        stdin: bool,
        tty: bool,
    }
    /// What is only looked at to say that it has no effect.
    Unread {}
    EnvVar { name: String, value: String, value_from: Option<ValueFrom>, }
    ValueFrom {
        config_map_key_ref: Option<KeyRef>,
        secret_key_ref: Option<KeyRef>,
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
    }
    KeyRef { name: String, key: String, optional: bool, }
    FieldRef { field_path: String, }
    ResourceFieldRef { resource: String, divisor: Option<Quantity>, }
    EnvFrom { prefix: String, config_map_ref: Option<ObjectRef>, secret_ref: Option<ObjectRef>, }
    ObjectRef { name: String, optional: bool, }
    Port { name: String, container_port: u16, host_port: u16, #[serde(rename = "hostIP")] host_ip: String, protocol: String, }
    Resources { limits: BTreeMap<String, Quantity>, requests: BTreeMap<String, Quantity>, }

    /// Of a container, or of a pod for all of them; some members exist in one of the two only.
    SecurityContext {
        run_as_user: Option<u32>,
        run_as_group: Option<u32>,
        supplemental_groups: Vec<u32>,
        capabilities: Capabilities,
        read_only_root_filesystem: Option<bool>,
        privileged: Option<bool>,
        allow_privilege_escalation: Option<bool>,
        proc_mount: String,
        seccomp_profile: Option<SeccompProfile>,
        sysctls: Vec<Sysctl>,
    }
    Capabilities { add: Vec<String>, drop: Vec<String>, }
    SeccompProfile { #[serde(rename = "type")] kind: String, localhost_profile: String, }
    Sysctl { name: String, value: String, }

    VolumeMount {
        name: String,
        mount_path: String,
        read_only: bool,
        sub_path: String,
        mount_propagation: String,
    }
    Volume {
        name: String,
        host_path: Option<HostPath>,
        empty_dir: Option<EmptyDir>,
        config_map: Option<FilesFrom>,
        secret: Option<FilesFrom>,
        persistent_volume_claim: Option<ClaimRef>,
        image: Option<ImageRef>,
    }
    HostPath { path: String, #[serde(rename = "type")] kind: String, }
    EmptyDir { medium: String, size_limit: Option<Quantity>, }
    /// `name` of a ConfigMap, `secret_name` of a Secret.
    FilesFrom { name: String, secret_name: String, items: Vec<Item>, default_mode: Option<i64>, optional: bool, }
    Item { key: String, path: String, mode: Option<i64>, }
    ClaimRef { claim_name: String, read_only: bool, }
    ImageRef { reference: String, }

    Probe {
        exec: Option<Exec>,
        http_get: Option<HttpGet>,
        tcp_socket: Option<TcpSocket>,
        initial_delay_seconds: u32,
        period_seconds: u32,
        timeout_seconds: u32,
        failure_threshold: u32,
    }
    Exec { command: Vec<String>, }
    HttpGet { host: String, path: String, port: PortRef, scheme: String, }
    TcpSocket { host: String, port: PortRef, }
}

/// A port by number, or by the name it has in `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortRef(pub(super) String);

/// A number with a unit: `64Mi`, `500m`, `1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Quantity(pub(super) String);

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText).map(Self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText).map(Self)
    }
}

struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}
