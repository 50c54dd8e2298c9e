//! The pasta driver: a TAP device with the host's own addresses, TCP and UDP carried over by a helper process.
//!
//! pasta stays in the foreground, so that it is the supervisor's child, and tells that the namespace is configured by
//! writing its pid file: here a FIFO in the container's runtime directory, which its AppArmor profile on Debian and
//! Ubuntu allows.
//!
//! Two generations are told apart by whether they know `--map-guest-addr` (August 2024). The older drops
//! CAP_SYS_PTRACE before it opens `/proc/PID/ns/net`, and so may not, but keeps an inherited descriptor. The newer
//! closes what it inherits, but keeps the capability.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::driver::{
    Arg, Attachment, Driver, DriverError, Netns, Plan, SKIP_DUPLICATE_DETECTION, Started, start_helper,
};
use crate::helper::{find_program, has_option};

/// The program's name.
pub const PROGRAM: &str = "pasta";

/// Where DNS is answered: podman's choice.
const DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Where the host is reached: podman's choice.
const HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);

/// Why an option was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// An argument that belongs to us.
    #[error("option {0:?} of pasta is set by coracle")]
    Ours(String),
    /// An argument without a dash where no value is expected would be taken for a command or a process.
    #[error("invalid option for pasta: {0:?}")]
    NotAnOption(String),
}

/// Arguments for pasta, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The arguments.
    pub args: Vec<String>,
}

impl Options {
    /// Parses arguments separated by commas.
    ///
    /// # Errors
    /// [`OptionError::Ours`] for what would take the helper out of our hands; [`OptionError::NotAnOption`].
    ///
    /// # Source
    /// podman-run(1) `--network pasta`.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let args: Vec<String> = text.split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect();
        let mut value_may_follow = false;
        for arg in &args {
            let name = arg.split('=').next().unwrap_or(arg);
            let ours = ["--netns", "--userns", "--netns-only", "--pid", "-P", "--foreground", "-f", "--runas", "--fd"];
            let is_short = |short: &str| arg.starts_with(short) && !arg.starts_with("--");
            if ours.contains(&name) || is_short("-P") || is_short("-f") {
                return Err(OptionError::Ours(arg.clone()));
            }
            if !arg.starts_with('-') && !value_may_follow {
                return Err(OptionError::NotAnOption(arg.clone()));
            }
            value_may_follow = arg.starts_with('-') && !arg.contains('=');
        }
        Ok(Self { args })
    }

    fn has(&self, names: &[&str]) -> bool {
        self.args.iter().any(|arg| {
            let name = arg.split('=').next().unwrap_or(arg);
            names.iter().any(|n| name == *n || (n.len() == 2 && arg.starts_with(n) && !arg.starts_with("--")))
        })
    }
}

/// The pasta driver.
#[derive(Debug, Clone, Default)]
pub struct Pasta {
    options: Options,
}

impl Pasta {
    /// A driver with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    fn args(&self, can_map_guest: bool) -> Vec<Arg> {
        let options = &self.options;
        let mut args: Vec<Arg> = vec!["--config-net".into()];
        let mut default = |names: &[&str], value: Option<&str>| {
            if !options.has(names) {
                args.extend(names.first().map(|name| Arg::from(*name)));
                args.extend(value.map(Arg::from));
            }
        };
        default(&["--dns-forward"], Some(&DNS.to_string()));
        for names in [["-t", "--tcp-ports"], ["-u", "--udp-ports"], ["-T", "--tcp-ns"], ["-U", "--udp-ns"]] {
            default(&names, Some("none"));
        }
        if !options.has(&["--map-gw"]) {
            default(&["--no-map-gw"], None);
        }
        default(&["--quiet", "-q", "--debug", "-d", "--trace"], None);
        if can_map_guest {
            default(&["--map-guest-addr"], Some(&HOST.to_string()));
        }
        // Podman's word for pasta's own default.
        args.extend(options.args.iter().filter(|a| *a != "--map-gw").map(|a| Arg::Text(OsString::from(a))));
        args.extend(["--foreground".into(), "--pid".into(), Arg::ReadyPath, "--netns".into()]);
        args.push(if can_map_guest { Arg::NetnsPath } else { Arg::NetnsFd });
        args
    }
}

impl Driver for Pasta {
    fn name(&self) -> &'static str {
        PROGRAM
    }

    fn prepare(&self) -> Result<Plan, DriverError> {
        let program = find_program(PROGRAM).ok_or(DriverError::NotInstalled(PROGRAM))?;
        let can_map_guest = has_option(&program, "map-guest-addr");
        let host: Option<IpAddr> = can_map_guest.then_some(HOST.into());
        let attachment = Attachment { dns: vec![DNS.into()], host, ..Attachment::default() };
        let args = self.args(can_map_guest);
        Ok(Plan { driver: PROGRAM, program, args, attachment, sysctls: SKIP_DUPLICATE_DETECTION })
    }

    fn start(&self, plan: Plan, netns: Netns<'_>) -> Result<Started, DriverError> {
        start_helper(plan, netns, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: &str, can_map_guest: bool) -> String {
        let args = Pasta::new(Options::parse(options).unwrap()).args(can_map_guest);
        let words: Vec<String> = args
            .iter()
            .map(|arg| match arg {
                Arg::Text(text) => text.to_string_lossy().into_owned(),
                other => format!("<{other:?}>"),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn arguments_are_podmans_unless_the_user_says_otherwise() {
        assert_eq!(
            shown("", true),
            "--config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet \
             --map-guest-addr 169.254.1.2 --foreground --pid <ReadyPath> --netns <NetnsPath>"
        );
        assert_eq!(
            shown("--map-gw,-T,8080,--udp-ports=53,--mtu,1500", false),
            "--config-net --dns-forward 169.254.1.1 -t none -U none --quiet -T 8080 --udp-ports=53 --mtu 1500 \
             --foreground --pid <ReadyPath> --netns <NetnsFd>"
        );
    }

    #[test]
    fn what_would_take_pasta_out_of_our_hands_is_refused() {
        for (text, message) in [
            ("--netns=/proc/1/ns/net", "option \"--netns=/proc/1/ns/net\" of pasta is set by coracle"),
            ("--runas,0", "option \"--runas\" of pasta is set by coracle"),
            ("/bin/sh", "invalid option for pasta: \"/bin/sh\""),
            ("-T,1,sh", "invalid option for pasta: \"sh\""),
        ] {
            assert_eq!(Options::parse(text).map_err(|e| e.to_string()), Err(message.to_owned()), "{text}");
        }
    }
}
