//! Options of `build` that are those of `run`: for the containers of its steps.

/// Options of `run` that steps have.
#[derive(clap::Args, Debug)]
pub(super) struct StepOptions {
    /// Add a line to the hosts file of steps
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// cgroup namespace of steps
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// Slice or path that the cgroups of steps are made in
    #[arg(long, value_name = "PARENT")]
    cgroup_parent: Option<String>,
    /// Length of the CPU accounting period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<String>,
    /// CPU time per period in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Relative weight of CPU time
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    cpu_shares: Option<String>,
    /// CPUs to run on
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,
    /// Give steps a device of the host
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// DNS server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// DNS option
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Add a supplementary group
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Hand on the proxy variables of the caller
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    http_proxy: Option<String>,
    /// IPC namespace of steps
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Limit of memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Leave the hostname file of the image alone
    #[arg(long)]
    no_hostname: bool,
    /// Leave the hosts file of the image alone
    #[arg(long)]
    no_hosts: bool,
    /// PID namespace of steps
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Security option
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Limit of a resource
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// UTS namespace of steps
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Mount a directory of the host into steps
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    volume: Vec<String>,
}

impl StepOptions {
    /// As a command line of `run`.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let many = [
            ("add-host", &self.add_host),
            ("cap-add", &self.cap_add),
            ("cap-drop", &self.cap_drop),
            ("device", &self.device),
            ("dns", &self.dns),
            ("dns-option", &self.dns_option),
            ("dns-search", &self.dns_search),
            ("group-add", &self.group_add),
            ("security-opt", &self.security_opt),
            ("ulimit", &self.ulimit),
            ("volume", &self.volume),
        ];
        let single = [
            ("cgroupns", &self.cgroupns),
            ("cgroup-parent", &self.cgroup_parent),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpu-shares", &self.cpu_shares),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
            ("http-proxy", &self.http_proxy),
            ("ipc", &self.ipc),
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("pid", &self.pid),
            ("shm-size", &self.shm_size),
            ("uts", &self.uts),
        ];
        for (name, values) in many {
            flags.extend(values.iter().map(|value| format!("--{name}={value}")));
        }
        for (name, value) in single {
            flags.extend(value.iter().map(|value| format!("--{name}={value}")));
        }
        for (name, is_on) in [("no-hostname", self.no_hostname), ("no-hosts", self.no_hosts)] {
            flags.extend(is_on.then(|| format!("--{name}")));
        }
        flags
    }
}
