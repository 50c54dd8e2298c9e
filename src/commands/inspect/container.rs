//! A container, as `container inspect` shows it: podman's document, which has all of docker's core in it.

mod mounts;
mod network;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Raw;
use storage::state::container::Record;
use storage::state::request::{
    CgroupMode, HealthLog, Healthcheck, Mount, Namespace, OfDevice, Request, RestartPolicy, SeccompProfile,
    StartupCheck, UserNamespace,
};
use storage::state::status::{self, Observed, Port, State};

use crate::cli::format::Value;
use crate::cli::parse::size::bytes;
use crate::cli::units;
use crate::commands::filter::restart_policy_name;
use crate::commands::{Context, ps};
use crate::error::CommandError;
use crate::role::Persona;
use crate::supervisor::log_file;
use mounts::{bind, driver, graph_driver, mount_point};
use network::{exposed_keys, network_mode, network_settings, port_map};

/// Everything about a container.
pub(crate) fn describe(record: &Record, size: bool, context: &Context) -> Result<Value, CommandError> {
    let observed = status::observe(&context.layout, record)?;
    let directory = context.layout.container(&record.id);
    let runtime = context.layout.runtime_container(&record.id);
    let spec = std::fs::read(directory.join("config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Raw>(&bytes).ok())
        .unwrap_or(Raw::Null);
    let in_runtime = |name: &str| {
        let path = runtime.join(name);
        Value::Str(if path.exists() { path.display().to_string() } else { String::new() })
    };
    let path = |path: &Path| Value::Str(path.display().to_string());
    let request = &record.request;
    let docker = context.persona == Persona::Docker;
    let (command, args) = match (request.args.split_first(), docker) {
        // podman repeats a command without arguments.
        (Some((command, [])), false) => (command.as_str(), std::slice::from_ref(command)),
        (Some((command, args)), _) => (command.as_str(), args),
        (None, _) => ("", &[][..]),
    };
    let image_id = record.image.as_ref().map(|image| match docker {
        true => image.id.to_string(),
        false => image.id.hex().to_owned(),
    });
    let image_digest = record.image.as_ref().map(|image| image.manifest.to_string());
    let name = if docker { format!("/{}", record.name) } else { record.name.clone() };
    let pid_file = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map(|path| path.display().to_string()).unwrap_or_default().into()
    };
    let mut fields = vec![
        ("Id", record.id.as_str().into()),
        ("Created", Value::Time(Some(record.created))),
        ("Path", command.into()),
        ("Args", Value::strings(args.iter().map(String::as_str))),
        ("State", state(&observed, request)),
        ("Image", image_id.unwrap_or_default().into()),
        ("ImageDigest", image_digest.unwrap_or_default().into()),
        ("ImageName", ps::image_name(record).into()),
        ("Rootfs", request.rootfs.as_ref().map(|path| path.display().to_string()).unwrap_or_default().into()),
        ("Pod", request.pod.clone().unwrap_or_default().into()),
        ("ResolvConfPath", in_runtime("resolv.conf")),
        ("HostnamePath", in_runtime("hostname")),
        ("HostsPath", in_runtime("hosts")),
        ("StaticDir", path(&directory)),
        ("OCIConfigPath", path(&directory.join("config.json"))),
        ("OCIRuntime", "coracle".into()),
        ("ConmonPidFile", pid_file(&request.supervisor_pidfile)),
        ("PidFile", pid_file(&request.pidfile)),
        ("Name", name.into()),
        ("RestartCount", Value::from(u64::from(observed.restarts))),
        ("Driver", driver(record).into()),
        ("MountLabel", "".into()),
        ("ProcessLabel", "".into()),
        ("AppArmorProfile", request.security.apparmor.clone().unwrap_or_default().into()),
        ("EffectiveCaps", capabilities(&spec, "effective")),
        ("BoundingCaps", capabilities(&spec, "bounding")),
        ("ExecIDs", Value::List(Vec::new())),
        ("GraphDriver", graph_driver(record, context)),
        ("Mounts", Value::List(request.mounts.iter().filter_map(|mount| mount_point(mount, context)).collect())),
        ("Dependencies", Value::strings(request.requires.iter().map(String::as_str))),
        ("NetworkSettings", network_settings(record, &observed, context)),
        ("Namespace", "".into()),
        ("IsInfra", false.into()),
        ("IsService", false.into()),
        ("KubeExitCodePropagation", "invalid".into()),
        ("lockNumber", Value::Int(0)),
        ("Config", config(record, &spec)),
        ("HostConfig", host_config(record, &observed, context)),
        ("UseImageHosts", request.network.no_hosts.into()),
        ("UseImageHostname", request.network.no_hostname.into()),
        // docker's names for what podman calls otherwise.
        ("LogPath", log_path(record, context).into()),
        (
            "Platform",
            record
                .image
                .as_ref()
                .map(|image| image.platform.split('/').next().unwrap_or_default())
                .unwrap_or("linux")
                .into(),
        ),
    ];
    if size {
        let written = ps::tree_bytes(&directory.join("upper"));
        let image = record.image.as_ref().and_then(|image| {
            storage::image::store::ImageStore::open(&context.layout).resolve(image.id.hex()).ok().flatten()
        });
        fields.push(("SizeRw", written.into()));
        fields.push(("SizeRootFs", (written + image.map_or(0, |image| image.size)).into()));
    }
    Ok(Value::Struct(fields))
}

fn state(observed: &Observed, request: &Request) -> Value {
    let state = &observed.state;
    let exit = state.last_exit();
    let is_restarting = matches!(state, State::Restarting { .. });
    let mut fields = vec![
        ("OciVersion", "1.2.0".into()),
        ("Status", state.as_str().into()),
        // One that rests between two runs counts as running, as docker has it.
        ("Running", (is_restarting || matches!(state, State::Running { .. })).into()),
        ("Paused", matches!(state, State::Paused { .. }).into()),
        ("Restarting", is_restarting.into()),
        ("OOMKilled", exit.is_some_and(|exit| exit.oom).into()),
        ("Dead", false.into()),
        ("Pid", Value::Int(i64::from(state.init().map_or(0, |init| init.pid)))),
    ];
    let supervisor = observed.supervisor.filter(|_| state.is_alive()).unwrap_or(0);
    fields.push(("ConmonPid", Value::Int(i64::from(supervisor)).omitempty()));
    fields.extend([
        ("ExitCode", Value::Int(i64::from(exit.map_or(0, |exit| exit.code)))),
        ("Error", exit.map(|exit| exit.error.clone()).unwrap_or_default().into()),
        ("StartedAt", Value::Time(observed.started_at)),
        ("FinishedAt", Value::Time(exit.and_then(|exit| exit.finished_at))),
    ]);
    let is_checked = request.healthcheck.as_ref().is_some_and(Healthcheck::is_on);
    if is_checked {
        let health = observed.health.clone().unwrap_or_default();
        let log: Vec<Value> = health
            .log
            .iter()
            .map(|check| {
                Value::Struct(vec![
                    ("Start", Value::Time(Some(check.start))),
                    ("End", Value::Time(Some(check.end))),
                    ("ExitCode", Value::Int(i64::from(check.exit_code))),
                    ("Output", check.output.as_str().into()),
                ])
            })
            .collect();
        let word = if observed.health.is_some() { health.status.as_str() } else { "" };
        let health = Value::Struct(vec![
            ("Status", word.into()),
            ("FailingStreak", Value::from(u64::from(health.failing_streak))),
            ("Log", if log.is_empty() { Value::NilList } else { Value::List(log) }),
        ]);
        // The name that podman had for it up to version 3 and goes on to take.
        fields.extend([("Health", health.clone()), ("Healthcheck", Value::Omitted(Box::new(health)))]);
    }
    if !is_checked {
        fields.extend(["Health", "Healthcheck"].map(|name| (name, Value::Omitted(Box::new(Value::NilPointer)))));
    }
    fields.push(("CgroupPath", Value::Str(cgroup_path(observed).unwrap_or_default()).omitempty()));
    fields.push(("CheckpointedAt", Value::Time(None)));
    fields.push(("RestoredAt", Value::Time(None)));
    Value::Struct(fields)
}

/// The container's cgroup, or that of its first process, below the mount of version 2.
fn cgroup_path(observed: &Observed) -> Option<String> {
    if let (Some(path), Some(mount)) = (&observed.cgroup, runtime::cgroup::mount()) {
        return Some(format!("/{}", path.strip_prefix(mount).ok()?.display()));
    }
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", observed.state.init()?.pid)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

fn capabilities(spec: &Raw, set: &str) -> Value {
    let list = spec.pointer(&format!("/process/capabilities/{set}")).and_then(Raw::as_array);
    let mut names: Vec<&str> = list.into_iter().flatten().filter_map(Raw::as_str).collect();
    names.sort_unstable();
    Value::strings_or_nil(names)
}

fn config(record: &Record, spec: &Raw) -> Value {
    let request = &record.request;
    let env = spec.pointer("/process/env").and_then(Raw::as_array);
    let env: Vec<String> = match env {
        Some(env) => env.iter().filter_map(Raw::as_str).map(str::to_owned).collect(),
        None => request.env.clone(),
    };
    let hostname = spec.get("hostname").and_then(Raw::as_str).map(str::to_owned);
    let hostname = hostname.or_else(|| request.hostname.clone()).unwrap_or_else(|| record.id.short().to_owned());
    let volumes: BTreeMap<String, Value> = request
        .mounts
        .iter()
        .filter(|mount| matches!(mount, Mount::Volume(volume) if volume.from_image))
        .map(|mount| (mount.target().display().to_string(), Value::Struct(Vec::new())))
        .collect();
    let attached = |stream| Value::Bool(request.attach.contains(&stream));
    use storage::state::request::Stream;
    let mut fields = vec![
        ("Hostname", hostname.into()),
        ("Domainname", "".into()),
        ("User", request.user.as_str().into()),
        ("AttachStdin", attached(Stream::Stdin)),
        ("AttachStdout", attached(Stream::Stdout)),
        ("AttachStderr", attached(Stream::Stderr)),
        ("Tty", request.tty.into()),
        ("OpenStdin", request.stdin_open.into()),
        ("StdinOnce", false.into()),
        ("Env", Value::strings(env)),
        ("Cmd", Value::strings_or_nil(request.cmd.iter().map(String::as_str))),
        ("Image", ps::image_name(record).into()),
        ("Volumes", if volumes.is_empty() { Value::NilMap } else { Value::Map(volumes) }),
        ("WorkingDir", request.workdir.display().to_string().into()),
        ("Entrypoint", Value::strings_or_nil(request.entrypoint.iter().map(String::as_str))),
        ("OnBuild", Value::NilList),
        ("Labels", Value::map_or_nil(&request.labels)),
        ("Annotations", Value::map_or_nil(&request.annotations)),
        ("StopSignal", request.stop_signal.as_deref().unwrap_or("SIGTERM").into()),
    ];
    let check = request.healthcheck.as_ref().map_or_else(|| Value::Omitted(Box::new(Value::Nil)), healthcheck);
    let startup = request.healthcheck.as_ref().and_then(|check| check.startup.as_ref());
    let startup = startup.map_or_else(|| Value::Omitted(Box::new(Value::Nil)), startup_check);
    fields.extend([("StartupHealthCheck", startup), ("Healthcheck", check)]);
    let check = request.healthcheck.clone().unwrap_or_default();
    fields.extend([
        ("HealthcheckOnFailureAction", check.on_failure.as_str().into()),
        ("HealthLogDestination", health_log(&check.log).into()),
        ("HealthcheckMaxLogCount", Value::from(u64::from(check.max_log_count.unwrap_or(5)))),
        ("HealthcheckMaxLogSize", Value::from(u64::from(check.max_log_size.unwrap_or(500)))),
        ("CreateCommand", Value::strings_or_nil(request.create_command.iter().map(String::as_str))),
        ("SystemdMode", Value::from(request.service.systemd).omitempty()),
        ("Umask", format!("{:04o}", request.umask.unwrap_or(0o022)).into()),
        ("Timeout", Value::from(u64::from(request.timeout.unwrap_or(0)))),
        ("StopTimeout", Value::from(u64::from(request.stop_timeout.unwrap_or(10)))),
        ("Passwd", (!request.accounts.untouched).into()),
        ("sdNotifyMode", request.service.notify.as_str().into()),
    ]);
    let mut exposed: BTreeMap<String, Value> =
        exposed_keys(request).map(|key| (key, Value::Struct(Vec::new()))).collect();
    for port in &request.network.published {
        for offset in 0..port.range.max(1) {
            let key = format!("{}/{}", port.container_port.saturating_add(offset), port.protocol.as_str());
            exposed.insert(key, Value::Struct(Vec::new()));
        }
    }
    fields.push(("ExposedPorts", Value::Map(exposed).omitempty()));
    Value::Struct(fields)
}

fn healthcheck(check: &Healthcheck) -> Value {
    let nanoseconds = |time: Duration| Value::Int(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    let mut fields = vec![("Test", Value::strings(check.test.iter().map(String::as_str)))];
    for (name, time) in [
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Interval", check.interval),
        ("Timeout", check.timeout),
    ] {
        fields.extend(time.filter(|time| !time.is_zero()).map(|time| (name, nanoseconds(time))));
    }
    fields.extend(check.retries.map(|retries| ("Retries", Value::from(u64::from(retries)))));
    Value::Struct(fields)
}

fn startup_check(check: &StartupCheck) -> Value {
    let regular = Healthcheck {
        test: check.test.clone(),
        interval: check.interval,
        timeout: check.timeout,
        retries: check.retries.filter(|retries| *retries > 0),
        ..Healthcheck::default()
    };
    let mut value = healthcheck(&regular);
    if let (Value::Struct(fields), Some(successes)) = (&mut value, check.successes.filter(|count| *count > 0)) {
        fields.push(("Successes", Value::from(u64::from(successes))));
    }
    value
}

fn health_log(log: &HealthLog) -> String {
    match log {
        HealthLog::Local => "local".to_owned(),
        HealthLog::Events => "events_logger".to_owned(),
        HealthLog::Directory(path) => path.display().to_string(),
    }
}

fn namespace(mode: &Namespace, private: &str) -> String {
    match mode {
        Namespace::Private => private.to_owned(),
        Namespace::Host => "host".to_owned(),
        Namespace::Container(name) => format!("container:{name}"),
        Namespace::Path(path) => format!("ns:{}", path.display()),
    }
}

fn log_path(record: &Record, context: &Context) -> String {
    log_file(&context.layout, record).map(|path| path.display().to_string()).unwrap_or_default()
}

fn host_config(record: &Record, observed: &Observed, context: &Context) -> Value {
    let request = &record.request;
    let resources = &request.resources;
    let (quota, period) = resources.quota_and_period();
    let has_memory = resources.memory_and_swap().is_some() || resources.memory_reservation_bytes.is_some();
    // One that has a limit by default has it while it runs.
    let default_pids = || {
        let text = std::fs::read_to_string(observed.cgroup.as_ref()?.join("pids.max")).ok()?;
        text.trim().parse::<i64>().ok()
    };
    let pids = resources.pids_limit.or_else(default_pids).unwrap_or(0);
    let cgroups = match request.cgroup.mode {
        CgroupMode::Enabled => "default",
        mode => mode.as_str(),
    };
    let has_io = resources.blkio_weight.is_some()
        || [
            &resources.blkio_weight_devices,
            &resources.device_read_bps,
            &resources.device_write_bps,
            &resources.device_read_iops,
            &resources.device_write_iops,
        ]
        .into_iter()
        .any(|list| !list.is_empty());
    let of_devices = |name: &'static str, list: &[OfDevice]| match has_io {
        false => Value::NilList,
        true => Value::List(
            list.iter()
                .map(|one| {
                    let path = one.path.display().to_string();
                    Value::Struct(vec![("Path", path.into()), (name, one.value.into())])
                })
                .collect(),
        ),
    };
    let network = &request.network;
    let strings = |list: &[String]| Value::strings(list.iter().map(String::as_str));
    let number = |value: Option<u64>| Value::from(value.unwrap_or(0));
    let log_driver = request.log.driver.as_str();
    let retries = match request.restart {
        RestartPolicy::OnFailure { max_retries } => max_retries.unwrap_or(0),
        _ => 0,
    };
    let userns = match &request.userns {
        UserNamespace::Host => String::new(),
        UserNamespace::Single => "single".to_owned(),
        UserNamespace::KeepId { .. } => "keep-id".to_owned(),
        UserNamespace::Auto { .. } => "auto".to_owned(),
        UserNamespace::NoMap => "nomap".to_owned(),
        UserNamespace::Maps { .. } => "private".to_owned(),
        UserNamespace::Container(name) => format!("container:{name}"),
        UserNamespace::Path(path) => format!("ns:{}", path.display()),
    };
    let published: Vec<Port> = network
        .published
        .iter()
        .map(|port| Port {
            host_ip: port.host_ip,
            host_port: port.host_port.unwrap_or(0),
            container_port: port.container_port,
            range: port.range,
            protocol: port.protocol,
        })
        .collect();
    let tmpfs = request.mounts.iter().filter_map(|mount| match mount {
        Mount::Tmpfs(tmpfs) => {
            let mut options = vec![(if tmpfs.read_only { "ro" } else { "rw" }).to_owned(), "rprivate".to_owned()];
            options.extend(tmpfs.size.iter().map(|size| format!("size={size}")));
            options.extend(tmpfs.mode.iter().map(|mode| format!("mode={mode:o}")));
            options.extend(tmpfs.options.iter().cloned());
            options.extend(["nosuid", "nodev"].map(str::to_owned));
            if !tmpfs.nocopy {
                options.push("tmpcopyup".to_owned());
            }
            Some((tmpfs.target.display().to_string(), Value::Str(options.join(","))))
        }
        _ => None,
    });
    let ulimits = request.ulimits.iter().map(|limit| {
        let value = |value: u64| Value::Int(i64::try_from(value).unwrap_or(-1));
        let name = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
        Value::Struct(vec![("Name", name.into()), ("Soft", value(limit.soft)), ("Hard", value(limit.hard))])
    });
    let devices = request.devices.iter().map(|device| {
        Value::Struct(vec![
            ("PathOnHost", device.source.display().to_string().into()),
            ("PathInContainer", device.target.display().to_string().into()),
            ("CgroupPermissions", device.permissions.as_str().into()),
        ])
    });
    let hosts = network
        .add_hosts
        .iter()
        .flat_map(|host| host.names.iter().map(|name| format!("{name}:{}", host.address)).collect::<Vec<_>>());
    let volumes_from = request.volumes_from.iter().map(|from| from.container.clone());
    let most = request.log.options.get("max-size").and_then(|text| bytes(text).ok()).unwrap_or(0);
    Value::Struct(vec![
        ("Binds", Value::strings(request.mounts.iter().filter_map(bind))),
        ("CgroupManager", crate::supervisor::cgroup::manager_name().into()),
        ("CgroupMode", namespace(&request.cgroupns, "private").into()),
        ("ContainerIDFile", request.cidfile.as_ref().map(|path| path.display().to_string()).unwrap_or_default().into()),
        (
            "LogConfig",
            Value::Struct(vec![
                ("Type", log_driver.into()),
                ("Config", Value::map_or_nil(&request.log.options)),
                ("Path", log_path(record, context).into()),
                ("Tag", request.log.options.get("tag").cloned().unwrap_or_default().into()),
                ("Size", units::human_size(most, 3).into()),
            ]),
        ),
        ("NetworkMode", network_mode(record, observed, context.persona).into()),
        ("PortBindings", Value::Map(port_map(&published))),
        (
            "RestartPolicy",
            Value::Struct(vec![
                ("Name", restart_policy_name(request.restart).into()),
                ("MaximumRetryCount", Value::from(u64::from(retries))),
            ]),
        ),
        ("AutoRemove", request.remove.into()),
        ("AutoRemoveImage", false.into()),
        ("Annotations", Value::map_or_nil(&request.annotations)),
        ("VolumeDriver", "".into()),
        ("VolumesFrom", Value::strings_or_nil(volumes_from)),
        ("CapAdd", strings(&request.cap_add)),
        ("CapDrop", strings(&request.cap_drop)),
        ("Dns", Value::strings(network.dns.iter().map(ToString::to_string))),
        ("DnsOptions", strings(&network.dns_options)),
        ("DnsSearch", strings(&network.dns_search)),
        ("Egress", strings(&network.egress)),
        ("ExtraHosts", Value::strings(hosts)),
        ("HostsFile", hosts_file(network).into()),
        ("GroupAdd", strings(&request.group_add)),
        ("IpcMode", namespace(&request.ipc, "shareable").into()),
        ("Cgroup", "".into()),
        ("Cgroups", cgroups.into()),
        ("Links", Value::NilList),
        ("OomScoreAdj", Value::Int(i64::from(request.oom_score_adj.unwrap_or(0)))),
        ("PidMode", namespace(&request.pid, "private").into()),
        ("Privileged", request.privileged.into()),
        ("PublishAllPorts", network.publish_all.into()),
        ("ReadonlyRootfs", request.read_only.into()),
        ("SecurityOpt", Value::strings(security_options(request))),
        ("Tmpfs", Value::Map(tmpfs.collect())),
        ("UTSMode", namespace(&request.uts, "private").into()),
        ("UsernsMode", userns.into()),
        ("ShmSize", Value::from(request.shm_size_bytes.unwrap_or(65_536_000))),
        ("Runtime", "oci".into()),
        ("ConsoleSize", Value::List(vec![Value::Int(0), Value::Int(0)])),
        ("Isolation", "".into()),
        ("CpuShares", number(resources.cpu_shares)),
        ("Memory", number(resources.memory_bytes)),
        ("NanoCpus", number(resources.nano_cpus)),
        ("CgroupParent", request.cgroup.parent.clone().unwrap_or_default().into()),
        ("BlkioWeight", number(resources.blkio_weight.map(u64::from))),
        ("BlkioWeightDevice", of_devices("Weight", &resources.blkio_weight_devices)),
        ("BlkioDeviceReadBps", of_devices("Rate", &resources.device_read_bps)),
        ("BlkioDeviceWriteBps", of_devices("Rate", &resources.device_write_bps)),
        ("BlkioDeviceReadIOps", of_devices("Rate", &resources.device_read_iops)),
        ("BlkioDeviceWriteIOps", of_devices("Rate", &resources.device_write_iops)),
        ("CpuPeriod", number(period)),
        ("CpuQuota", Value::Int(quota.unwrap_or(0))),
        ("CpuRealtimePeriod", Value::Int(0)),
        ("CpuRealtimeRuntime", Value::Int(0)),
        ("CpusetCpus", resources.cpuset_cpus.clone().unwrap_or_default().into()),
        ("CpusetMems", resources.cpuset_mems.clone().unwrap_or_default().into()),
        ("Devices", Value::List(devices.collect())),
        ("DiskQuota", Value::Int(0)),
        ("KernelMemory", Value::Int(0)),
        ("MemoryReservation", number(resources.memory_reservation_bytes)),
        ("MemorySwap", Value::Int(resources.memory_and_swap().unwrap_or(0).max(0))),
        ("MemorySwappiness", Value::Int(if has_memory { -1 } else { 0 })),
        ("OomKillDisable", false.into()),
        ("Init", request.init.into()),
        ("PidsLimit", Value::Int(pids.max(0))),
        ("Ulimits", Value::List(ulimits.collect())),
        ("CpuCount", Value::Int(0)),
        ("CpuPercent", Value::Int(0)),
        ("IOMaximumIOps", Value::Int(0)),
        ("IOMaximumBandwidth", Value::Int(0)),
        ("CgroupConf", Value::map_or_nil(&resources.cgroup_conf)),
    ])
}

/// `--hosts-file` as it was given.
fn hosts_file(network: &storage::state::request::Network) -> String {
    match &network.hosts_base {
        None => String::new(),
        Some(path) if path.as_os_str().is_empty() => "none".to_owned(),
        Some(path) => path.display().to_string(),
    }
}

fn security_options(request: &Request) -> Vec<String> {
    let security = &request.security;
    let mut options = Vec::new();
    match &security.seccomp {
        SeccompProfile::Default => {}
        SeccompProfile::Unconfined => options.push("seccomp=unconfined".to_owned()),
        SeccompProfile::File(path) => options.push(format!("seccomp={}", path.display())),
    }
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    options.extend(security.label.iter().map(|label| format!("label={label}")));
    options.extend(security.apparmor.iter().map(|profile| format!("apparmor={profile}")));
    if !security.mask.is_empty() {
        options.push(format!("mask={}", security.mask.join(":")));
    }
    if !security.unmask.is_empty() {
        options.push(format!("unmask={}", security.unmask.join(":")));
    }
    options
}
