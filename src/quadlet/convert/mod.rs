//! From a file of Quadlet to a service: what its keys are on a command line, and what it depends on.

mod command;

mod build;
mod container;
mod kube;
mod pod;
mod resources;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::unit::Unit;
use command::{Command, Rule};

/// What a file describes. In the order in which the one needs the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `.image`
    Image,
    /// `.volume`
    Volume,
    /// `.network`
    Network,
    /// `.build`
    Build,
    /// `.container`
    Container,
    /// `.kube`
    Kube,
    /// `.pod`; needs to know its containers.
    Pod,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Image, Self::Volume, Self::Network, Self::Build, Self::Container, Self::Kube, Self::Pod];

    /// The kind of a file of this name, if it is one of Quadlet's.
    pub(crate) fn of(file: &str) -> Option<Self> {
        let (stem, extension) = file.rsplit_once('.')?;
        Self::ALL
            .into_iter()
            .find(|kind| !stem.is_empty() && kind.section().eq_ignore_ascii_case(extension))
            .filter(|_| extension.chars().all(|c| c.is_ascii_lowercase()))
    }

    /// The section that describes it.
    pub(crate) fn section(self) -> &'static str {
        match self {
            Self::Image => "Image",
            Self::Volume => "Volume",
            Self::Network => "Network",
            Self::Build => "Build",
            Self::Container => "Container",
            Self::Kube => "Kube",
            Self::Pod => "Pod",
        }
    }

    /// What its service is called beyond the name of the file.
    fn suffix(self) -> &'static str {
        match self {
            Self::Image => "-image",
            Self::Volume => "-volume",
            Self::Network => "-network",
            Self::Build => "-build",
            Self::Pod => "-pod",
            Self::Container | Self::Kube => "",
        }
    }

    /// The keys that are options as they are.
    fn rules(self) -> &'static [Rule] {
        match self {
            Self::Image => resources::IMAGE,
            Self::Volume => resources::VOLUME,
            Self::Network => resources::NETWORK,
            Self::Build => build::RULES,
            Self::Container => container::RULES,
            Self::Kube => kube::RULES,
            Self::Pod => pod::RULES,
        }
    }

    /// The keys that are more than that.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Image => resources::IMAGE_KEYS,
            Self::Volume => resources::VOLUME_KEYS,
            Self::Network => resources::NETWORK_KEYS,
            Self::Build => build::KEYS,
            Self::Container => container::KEYS,
            Self::Kube => kube::KEYS,
            Self::Pod => pod::KEYS,
        }
    }
}

/// Keys that every section has.
const COMMON: [&str; 4] = ["ContainersConfModule", "GlobalArgs", "PodmanArgs", "ServiceName"];

/// The unit that services are started after, unless they say otherwise.
pub(crate) const NETWORK_WAIT: &str = "coracle-wait-network-online.service";

/// Keys of `[Unit]` that name other units, which may be files of Quadlet.
const DEPENDENCIES: [&str; 15] = [
    "After",
    "Before",
    "BindsTo",
    "Conflicts",
    "OnFailure",
    "OnSuccess",
    "PartOf",
    "PropagatesReloadTo",
    "PropagatesStopTo",
    "ReloadPropagatedFrom",
    "Requires",
    "Requisite",
    "StopPropagatedFrom",
    "Upholds",
    "Wants",
];

/// A file of Quadlet, with its drop-ins.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The name of the file.
    pub(crate) name: String,
    /// Where it is; what it names is relative to it.
    pub(crate) path: PathBuf,
    /// What it describes.
    pub(crate) kind: Kind,
    /// What it says.
    pub(crate) unit: Unit,
}

/// A service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// The name of its file.
    pub(crate) name: String,
    /// Its unit.
    pub(crate) unit: Unit,
    /// What is odd about its source.
    pub(crate) warnings: Vec<String>,
}

/// What other files want to know of a file.
#[derive(Debug, Default)]
struct Known {
    /// The name of the service's file.
    service: String,
    /// The name of the image, volume, network, container or pod; empty if only systemd could tell.
    resource: String,
    /// Services of containers that start with this pod.
    members: Vec<String>,
}

/// Everything that is converted together.
#[derive(Debug)]
pub(crate) struct Conversion {
    binary: String,
    known: BTreeMap<String, Known>,
}

/// The service of one file in the making.
struct Making<'a> {
    source: &'a Source,
    service: Unit,
    known: &'a mut BTreeMap<String, Known>,
    binary: &'a str,
    warnings: Vec<String>,
}

impl Conversion {
    /// What these files become with this binary.
    pub(crate) fn new(binary: &str, sources: &[Source]) -> Self {
        let of = |source: &Source| {
            let service = format!("{}.service", source.service());
            (source.name.clone(), Known { service, resource: source.resource(), members: Vec::new() })
        };
        Self { binary: binary.to_owned(), known: sources.iter().map(of).collect() }
    }

    /// The service of a file. Pods come last: see [`Kind`].
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn convert(&mut self, source: &Source) -> Result<Service, String> {
        let section = source.kind.section();
        let rules = source.kind.rules();
        let is_known = |key: &&str| {
            COMMON.contains(key) || source.kind.keys().contains(key) || rules.iter().any(|rule| rule.key() == *key)
        };
        let unknown = |section: &str, key: &str| {
            Err(format!("unsupported key '{key}' in group '{section}' in {}", source.path.display()))
        };
        if let Some(key) = source.unit.keys(section).iter().find(|key| !is_known(key)) {
            return unknown(section, key);
        }
        if let Some(key) = source.unit.keys("Quadlet").iter().find(|key| **key != "DefaultDependencies") {
            return unknown("Quadlet", key);
        }
        let name = self.known.get(&source.name).map(|known| known.service.clone()).unwrap_or_default();
        let mut making = Making {
            source,
            service: source.unit.clone(),
            known: &mut self.known,
            binary: &self.binary,
            warnings: Vec::new(),
        };
        making.begin();
        match source.kind {
            Kind::Image => making.image()?,
            Kind::Volume => making.volume()?,
            Kind::Network => making.network()?,
            Kind::Build => making.build()?,
            Kind::Container => making.container(&name)?,
            Kind::Kube => making.kube()?,
            Kind::Pod => making.pod()?,
        }
        Ok(Service { name, unit: making.service, warnings: making.warnings })
    }
}

impl Source {
    fn section(&self) -> &'static str {
        self.kind.section()
    }

    /// The name of the file without its extension.
    fn stem(&self) -> &str {
        self.name.rsplit_once('.').map_or(self.name.as_str(), |(stem, _)| stem)
    }

    /// The name of its service.
    fn service(&self) -> String {
        match self.unit.filled(self.section(), "ServiceName") {
            Some(name) => name.to_owned(),
            None => format!("{}{}", self.stem(), self.kind.suffix()),
        }
    }

    /// The name that `--name` gives, which systemd may have to complete.
    fn container_name(&self) -> String {
        let by_unit = if self.name.contains('@') { "systemd-%p_%i" } else { "systemd-%N" };
        self.unit.filled(self.section(), "ContainerName").unwrap_or(by_unit).to_owned()
    }

    fn resource(&self) -> String {
        let named = |key| self.unit.filled(self.section(), key).map(str::to_owned);
        let by_file = || format!("systemd-{}", self.stem());
        match self.kind {
            Kind::Image => named("ImageTag").or_else(|| named("Image")).unwrap_or_default(),
            Kind::Build => self.unit.all(self.section(), "ImageTag").first().copied().unwrap_or_default().to_owned(),
            Kind::Volume => named("VolumeName").unwrap_or_else(by_file),
            Kind::Network => named("NetworkName").unwrap_or_else(by_file),
            Kind::Pod => named("PodName").unwrap_or_else(by_file),
            Kind::Container => {
                let name = self.container_name().replace("%N", &self.service());
                if name.contains('%') { String::new() } else { name }
            }
            Kind::Kube => String::new(),
        }
    }

    /// A path relative to the file; one that begins with a specifier of systemd is left to it.
    fn absolute(&self, path: &str) -> String {
        let is_specifier = path.starts_with('%') && !path.starts_with("%%");
        if is_specifier || Path::new(path).is_absolute() {
            return path.to_owned();
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        clean(&directory.join(path)).to_string_lossy().into_owned()
    }
}

impl Making<'_> {
    fn section(&self) -> &'static str {
        self.source.section()
    }

    fn filled(&self, key: &str) -> Option<&str> {
        self.source.unit.filled(self.section(), key)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.source.unit.flag(self.section(), key)
    }

    fn words(&self, key: &str) -> Result<Vec<String>, String> {
        self.source.unit.words(self.section(), key)
    }

    /// What all services have.
    fn begin(&mut self) {
        for key in DEPENDENCIES {
            let known = &*self.known;
            let service = |name: &str| known.get(name).map_or(name, |known| known.service.as_str()).to_owned();
            // Words without a file of that name are units as they are.
            if self.service.list("Unit", key).iter().any(|name| known.contains_key(name)) {
                self.service
                    .change("Unit", key, |value| value.split_whitespace().map(service).collect::<Vec<_>>().join(" "));
            }
        }
        if self.source.unit.flag("Quadlet", "DefaultDependencies").unwrap_or(true) {
            self.service.add_first("Unit", "After", NETWORK_WAIT);
            self.service.add_first("Unit", "Wants", NETWORK_WAIT);
        }
        self.service.add("Unit", "SourcePath", self.source.path.to_string_lossy());
        self.service.add("Unit", "RequiresMountsFor", "%t/coracle");
        self.service.rename(self.section(), &format!("X-{}", self.section()));
        self.service.rename("Quadlet", "X-Quadlet");
    }

    /// A command of ours, as far as every file decides it.
    fn command(&self, words: &[&str]) -> Result<Command, String> {
        let mut command = Command::new(self.binary);
        for module in self.source.unit.all(self.section(), "ContainersConfModule") {
            command.add([format!("--module={module}")]);
        }
        command.add(self.words("GlobalArgs")?);
        command.add(words.iter().copied());
        Ok(command)
    }

    /// Adds the keys that are options as they are.
    fn apply_rules(&mut self, command: &mut Command) -> Result<(), String> {
        let section = self.section();
        command.apply(self.source.kind.rules(), &self.source.unit, section, &mut self.warnings)
    }

    fn add_arguments(&self, command: &mut Command) -> Result<(), String> {
        command.add(self.words("PodmanArgs")?);
        Ok(())
    }

    fn execute(&mut self, key: &str, command: &Command) {
        self.service.add("Service", key, command.to_value());
    }

    /// The service needs that of another file.
    fn needs(&mut self, file: &str) -> Option<&Known> {
        let known = self.known.get(file)?;
        for key in ["Requires", "After"] {
            self.service.add("Unit", key, known.service.as_str());
        }
        Some(known)
    }

    /// The name of an image, which may be a file's.
    fn image_named(&mut self, name: &str) -> Result<String, String> {
        if name.ends_with(".image") || name.ends_with(".build") {
            let known = self.needs(name).ok_or_else(|| format!("requested Quadlet image {name} was not found"))?;
            return Ok(known.resource.clone());
        }
        if !is_unambiguous(name) {
            self.warnings.push(format!(
                "{}: image {name:?} is a short name: where it comes from is decided when it is pulled",
                self.source.name
            ));
        }
        Ok(name.to_owned())
    }

    /// The source of a mount: a path, a volume, or a file's volume or image.
    fn mounted(&mut self, source: &str, may_be_image: bool) -> Result<String, String> {
        let source = if source.starts_with('.') { self.source.absolute(source) } else { source.to_owned() };
        if source.starts_with('/') {
            self.service.add("Unit", "RequiresMountsFor", source.as_str());
        } else if source.ends_with(".volume") || may_be_image && source.ends_with(".image") {
            let known =
                self.needs(&source).ok_or_else(|| format!("requested Quadlet source {source} was not found"))?;
            return Ok(known.resource.clone());
        }
        Ok(source)
    }

    /// The journal is where a service's words are looked for.
    fn add_log(&self, command: &mut Command) {
        if self.filled("LogDriver").is_none() {
            command.add(["--log-driver=journald"]);
        }
    }

    fn add_volumes(&mut self, command: &mut Command) -> Result<(), String> {
        for volume in self.source.unit.all(self.section(), "Volume") {
            let value = match volume.split_once(':') {
                Some((source, rest)) if !source.is_empty() => format!("{}:{rest}", self.mounted(source, false)?),
                Some((_, rest)) => rest.to_owned(),
                None => volume.to_owned(),
            };
            command.add(["-v", &value]);
        }
        Ok(())
    }

    fn add_networks(&mut self, command: &mut Command) -> Result<(), String> {
        for network in self.source.unit.all(self.section(), "Network") {
            let (name, options) =
                network.split_once(':').map_or((network, None), |(name, options)| (name, Some(options)));
            let is_container = name.ends_with(".container");
            if !is_container && !name.ends_with(".network") {
                command.add(["--network", network]);
                continue;
            }
            let known = self.needs(name).ok_or_else(|| format!("requested Quadlet unit {name} was not found"))?;
            let resource = known.resource.clone();
            if resource.is_empty() {
                return Err(format!("cannot get the resource name of {name}"));
            }
            let value = match (is_container, options) {
                (true, Some(_)) => {
                    return Err("extra options are not supported when joining another container's network".to_owned());
                }
                (true, None) => format!("container:{resource}"),
                (false, Some(options)) => format!("{resource}:{options}"),
                (false, None) => resource,
            };
            command.add(["--network", &value]);
        }
        Ok(())
    }

    /// `UserNS=` and its kin, and the `Remap…=` that came before them.
    fn add_user_namespace(&self, command: &mut Command, takes_manual: bool) -> Result<(), String> {
        let unit = &self.source.unit;
        let list = |key| unit.list(self.section(), key);
        let before = command.len();
        for (key, flag) in [("UserNS", "--userns"), ("SubUIDMap", "--subuidname"), ("SubGIDMap", "--subgidname")] {
            if let Some(value) = self.filled(key) {
                command.add([flag, value]);
            }
        }
        for (key, flag) in [("UIDMap", "--uidmap"), ("GIDMap", "--gidmap")] {
            list(key).iter().for_each(|map| command.add([flag, map]));
        }
        let remap = self.filled("RemapUsers");
        let (uids, gids) = (list("RemapUid"), list("RemapGid"));
        if command.len() > before {
            let is_mixed = remap.is_some() || !uids.is_empty() || !gids.is_empty();
            return if is_mixed {
                Err("deprecated Remap keys are set along with explicit mapping keys".to_owned())
            } else {
                Ok(())
            };
        }
        let options = |prefixes: [&str; 2]| -> Vec<String> {
            let of = |prefix: &str, maps: &[String]| -> Vec<String> {
                maps.iter().map(|map| format!("{prefix}{map}")).collect()
            };
            [of(prefixes[0], &uids), of(prefixes[1], &gids)].concat()
        };
        let value = |kind: &str, options: &[String]| {
            if options.is_empty() { kind.to_owned() } else { format!("{kind}:{}", options.join(",")) }
        };
        match remap {
            None if !uids.is_empty() => return Err("UidMap set without RemapUsers".to_owned()),
            None if !gids.is_empty() => return Err("GidMap set without RemapUsers".to_owned()),
            None => {}
            Some("manual") if takes_manual => {
                uids.iter().for_each(|map| command.add(["--uidmap", map]));
                gids.iter().for_each(|map| command.add(["--gidmap", map]));
            }
            Some("manual") => return Err("RemapUsers=manual is not supported".to_owned()),
            Some("auto") => {
                let mut options = options(["uidmapping=", "gidmapping="]);
                options
                    .extend(self.filled("RemapUidSize").filter(|size| *size != "0").map(|size| format!("size={size}")));
                command.add(["--userns", &value("auto", &options)]);
            }
            Some("keep-id") => {
                for (maps, kind) in [(&uids, "UID"), (&gids, "GID")] {
                    if maps.len() > 1 {
                        return Err(format!("RemapUsers=keep-id supports only a single value for {kind} mapping"));
                    }
                }
                command.add(["--userns", &value("keep-id", &options(["uid=", "gid="]))]);
            }
            Some(other) => return Err(format!("unsupported RemapUsers option '{other}'")),
        }
        Ok(())
    }

    /// What ends the service ends what is left of it, too: nothing else works well.
    fn add_kill_mode(&mut self) -> Result<(), String> {
        match self.service.value("Service", "KillMode") {
            Some("mixed" | "control-group") => {}
            Some(other) => return Err(format!("invalid KillMode '{other}'")),
            None => self.service.set("Service", "KillMode", "mixed"),
        }
        Ok(())
    }

    /// Whether systemd is to be notified, unless the service runs once.
    fn is_notified(&self) -> Result<bool, String> {
        match self.service.value("Service", "Type") {
            None | Some("notify") => Ok(true),
            Some("oneshot") => Ok(false),
            Some(other) => Err(format!("invalid service Type '{other}'")),
        }
    }

    fn add_oneshot(&mut self, remains: bool) {
        self.service.add_default("Service", "SyslogIdentifier", "%N");
        self.service.add_default("Service", "Type", "oneshot");
        if remains {
            self.service.add_default("Service", "RemainAfterExit", "yes");
        }
    }

    /// The directory that `SetWorkingDirectory=` means becomes the service's; what is no such word is given back.
    fn working_directory(&mut self) -> Result<Option<String>, String> {
        let Some(value) = self.filled("SetWorkingDirectory").map(str::to_owned) else { return Ok(None) };
        let only = |kind: &str| Err(format!("SetWorkingDirectory={value} is only supported in .{kind} files"));
        let of_key = |key: &str| self.filled(key).map(str::to_owned).ok_or_else(|| format!("no {key} key specified"));
        let own = || self.source.path.to_string_lossy().into_owned();
        let (beside, context) = match (value.to_ascii_lowercase().as_str(), self.source.kind) {
            ("yaml", Kind::Kube) => (Some(of_key("Yaml")?), None),
            ("yaml", _) => return only("kube"),
            ("file", Kind::Build) => (Some(of_key("File")?), None),
            ("file", _) => return only("build"),
            ("unit", _) => (Some(own()), None),
            (_, Kind::Build) if is_url(&value) || value.starts_with('/') => (None, Some(value)),
            (_, Kind::Build) => (Some(own()), Some(value)),
            _ => return Err(format!("unsupported value for SetWorkingDirectory: {value}")),
        };
        let Some(beside) = beside else { return Ok(context) };
        if self.source.unit.filled("Service", "WorkingDirectory").is_some() {
            return Ok(None);
        }
        let file = self.source.absolute(&beside);
        let directory = Path::new(&file).parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        self.service.add("Service", "WorkingDirectory", directory);
        Ok(context)
    }
}

/// A path without `.` and `..`, by its text alone.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}

fn is_url(text: &str) -> bool {
    ["http://", "https://", "git://"].iter().any(|scheme| text.starts_with(scheme)) || text.contains("github.com/")
}

/// Whether the name of an image says where it comes from.
fn is_unambiguous(name: &str) -> bool {
    let is_id = name.starts_with("sha256:") || name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit());
    // A specifier may stand for anything.
    let host = name.split_once('/').map(|(host, _)| host);
    is_id || name.contains('%') || host.is_some_and(|host| host.contains(['.', ':']) || host == "localhost")
}

#[cfg(test)]
mod tests;
