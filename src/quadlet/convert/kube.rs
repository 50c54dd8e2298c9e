//! `.kube`: `kube play`.

use super::Making;
use super::command::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule::One("LogDriver", "--log-driver"),
    Rule::List("LogOpt", "--log-opt"),
    Rule::Every("PublishPort", "--publish"),
];

pub(super) const KEYS: &[&str] = &[
    "AutoUpdate",
    "ConfigMap",
    "ExitCodePropagation",
    "KubeDownForce",
    "Network",
    "RemapGid",
    "RemapUid",
    "RemapUidSize",
    "RemapUsers",
    "SetWorkingDirectory",
    "UserNS",
    "Yaml",
];

impl Making<'_> {
    pub(super) fn kube(&mut self) -> Result<(), String> {
        let yaml = self.source.absolute(self.filled("Yaml").ok_or("no Yaml key specified")?);
        self.add_kill_mode()?;
        self.service.add("Service", "Environment", "PODMAN_SYSTEMD_UNIT=%n");
        if self.is_notified()? {
            self.service.set("Service", "Type", "notify");
            self.service.set("Service", "NotifyAccess", "all");
        }
        // The cgroups of its containers are made in that of the service, which ends with the last of them.
        self.service.add_default("Service", "Delegate", "yes");
        self.service.add_default("Service", "SyslogIdentifier", "%N");
        let mut play = self.command(&["kube", "play", "--replace", "--service-container=true"])?;
        if let Some(policy) = self.filled("ExitCodePropagation") {
            play.add([format!("--service-exit-code-propagation={policy}")]);
        }
        self.add_log(&mut play);
        self.add_user_namespace(&mut play, false)?;
        self.add_networks(&mut play)?;
        for update in self.source.unit.list(self.section(), "AutoUpdate") {
            // CONTAINER/POLICY, or a policy for all.
            let label = "io.containers.autoupdate";
            play.add([match update.split_once('/') {
                Some((container, policy)) => format!("--annotation={label}/{container}={policy}"),
                None => format!("--annotation={label}={update}"),
            }]);
        }
        for file in self.source.unit.list(self.section(), "ConfigMap") {
            play.add(["--configmap", &self.source.absolute(&file)]);
        }
        self.apply_rules(&mut play)?;
        self.add_arguments(&mut play)?;
        play.add([yaml.as_str()]);
        self.execute("ExecStart", &play);
        let mut down = self.command(&["kube", "down"])?;
        if let Some(forces) = self.flag("KubeDownForce") {
            down.add_bool("--force", forces);
        }
        down.add([yaml]);
        self.execute("ExecStopPost", &down);
        self.working_directory()?;
        Ok(())
    }
}
