//! `.pod`: `pod create`, and its life.

use super::Making;
use super::command::Rule;

const ID_FILE: &str = "--pod-id-file=%t/%N.pod-id";

pub(super) const RULES: &[Rule] = &[
    Rule::Every("PublishPort", "--publish"),
    Rule::Pairs("Label", "--label"),
    Rule::One("IP", "--ip"),
    Rule::One("IP6", "--ip6"),
    Rule::One("ShmSize", "--shm-size"),
    Rule::One("HostName", "--hostname"),
    Rule::Every("NetworkAlias", "--network-alias"),
    Rule::Every("DNS", "--dns"),
    Rule::Every("DNSOption", "--dns-option"),
    Rule::Every("DNSSearch", "--dns-search"),
    Rule::Every("AddHost", "--add-host"),
];

pub(super) const KEYS: &[&str] = &[
    "ExitPolicy",
    "GIDMap",
    "Network",
    "PodName",
    "RemapGid",
    "RemapUid",
    "RemapUidSize",
    "RemapUsers",
    "StopTimeout",
    "SubGIDMap",
    "SubUIDMap",
    "UIDMap",
    "UserNS",
    "Volume",
];

impl Making<'_> {
    pub(super) fn pod(&mut self) -> Result<(), String> {
        let name = self.source.resource();
        let members = self.known.get(&self.source.name).map(|known| known.members.clone()).unwrap_or_default();
        for member in members {
            for key in ["Wants", "Before"] {
                self.service.add("Unit", key, member.as_str());
            }
        }
        self.service.add_default("Service", "SyslogIdentifier", "%N");
        let start = self.command(&["pod", "start", ID_FILE])?;
        self.execute("ExecStart", &start);
        let time = format!("--time={}", self.filled("StopTimeout").unwrap_or("10"));
        let stop = self.command(&["pod", "stop", ID_FILE, "--ignore", &time])?;
        self.execute("ExecStop", &stop);
        let remove = self.command(&["pod", "rm", ID_FILE, "--ignore", "--force"])?;
        self.execute("ExecStopPost", &remove);
        let policy = format!("--exit-policy={}", self.filled("ExitPolicy").unwrap_or("stop"));
        let words = ["pod", "create", "--infra-conmon-pidfile=%t/%N.pid", ID_FILE, &policy, "--replace"];
        let mut create = self.command(&words)?;
        self.add_user_namespace(&mut create, true)?;
        self.add_networks(&mut create)?;
        self.apply_rules(&mut create)?;
        self.add_volumes(&mut create)?;
        create.add(["--infra-name", &format!("{name}-infra"), "--name", &name]);
        self.add_arguments(&mut create)?;
        self.execute("ExecStartPre", &create);
        // The process that holds the pod's namespaces is in the service's cgroup.
        self.service.add_default("Service", "Delegate", "yes");
        self.service.add("Service", "Environment", "PODMAN_SYSTEMD_UNIT=%n");
        self.service.set("Service", "Type", "forking");
        self.service.add_default("Service", "Restart", "on-failure");
        self.service.set("Service", "PIDFile", "%t/%N.pid");
        Ok(())
    }
}
