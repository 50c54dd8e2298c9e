//! What `info` says by docker's names.

use std::collections::BTreeMap;

use runtime::userns::Mapping;
use storage::image::store::ImageStore;

use super::{
    cgroup_controllers, cgroup_version, counts, cpus, hostname, kernel, map, memory, os_release, path, registries,
    storage,
};
use crate::cli::format::Value;
use crate::commands::Context;
use crate::error::CommandError;
use crate::supervisor::cgroup::manager_name;

/// The document, by docker's names.
pub(super) fn describe(context: &Context) -> Result<Value, CommandError> {
    let (driver, driver_status) = storage(context, &Mapping::of_user())?;
    let driver_status = driver_status.into_iter();
    let [all, running, paused, stopped] = counts(context)?;
    let images = ImageStore::open(&context.layout).list().map_or(0, |images| images.len());
    let configured = registries::load()?;
    Ok(map([
        ("ID", "".into()),
        ("Containers", Value::Int(all)),
        ("ContainersRunning", Value::Int(running)),
        ("ContainersPaused", Value::Int(paused)),
        ("ContainersStopped", Value::Int(stopped)),
        ("Images", Value::from(images as u64)),
        // By docker's names.
        ("Driver", if driver == "overlay" { "overlay2".into() } else { "fuse-overlayfs".into() }),
        (
            "DriverStatus",
            Value::List(driver_status.map(|(name, value)| Value::List(vec![name.into(), value])).collect()),
        ),
        (
            "Plugins",
            map([
                ("Volume", Value::strings(["local"])),
                ("Network", Value::strings(["bridge", "none", "host", "builtin", "slirp4netns", "pasta"])),
                ("Authorization", Value::NilList),
                ("Log", Value::strings(["k8s-file", "json-file", "none"])),
            ]),
        ),
        ("MemoryLimit", cgroup_controllers().iter().any(|name| name == "memory").into()),
        ("CpuCfsQuota", cgroup_controllers().iter().any(|name| name == "cpu").into()),
        ("LoggingDriver", "k8s-file".into()),
        ("CgroupDriver", manager_name().into()),
        ("CgroupVersion", cgroup_version().trim_start_matches('v').into()),
        ("KernelVersion", kernel().into()),
        ("OperatingSystem", os_release("PRETTY_NAME").into()),
        ("OSType", "linux".into()),
        ("Architecture", std::env::consts::ARCH.into()),
        ("NCPU", Value::Int(cpus())),
        ("MemTotal", Value::Int(memory("MemTotal"))),
        ("DockerRootDir", path(context.layout.data_dir())),
        ("Name", hostname().into()),
        ("ServerVersion", context.program().version().into()),
        ("Runtimes", Value::Map(BTreeMap::from([("coracle".to_owned(), map([("path", "coracle".into())]))]))),
        ("DefaultRuntime", "coracle".into()),
        ("SecurityOptions", Value::strings(["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"])),
        (
            "ClientInfo",
            map([
                ("Version", context.program().version().into()),
                ("Context", "default".into()),
                ("Plugins", Value::List(Vec::new())),
            ]),
        ),
        (
            "RegistryConfig",
            map([
                ("IndexConfigs", Value::Map(BTreeMap::new())),
                ("InsecureRegistryCIDRs", Value::strings(configured.insecure())),
                ("Mirrors", Value::strings(registries::hub_mirrors(&configured))),
            ]),
        ),
        ("Warnings", Value::NilList),
    ]))
}

/// The document as `docker info` prints it.
pub(super) fn text(info: &Value) -> String {
    let field = |name: &str| info.get(name).map(Value::to_text).unwrap_or_default();
    let security: String = match info.get("SecurityOptions") {
        Some(Value::List(list)) => {
            list.iter().map(|one| format!("  {}\n", one.to_text().trim_start_matches("name="))).collect()
        }
        _ => String::new(),
    };
    let list = |heading: &str, name: &str| match info.get("RegistryConfig").and_then(|config| config.get(name)) {
        Some(Value::List(all)) if !all.is_empty() => {
            all.iter().fold(format!(" {heading}:\n"), |text, one| format!("{text}  {}\n", one.to_text()))
        }
        _ => String::new(),
    };
    let configured = list("Insecure Registries", "InsecureRegistryCIDRs") + &list("Registry Mirrors", "Mirrors");
    format!(
        "Client:\n Version:    {version}\n Context:    default\n\nServer: (no daemon is needed)\n Containers: {}\n  Running: {}\n  \
         Paused: {}\n  Stopped: {}\n Images: {}\n Server Version: {version}\n Storage Driver: {}\n Logging Driver: {}\n \
         Cgroup Driver: {}\n Cgroup Version: {}\n Security Options:\n{security} Kernel Version: {}\n Operating System: {}\n \
         OSType: {}\n Architecture: {}\n CPUs: {}\n Total Memory: {}\n Name: {}\n Docker Root Dir: {}\n{configured}",
        field("Containers"),
        field("ContainersRunning"),
        field("ContainersPaused"),
        field("ContainersStopped"),
        field("Images"),
        field("Driver"),
        field("LoggingDriver"),
        field("CgroupDriver"),
        field("CgroupVersion"),
        field("KernelVersion"),
        field("OperatingSystem"),
        field("OSType"),
        field("Architecture"),
        field("NCPU"),
        field("MemTotal"),
        field("Name"),
        field("DockerRootDir"),
        version = field("ServerVersion"),
    )
}
