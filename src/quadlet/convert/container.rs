//! `.container`: `run`.

use super::command::{Command, Rule};
use super::{Known, Making};

/// What `rm` knows the container by.
const ID_FILE: &str = "--cidfile=%t/%N.cid";

pub(super) const RULES: &[Rule] = &[
    Rule::One("LogDriver", "--log-driver"),
    Rule::List("LogOpt", "--log-opt"),
    Rule::One("Timezone", "--tz"),
    Rule::One("PidsLimit", "--pids-limit"),
    Rule::One("Memory", "--memory"),
    Rule::One("ShmSize", "--shm-size"),
    Rule::One("Entrypoint", "--entrypoint"),
    Rule::One("WorkingDir", "--workdir"),
    Rule::One("IP", "--ip"),
    Rule::One("IP6", "--ip6"),
    Rule::One("HostName", "--hostname"),
    Rule::One("StopSignal", "--stop-signal"),
    Rule::One("StopTimeout", "--stop-timeout"),
    Rule::One("Pull", "--pull"),
    Rule::One("Retry", "--retry"),
    Rule::One("RetryDelay", "--retry-delay"),
    Rule::Every("NetworkAlias", "--network-alias"),
    Rule::Every("Ulimit", "--ulimit"),
    Rule::Every("DNS", "--dns"),
    Rule::Every("DNSOption", "--dns-option"),
    Rule::Every("DNSSearch", "--dns-search"),
    Rule::Every("GroupAdd", "--group-add"),
    Rule::Every("AddHost", "--add-host"),
    Rule::Every("Tmpfs", "--tmpfs"),
    Rule::Bool("RunInit", "--init"),
    Rule::Bool("EnvironmentHost", "--env-host"),
    Rule::Bool("HttpProxy", "--http-proxy"),
    Rule::Bool("ReadOnly", "--read-only"),
    Rule::Bool("ReadOnlyTmpfs", "--read-only-tmpfs"),
    Rule::Capabilities("DropCapability", "--cap-drop"),
    Rule::Capabilities("AddCapability", "--cap-add"),
    Rule::List("Sysctl", "--sysctl"),
    Rule::Every("PublishPort", "--publish"),
    Rule::Pairs("Environment", "--env"),
    Rule::Pairs("Label", "--label"),
    Rule::Pairs("Annotation", "--annotation"),
    Rule::Security("Mask", "mask"),
    Rule::Security("Unmask", "unmask"),
    Rule::Words("Secret", "--secret"),
    Rule::One("HealthCmd", "--health-cmd"),
    Rule::One("HealthInterval", "--health-interval"),
    Rule::One("HealthOnFailure", "--health-on-failure"),
    Rule::One("HealthLogDestination", "--health-log-destination"),
    Rule::One("HealthMaxLogCount", "--health-max-log-count"),
    Rule::One("HealthMaxLogSize", "--health-max-log-size"),
    Rule::One("HealthRetries", "--health-retries"),
    Rule::One("HealthStartPeriod", "--health-start-period"),
    Rule::One("HealthTimeout", "--health-timeout"),
    Rule::One("HealthStartupCmd", "--health-startup-cmd"),
    Rule::One("HealthStartupInterval", "--health-startup-interval"),
    Rule::One("HealthStartupRetries", "--health-startup-retries"),
    Rule::One("HealthStartupSuccess", "--health-startup-success"),
    Rule::One("HealthStartupTimeout", "--health-startup-timeout"),
];

pub(super) const KEYS: &[&str] = &[
    "AddDevice",
    "AppArmor",
    "AutoUpdate",
    "CgroupsMode",
    "ContainerName",
    "EnvironmentFile",
    "Exec",
    "ExposeHostPort",
    "GIDMap",
    "Group",
    "Image",
    "Mount",
    "Network",
    "NoNewPrivileges",
    "Notify",
    "Pod",
    "ReloadCmd",
    "ReloadSignal",
    "RemapGid",
    "RemapUid",
    "RemapUidSize",
    "RemapUsers",
    "Rootfs",
    "SeccompProfile",
    "SecurityLabelDisable",
    "SecurityLabelFileType",
    "SecurityLabelLevel",
    "SecurityLabelNested",
    "SecurityLabelType",
    "StartWithPod",
    "SubGIDMap",
    "SubUIDMap",
    "UIDMap",
    "User",
    "UserNS",
    "VolatileTmp",
    "Volume",
];

impl Making<'_> {
    pub(super) fn container(&mut self, service: &str) -> Result<(), String> {
        let image = self.filled("Image").map(str::to_owned);
        let rootfs = self.filled("Rootfs").map(str::to_owned);
        let what = match (image, rootfs) {
            (None, None) => return Err("no Image or Rootfs key specified".to_owned()),
            (Some(_), Some(_)) => {
                return Err("the Image And Rootfs keys conflict can not be specified together".to_owned());
            }
            (Some(image), None) => vec![self.image_named(&image)?],
            (None, Some(rootfs)) => vec!["--rootfs".to_owned(), rootfs],
        };
        let name = self.source.container_name();
        self.service.add("Service", "Environment", "PODMAN_SYSTEMD_UNIT=%n");
        self.add_kill_mode()?;
        // The one when the service is stopped; the other also when its main process was killed.
        let remove = self.command(&["rm", "-v", "-f", "-i", ID_FILE])?;
        self.execute("ExecStop", &remove);
        self.execute("ExecStopPost", &remove.may_fail());
        self.add_reload(&name)?;
        let mut run = self.command(&["run", "--name", &name, ID_FILE, "--replace", "--rm"])?;
        self.service.add("Service", "Delegate", "yes");
        match self.filled("CgroupsMode") {
            Some(mode) => run.add(["--cgroups", mode]),
            None => run.add(["--cgroups=split"]),
        }
        self.add_log(&mut run);
        self.add_networks(&mut run)?;
        if self.is_notified()? {
            let notify = match self.filled("Notify") {
                Some(word) if word.eq_ignore_ascii_case("healthy") => "healthy",
                _ if self.flag("Notify") == Some(true) => "container",
                _ => "conmon",
            };
            run.add([format!("--sdnotify={notify}")]);
            self.service.set("Service", "Type", "notify");
            self.service.set("Service", "NotifyAccess", "all");
            run.add(["-d"]);
        }
        self.service.add_default("Service", "SyslogIdentifier", "%N");
        self.add_security(&mut run);
        self.add_devices(&mut run);
        if self.flag("VolatileTmp") == Some(true) && self.flag("ReadOnly") != Some(true) {
            run.add(["--tmpfs", "/tmp:rw,size=512M,mode=1777"]);
        }
        match (self.filled("User"), self.filled("Group")) {
            (None, Some(_)) => return Err("invalid Group set without User".to_owned()),
            (Some(user), Some(group)) => run.add(["--user", &format!("{user}:{group}")]),
            (Some(user), None) => run.add(["--user", user]),
            (None, None) => {}
        }
        self.add_user_namespace(&mut run, true)?;
        self.add_volumes(&mut run)?;
        if let Some(policy) = self.filled("AutoUpdate") {
            run.add(["--label", &format!("io.containers.autoupdate={policy}")]);
        }
        for port in self.source.unit.all(self.section(), "ExposeHostPort") {
            if !is_port_range(port) {
                return Err(format!("invalid port format '{port}'"));
            }
            run.add(["--expose", port]);
        }
        self.apply_rules(&mut run)?;
        for file in self.words("EnvironmentFile")? {
            run.add(["--env-file", &self.source.absolute(&file)]);
        }
        for mount in self.words("Mount")? {
            let mount = self.mount(&mount)?;
            run.add(["--mount", &mount]);
        }
        self.add_pod(&mut run, service)?;
        self.add_arguments(&mut run)?;
        run.add(what);
        run.add(self.source.unit.command(self.section(), "Exec")?.unwrap_or_default());
        self.execute("ExecStart", &run);
        Ok(())
    }

    fn add_reload(&mut self, name: &str) -> Result<(), String> {
        let command = self.source.unit.command(self.section(), "ReloadCmd")?.filter(|words| !words.is_empty());
        let signal = self.filled("ReloadSignal").map(str::to_owned);
        let reload = match (command, signal) {
            (None, None) => return Ok(()),
            (Some(_), Some(_)) => {
                return Err("ReloadCmd and ReloadSignal are mutually exclusive but both are set".to_owned());
            }
            (Some(words), None) => {
                let mut exec = self.command(&["exec", name])?;
                exec.add(words);
                exec
            }
            (None, Some(signal)) => self.command(&["kill", "--signal", &signal, name])?,
        };
        self.execute("ExecReload", &reload);
        Ok(())
    }

    fn add_security(&self, run: &mut Command) {
        if self.flag("NoNewPrivileges") == Some(true) {
            run.add(["--security-opt=no-new-privileges"]);
        }
        for (key, option) in [("SecurityLabelDisable", "label=disable"), ("SecurityLabelNested", "label=nested")] {
            if self.flag(key) == Some(true) {
                run.add(["--security-opt", option]);
            }
        }
        for (key, option) in [
            ("SecurityLabelType", "label=type:"),
            ("SecurityLabelFileType", "label=filetype:"),
            ("SecurityLabelLevel", "label=level:"),
            ("AppArmor", "apparmor="),
            ("SeccompProfile", "seccomp="),
        ] {
            if let Some(value) = self.filled(key) {
                run.add(["--security-opt", &format!("{option}{value}")]);
            }
        }
    }

    /// One that begins with a dash is left out where the host has no such device.
    fn add_devices(&self, run: &mut Command) {
        for device in self.source.unit.list(self.section(), "AddDevice") {
            let device = match device.strip_prefix('-') {
                Some(device) if !std::path::Path::new(device.split(':').next().unwrap_or(device)).exists() => continue,
                Some(device) => device.to_owned(),
                None => device,
            };
            run.add(["--device", &device]);
        }
    }

    /// A mount whose source may be a file's, or relative to this one.
    fn mount(&mut self, mount: &str) -> Result<String, String> {
        let fields = fields(mount);
        let of = |field: &str, keys: &[&str]| -> Option<String> {
            let (key, value) = field.split_once('=')?;
            keys.contains(&key).then(|| value.to_owned())
        };
        let kind = fields.iter().rev().find_map(|field| of(field, &["type"])).unwrap_or_else(|| "volume".to_owned());
        if !matches!(kind.as_str(), "volume" | "bind" | "glob" | "image") {
            return Ok(mount.to_owned());
        }
        let mut all = vec![format!("type={kind}")];
        for field in fields.iter().filter(|field| of(field, &["type"]).is_none()) {
            if matches!(field.as_str(), "source" | "src") {
                return Err("source parameter does not include a value".to_owned());
            }
            all.push(match of(field, &["source", "src"]) {
                Some(source) => format!("source={}", self.mounted(&source, true)?),
                None => field.clone(),
            });
        }
        Ok(all.iter().map(|field| as_field(field)).collect::<Vec<_>>().join(","))
    }

    fn add_pod(&mut self, run: &mut Command, service: &str) -> Result<(), String> {
        let Some(pod) = self.filled("Pod").map(str::to_owned) else { return Ok(()) };
        if !pod.ends_with(".pod") {
            return Err(format!("pod {pod} is not Quadlet based"));
        }
        let starts_with_pod = self.flag("StartWithPod").unwrap_or(true);
        let Some(Known { service: of_pod, members, .. }) = self.known.get_mut(&pod) else {
            return Err(format!("quadlet pod unit {pod} does not exist"));
        };
        if starts_with_pod {
            members.push(service.to_owned());
        }
        run.add(["--pod-id-file", &format!("%t/{}.pod-id", of_pod.trim_end_matches(".service"))]);
        for key in ["BindsTo", "After"] {
            self.service.add("Unit", key, of_pod.as_str());
        }
        Ok(())
    }
}

fn is_port_range(text: &str) -> bool {
    let ports = text.strip_suffix("/tcp").or_else(|| text.strip_suffix("/udp")).unwrap_or(text);
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    ports.split_once('-').map_or_else(|| is_number(ports), |(first, last)| is_number(first) && is_number(last))
}

/// The fields of a line of comma-separated values.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                fields.last_mut().into_iter().for_each(|field| field.push('"'));
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            c => fields.last_mut().into_iter().for_each(|field| field.push(c)),
        }
    }
    fields
}

/// One of them, quoted if it must be.
fn as_field(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
