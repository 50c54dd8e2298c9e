//! One container's record → its part of a Pod. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::image::{Config, ImageConfiguration};
use serde_json::{Map, Value, json};
use storage::state::container::Record;
use storage::state::request::{
    HealthAction, InitContainer, Mount, Propagation, Request, Resources, SeccompProfile, SecretKind,
};

use super::pod::World;
use crate::cli::options::process::DEFAULT_PATH;
use crate::commands::kube::plan::PODMAN;

/// A container and what is known about it.
pub(super) struct Parts<'a> {
    pub(super) record: &'a Record,
    /// Its name in the pod.
    pub(super) name: &'a str,
    pub(super) pod_name: &'a str,
    pub(super) image: Option<&'a ImageConfiguration>,
    pub(super) world: &'a World<'a>,
}

/// Volumes of the pod by name.
pub(super) type Volumes = BTreeMap<String, Value>;

/// The container; the volumes that it uses go to the pod.
pub(super) fn describe(parts: &Parts<'_>, volumes: &mut Volumes, warnings: &mut Vec<String>) -> Map<String, Value> {
    let request = &parts.record.request;
    let none = Config::default();
    let config = parts.image.and_then(|image| image.config().as_ref()).unwrap_or(&none);
    let mut warn = |what: String| warnings.push(format!("container {}: {what}", parts.record.name));
    let mut made = Map::new();
    let mut set = |key: &str, value: Value| drop(made.insert(key.to_owned(), value));
    set("name", json!(parts.name));
    set("image", json!(parts.record.image_name()));
    if request.rootfs.is_some() {
        warn("it has a directory as root file system, and no image".to_owned());
    }
    command(request, config, &mut set);
    let env = environment(request, config, &mut warn);
    if !env.is_empty() {
        set("env", env.into());
    }
    let workdir = request.workdir.to_string_lossy();
    if workdir != "/" && !workdir.is_empty() && config.working_dir().as_deref() != Some(&*workdir) {
        set("workingDir", json!(workdir));
    }
    for (key, is_so) in [("tty", request.tty), ("stdin", request.stdin_open)] {
        if is_so {
            set(key, json!(true));
        }
    }
    let resources = resources(&request.resources);
    if !resources.is_empty() {
        set("resources", resources.into());
    }
    let security = security(request, config, &mut warn);
    if !security.is_empty() {
        set("securityContext", security.into());
    }
    if let Some(probe) = probe(request) {
        set("livenessProbe", probe);
    }
    let mounts = mounts(parts, volumes, &mut warn);
    if !mounts.is_empty() {
        set("volumeMounts", mounts.into());
    }
    if !(request.devices.is_empty() && request.cdi_devices.is_empty()) {
        warn("its devices are left out".to_owned());
    }
    made
}

/// What the image does not say itself.
fn command(request: &Request, config: &Config, set: &mut impl FnMut(&str, Value)) {
    let image_entrypoint = config.entrypoint().clone().unwrap_or_default();
    let image_command = config.cmd().clone().unwrap_or_default();
    let has_own = request.entrypoint != image_entrypoint;
    let (command, args) = match request.entrypoint.is_empty() {
        // Without an entrypoint the command is all there is.
        true if has_own || request.cmd != image_command => (request.cmd.clone(), Vec::new()),
        true => (Vec::new(), Vec::new()),
        false if has_own => (request.entrypoint.clone(), request.cmd.clone()),
        false if request.cmd != image_command => (Vec::new(), request.cmd.clone()),
        false => (Vec::new(), Vec::new()),
    };
    for (key, words) in [("command", command), ("args", args)] {
        if !words.is_empty() {
            let words: Vec<String> = words.iter().map(|word| verbatim(word, &request.env)).collect();
            set(key, json!(words));
        }
    }
}

/// A text that a cluster shall not take for one with references to variables: it has been expanded already.
fn verbatim(text: &str, env: &[String]) -> String {
    let is_variable = |name: &str| env.iter().any(|variable| variable.split('=').next() == Some(name));
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        out.push(c);
        let rest = &text[at..];
        let is_reference = rest.strip_prefix("$(").and_then(|rest| rest.split_once(')'));
        if rest.starts_with("$$") || is_reference.is_some_and(|(name, _)| is_variable(name)) {
            out.push('$');
        }
    }
    out
}

/// Variables that neither the image nor every container has.
fn environment(request: &Request, config: &Config, warn: &mut impl FnMut(String)) -> Vec<Value> {
    let of_image = config.env().clone().unwrap_or_default();
    let path = format!("PATH={DEFAULT_PATH}");
    let is_default = |variable: &String| {
        of_image.contains(variable)
            || *variable == path
            || (variable == "TERM=xterm" && request.tty)
            || variable.starts_with("container=")
    };
    let mut env = Vec::new();
    for variable in request.env.iter().filter(|variable| !is_default(variable)) {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        env.push(json!({ "name": name, "value": verbatim(value, &request.env) }));
    }
    for secret in &request.secrets {
        match (&secret.kind, &secret.key) {
            (SecretKind::Env { variable }, Some(key)) => {
                let from = json!({ "secretKeyRef": { "key": key, "name": secret.name } });
                env.push(json!({ "name": variable, "valueFrom": from }));
            }
            (_, Some(_)) => {}
            (_, None) => warn(format!("its secret {} is left out: it has no keys", secret.name)),
        }
    }
    env
}

fn resources(resources: &Resources) -> Map<String, Value> {
    let mut limits = Map::new();
    if let Some(nano) = resources.nano_cpus.or_else(|| cpus(resources)) {
        let milli = nano / 1_000_000;
        let text = if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
        limits.insert("cpu".to_owned(), json!(text));
    }
    if let Some(bytes) = resources.memory_bytes {
        limits.insert("memory".to_owned(), json!(binary(bytes)));
    }
    let mut made = Map::new();
    if !limits.is_empty() {
        made.insert("limits".to_owned(), limits.into());
    }
    if let Some(bytes) = resources.memory_reservation_bytes {
        made.insert("requests".to_owned(), json!({ "memory": binary(bytes) }));
    }
    made
}

fn cpus(resources: &Resources) -> Option<u64> {
    let quota = u64::try_from(resources.cpu_quota_us?).ok()?;
    quota.checked_mul(1_000_000_000)?.checked_div(resources.cpu_period_us.unwrap_or(100_000))
}

/// A number of bytes with the largest unit that leaves it whole.
fn binary(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let power = (bytes.trailing_zeros() / 10).min(6) as usize;
    if bytes == 0 { "0".to_owned() } else { format!("{}{}", bytes >> (10 * power), units[power]) }
}

fn security(request: &Request, config: &Config, warn: &mut impl FnMut(String)) -> Map<String, Value> {
    let mut made = Map::new();
    let mut set = |key: &str, value: Value| drop(made.insert(key.to_owned(), value));
    let mut capabilities = Map::new();
    for (key, names) in [("add", &request.cap_add), ("drop", &request.cap_drop)] {
        // A cluster's names have no prefix.
        let names: Vec<&str> = names.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name)).collect();
        if !names.is_empty() {
            capabilities.insert(key.to_owned(), json!(names));
        }
    }
    if !capabilities.is_empty() {
        set("capabilities", capabilities.into());
    }
    if request.privileged {
        set("privileged", json!(true));
    }
    if request.read_only {
        set("readOnlyRootFilesystem", json!(true));
    }
    if request.security.no_new_privileges {
        set("allowPrivilegeEscalation", json!(false));
    }
    if request.security.unconfined_system_paths || request.security.unmask.iter().any(|path| path == "ALL") {
        set("procMount", json!("Unmasked"));
    }
    match &request.security.seccomp {
        SeccompProfile::Default => {}
        SeccompProfile::Unconfined => set("seccompProfile", json!({ "type": "Unconfined" })),
        SeccompProfile::File(_) => warn("its seccomp profile is left out: it is a file of this machine".to_owned()),
    }
    if !request.user.is_empty() && config.user().as_deref() != Some(&request.user) {
        let (user, group) = request.user.split_once(':').unwrap_or((&request.user, ""));
        match (user.parse::<u32>(), group.parse::<u32>()) {
            (Ok(user), Ok(group)) => {
                set("runAsUser", json!(user));
                set("runAsGroup", json!(group));
            }
            (Ok(user), Err(_)) if group.is_empty() => set("runAsUser", json!(user)),
            _ => warn(format!("its user {} is left out: name it by numbers", request.user)),
        }
    }
    made
}

/// A check whose failure restarts the container is what Kubernetes has.
fn probe(request: &Request) -> Option<Value> {
    let check = request.healthcheck.as_ref().filter(|check| check.on_failure == HealthAction::Restart)?;
    let command = match check.test.split_first()? {
        (first, words) if first == "CMD" => words.to_vec(),
        (first, words) if first == "CMD-SHELL" => ["/bin/sh".to_owned(), "-c".to_owned(), words.join(" ")].to_vec(),
        _ => return None,
    };
    let mut probe = json!({ "exec": { "command": command } });
    for (key, time) in [
        ("periodSeconds", check.interval),
        ("timeoutSeconds", check.timeout),
        ("initialDelaySeconds", check.start_period),
    ] {
        if let Some(time) = time.filter(|time| !time.is_zero()) {
            probe[key] = json!(time.as_secs().max(1));
        }
    }
    if let Some(retries) = check.retries {
        probe["failureThreshold"] = json!(retries);
    }
    Some(probe)
}

fn mounts(parts: &Parts<'_>, volumes: &mut Volumes, warn: &mut impl FnMut(String)) -> Vec<Value> {
    let mut made = Vec::new();
    for (number, mount) in parts.record.request.mounts.iter().enumerate() {
        if mount.is_from_image() {
            continue;
        }
        let (name, source) = match mount {
            Mount::Bind(bind) => {
                let kind = match (parts.world.is_directory)(&bind.source) {
                    Some(true) => "Directory",
                    Some(false) => "File",
                    None => "DirectoryOrCreate",
                };
                (path_name(&bind.source), json!({ "hostPath": { "path": bind.source, "type": kind } }))
            }
            Mount::Volume(volume) => named_volume(parts, volume),
            Mount::Tmpfs(tmpfs) => {
                let mut empty = json!({ "medium": "Memory" });
                let size = tmpfs.size.as_ref().filter(|size| !size.ends_with('%'));
                if let Some(size) = size {
                    // The kernel's units are powers of 1024.
                    let unit = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                    let text = match size[unit.len()..].to_ascii_lowercase().as_str() {
                        "k" => format!("{unit}Ki"),
                        "m" => format!("{unit}Mi"),
                        "g" => format!("{unit}Gi"),
                        _ => size.clone(),
                    };
                    empty["sizeLimit"] = json!(text);
                }
                (format!("{}-tmp-{number}", parts.name), json!({ "emptyDir": empty }))
            }
            Mount::Image(image) => {
                (format!("{}-image-{number}", parts.name), json!({ "image": { "reference": image.image } }))
            }
            Mount::Devpts(devpts) => {
                warn(format!("its devpts at {} is left out", devpts.target.display()));
                continue;
            }
        };
        let name = short(&name);
        let mut one = json!({ "mountPath": mount.target(), "name": name });
        decorate(mount, &mut one);
        made.push(one);
        let mut source = source;
        source["name"] = json!(name);
        volumes.insert(name, source);
    }
    secret_mounts(parts, volumes, &mut made);
    made
}

fn decorate(mount: &Mount, one: &mut Value) {
    let (read_only, subpath, propagation) = match mount {
        Mount::Bind(bind) => (bind.read_only, None, bind.propagation),
        Mount::Volume(volume) => (volume.read_only, volume.subpath.as_ref(), volume.propagation),
        Mount::Tmpfs(tmpfs) => (tmpfs.read_only, None, None),
        Mount::Image(image) => (false, image.subpath.as_ref(), None),
        Mount::Devpts(_) => (false, None, None),
    };
    if read_only {
        one["readOnly"] = json!(true);
    }
    if let Some(subpath) = subpath {
        one["subPath"] = json!(subpath);
    }
    match propagation {
        Some(Propagation::Rslave | Propagation::Slave) => one["mountPropagation"] = json!("HostToContainer"),
        Some(Propagation::Rshared | Propagation::Shared) => one["mountPropagation"] = json!("Bidirectional"),
        _ => {}
    }
}

/// A claim on a volume; what nobody gave a name, and what `kube play` made of an emptyDir, is one.
fn named_volume(parts: &Parts<'_>, volume: &storage::state::request::VolumeMount) -> (String, Value) {
    let name = volume.name.clone().unwrap_or_default();
    if volume.anonymous {
        let own = name.strip_prefix(&format!("{}-", parts.pod_name)).map(str::to_owned);
        return (own.unwrap_or(name), json!({ "emptyDir": {} }));
    }
    let mut claim = json!({ "claimName": name });
    if volume.read_only {
        claim["readOnly"] = json!(true);
    }
    (format!("{name}-pvc"), json!({ "persistentVolumeClaim": claim }))
}

/// Keys of secrets that are files: those of one secret in one directory are one mount.
fn secret_mounts(parts: &Parts<'_>, volumes: &mut Volumes, made: &mut Vec<Value>) {
    let mut places: BTreeMap<(&Path, &str), Vec<Value>> = BTreeMap::new();
    for secret in &parts.record.request.secrets {
        if let (SecretKind::Mount { target, mode, .. }, Some(key)) = (&secret.kind, &secret.key)
            && let (Some(directory), Some(file)) = (target.parent(), target.file_name())
        {
            let item = json!({ "key": key, "mode": mode, "path": file.to_string_lossy() });
            places.entry((directory, &secret.name)).or_default().push(item);
        }
    }
    for ((directory, secret), items) in places {
        let name = short(&format!("{secret}-secret-{}", path_name(directory).trim_end_matches("-host")));
        made.push(json!({ "mountPath": directory, "name": name, "readOnly": true }));
        volumes.insert(name.clone(), json!({ "name": name, "secret": { "items": items, "secretName": secret } }));
    }
}

/// `/mnt/data` is `mnt-data-host`.
fn path_name(path: &Path) -> String {
    let text = path.to_string_lossy();
    let name: String = text
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "root-host".to_owned() } else { format!("{name}-host") }
}

/// No longer than a cluster allows, and still its own.
fn short(name: &str) -> String {
    const LIMIT: usize = 63;
    if name.len() <= LIMIT {
        return name.to_owned();
    }
    let tag = storage::digest::Digest::of(name.as_bytes()).hex()[..8].to_owned();
    let head: String = name.chars().take(LIMIT - 9).collect();
    format!("{}-{tag}", head.trim_end_matches(['-', '.']))
}

/// What podman and coracle alone understand.
pub(super) fn podman_annotations(record: &Record, name: &str) -> Vec<(String, String)> {
    let request = &record.request;
    let own = |what: &str, value: String| (format!("{PODMAN}{what}/{name}"), value);
    let mut all = Vec::new();
    if request.init {
        all.push(own("init", "TRUE".to_owned()));
    }
    if request.remove {
        all.push(own("autoremove", "TRUE".to_owned()));
    }
    if let Some(limit) = request.resources.pids_limit {
        all.push(own("pids-limit", limit.to_string()));
    }
    if let Some(InitContainer::Always) = request.init_container {
        all.push((format!("{PODMAN}init.container.type"), "always".to_owned()));
    }
    let ulimits: Vec<String> =
        request.ulimits.iter().map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard)).collect();
    if !ulimits.is_empty() {
        all.push((format!("{PODMAN}ulimit"), ulimits.join(",")));
    }
    all
}
