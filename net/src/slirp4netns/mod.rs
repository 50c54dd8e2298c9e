//! The slirp4netns driver: a TAP device in the container's namespace, a TCP/IP stack in a helper process.
//!
//! ```text
//! container 10.0.2.100/24 ── tap0 ── slirp4netns ── ordinary sockets ── host
//!           gateway .2, DNS .3
//! ```
//!
//! The helper's TAP cannot be made by us: 1.x opens `/dev/net/tun` itself, and its other way in
//! (`--target-type=bess`) is a socket that would need a second process to carry every frame. Its 2.5 ms pass while the
//! init builds the rootfs.

mod options;

use std::net::{IpAddr, Ipv6Addr};

pub use options::Options;

use crate::driver::{
    Address, Arg, Attachment, Driver, DriverError, MacAddress, Netns, Plan, SKIP_DUPLICATE_DETECTION, Started,
    outward_address, start_helper,
};
use crate::driver_options::Cidr;
use crate::helper::{find_program, has_option};
use crate::netlink::eui64;

/// The program's name.
pub const PROGRAM: &str = "slirp4netns";

/// Name of the device in the container.
const INTERFACE: &str = "tap0";

/// The prefix libslirp announces; a constant of slirp4netns.
const IPV6_PREFIX: u16 = 0xfd00;

/// The slirp4netns driver.
#[derive(Debug, Clone, Default)]
pub struct Slirp4netns {
    options: Options,
}

impl Slirp4netns {
    /// A driver with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// What is known before the start. `can_choose_mac` is false for versions before 1.1.9, which leave it to chance.
    fn attachment(&self, can_choose_mac: bool, host: Option<IpAddr>) -> Attachment {
        let cidr = self.options.cidr;
        let ip = cidr.host(100);
        let [a, b, c, d] = ip.octets();
        let mac = can_choose_mac.then_some(MacAddress([0x02, 0x42, a, b, c, d]));
        let mut attachment = Attachment {
            interface: Some(INTERFACE.to_owned()),
            mac,
            addresses: vec![Address { ip: ip.into(), prefix: cidr.prefix }],
            gateways: vec![cidr.host(2).into()],
            dns: vec![cidr.host(3).into()],
            mtu: Some(self.options.mtu.into()),
            host: if self.options.allow_host_loopback { Some(cidr.host(2).into()) } else { host },
        };
        if self.options.enable_ipv6 {
            let prefix = Ipv6Addr::new(IPV6_PREFIX, 0, 0, 0, 0, 0, 0, 0);
            attachment.gateways.push(Ipv6Addr::new(IPV6_PREFIX, 0, 0, 0, 0, 0, 0, 2).into());
            attachment.addresses.extend(mac.map(|mac| Address { ip: eui64(prefix, mac.0).into(), prefix: 64 }));
        }
        attachment
    }

    fn args(&self, mac: Option<MacAddress>) -> Vec<Arg> {
        let options = &self.options;
        let mut args: Vec<Arg> = vec!["--configure".into(), format!("--mtu={}", options.mtu).into()];
        if !options.allow_host_loopback {
            args.push("--disable-host-loopback".into());
        }
        args.push("--enable-sandbox".into());
        args.push("--enable-seccomp".into());
        if options.enable_ipv6 {
            args.push("--enable-ipv6".into());
        }
        if options.cidr != Cidr::default() {
            args.push(format!("--cidr={}", options.cidr).into());
        }
        if let Some(address) = &options.outbound_addr {
            args.push(format!("--outbound-addr={address}").into());
        }
        if let Some(address) = &options.outbound_addr6 {
            args.push(format!("--outbound-addr6={address}").into());
        }
        if let Some(mac) = mac {
            args.push(format!("--macaddress={mac}").into());
        }
        args.extend(["--exit-fd".into(), Arg::ExitFd, "--ready-fd".into(), Arg::ReadyFd]);
        args.extend(["--netns-type=path".into(), Arg::NetnsFd, INTERFACE.into()]);
        args
    }
}

impl Driver for Slirp4netns {
    fn name(&self) -> &'static str {
        PROGRAM
    }

    fn prepare(&self) -> Result<Plan, DriverError> {
        let program = find_program(PROGRAM).ok_or(DriverError::NotInstalled(PROGRAM))?;
        let attachment = self.attachment(has_option(&program, "macaddress"), outward_address());
        let args = self.args(attachment.mac);
        let sysctls = if self.options.enable_ipv6 { SKIP_DUPLICATE_DETECTION } else { &[] };
        Ok(Plan { driver: PROGRAM, program, args, attachment, sysctls })
    }

    fn start(&self, plan: Plan, netns: Netns<'_>) -> Result<Started, DriverError> {
        start_helper(plan, netns, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: &str) -> String {
        let driver = Slirp4netns::new(Options::parse(options).unwrap());
        let args = driver.args(driver.attachment(true, None).mac);
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
    fn arguments_are_podmans() {
        assert_eq!(
            shown(""),
            "--configure --mtu=65520 --disable-host-loopback --enable-sandbox --enable-seccomp --enable-ipv6 \
             --macaddress=02:42:0a:00:02:64 --exit-fd <ExitFd> --ready-fd <ReadyFd> --netns-type=path <NetnsFd> tap0"
        );
        assert_eq!(
            shown("allow_host_loopback=true,mtu=1500,enable_ipv6=false,cidr=10.9.0.0/16,outbound_addr=192.0.2.7"),
            "--configure --mtu=1500 --enable-sandbox --enable-seccomp --cidr=10.9.0.0/16 --outbound-addr=192.0.2.7 \
             --macaddress=02:42:0a:09:00:64 --exit-fd <ExitFd> --ready-fd <ReadyFd> --netns-type=path <NetnsFd> tap0"
        );
    }

    #[test]
    fn addresses_follow_the_network() {
        let driver = Slirp4netns::new(Options::parse("cidr=10.9.1.0/24").unwrap());
        let attachment = driver.attachment(true, Some("192.0.2.2".parse().unwrap()));
        assert_eq!(attachment.ipv4().unwrap().ip.to_string(), "10.9.1.100");
        assert_eq!(attachment.gateway(false).unwrap().to_string(), "10.9.1.2");
        assert_eq!(attachment.ipv6().unwrap().ip.to_string(), "fd00::42:aff:fe09:164");
        assert_eq!(attachment.host.unwrap().to_string(), "192.0.2.2");
        assert!(driver.attachment(false, None).ipv6().is_none());
    }
}
