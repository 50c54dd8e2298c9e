//! The helper drivers against the installed programs, in the machine's own network namespace.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use net::driver::{Driver, DriverError, Netns, Started};
use net::pasta::{self, Pasta};
use net::slirp4netns::{self, Slirp4netns};

use crate::fixture::{Container, enter_userns};
use crate::{Case, Outcome, need};

pub(crate) const CASES: &[Case] = &[
    ("private_namespace_is_open_to_its_container", private_namespace_is_open_to_its_container),
    ("slirp4netns_configures_what_the_plan_says", slirp4netns_configures_what_the_plan_says),
    ("slirp4netns_failure_is_reported_with_its_words", slirp4netns_failure_is_reported_with_its_words),
    ("slirp4netns_ends_with_its_supervisor", slirp4netns_ends_with_its_supervisor),
    ("pasta_is_ready_when_it_says_so", pasta_is_ready_when_it_says_so),
    ("pasta_failure_is_reported_with_its_words", pasta_failure_is_reported_with_its_words),
];

fn start(driver: &dyn Driver, netns: Netns<'_>) -> Result<Result<Started, DriverError>, String> {
    let before = Instant::now();
    let plan = match driver.prepare() {
        Err(DriverError::NotInstalled(name)) => return Err(name.to_owned()),
        other => other.expect("a plan"),
    };
    let planned = before.elapsed();
    let mut started = driver.start(plan, netns).expect("the helper starts");
    let spawned = before.elapsed();
    let ready = started.wait_ready();
    eprintln!("{}: planned {planned:?}, spawned {spawned:?}, ready {:?}", driver.name(), before.elapsed());
    Ok(ready.map(|()| started))
}

fn private_namespace_is_open_to_its_container() -> Outcome {
    need!(enter_userns(false));
    let mut container = Container::start();
    assert_eq!(container.tell("read /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0");
    assert_eq!(container.tell("read /proc/sys/net/ipv4/ping_group_range"), "0\t0");
    assert!(container.tell("ip -o addr show lo").contains("127.0.0.1/8"));
    Outcome::Passed
}

fn slirp4netns_configures_what_the_plan_says() -> Outcome {
    need!(enter_userns(false));
    for round in 0..5 {
        let mut container = Container::start();
        let options = if round == 0 { "" } else { "cidr=10.9.0.0/24,mtu=1500" };
        let driver = Slirp4netns::new(slirp4netns::Options::parse(options).unwrap());
        let started = need!(start(&driver, container.netns())).expect("slirp4netns comes up");
        let attachment = started.attachment().clone();
        let shown = container.tell("ip -o addr show tap0");
        assert!(shown.contains(&format!("{}/24", attachment.ipv4().unwrap().ip)), "{shown}");
        let link = container.tell("ip -o link show tap0");
        assert!(link.contains(&format!("mtu {} ", attachment.mtu.unwrap())), "{link}");
        if let Some(mac) = attachment.mac {
            assert!(link.contains(&mac.to_string()), "{link} {mac}");
        }
        let route = container.tell("ip route show default");
        assert!(route.contains(&format!("via {}", attachment.gateway(false).unwrap())), "{route}");
        if let Some(v6) = attachment.ipv6() {
            let wait = Instant::now();
            while !container.tell("ip -6 -o addr show tap0 scope global").contains(&v6.ip.to_string()) {
                assert!(wait.elapsed().as_secs() < 5, "no {} after 5 s", v6.ip);
                std::thread::yield_now();
            }
            eprintln!("IPv6 address after {:?}", wait.elapsed());
        }
        started.stop();
    }
    Outcome::Passed
}

fn slirp4netns_failure_is_reported_with_its_words() -> Outcome {
    need!(enter_userns(false));
    let container = Container::start();
    let options = slirp4netns::Options::parse("outbound_addr=nodevice0").unwrap();
    let failed = need!(start(&Slirp4netns::new(options), container.netns())).map(drop);
    let message = failed.expect_err("there is no such device").to_string();
    assert!(message.starts_with("network slirp4netns: ") && message.contains("outbound"), "{message}");
    Outcome::Passed
}

fn is_readable(fd: BorrowedFd<'_>, timeout_ms: u16) -> bool {
    use nix::poll::{PollFd, PollFlags, poll};
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout_ms).expect("poll works") > 0
}

fn slirp4netns_ends_with_its_supervisor() -> Outcome {
    need!(enter_userns(false));
    let container = Container::start();
    let started = need!(start(&Slirp4netns::default(), container.netns())).expect("slirp4netns comes up");
    let pidfd = started.pidfd().try_clone_to_owned().unwrap();
    assert!(!is_readable(pidfd.as_fd(), 0));
    started.stop();
    assert!(is_readable(pidfd.as_fd(), 1000));
    Outcome::Passed
}

fn pasta_is_ready_when_it_says_so() -> Outcome {
    need!(enter_userns(false));
    for _ in 0..3 {
        let mut container = Container::start();
        let mut started = need!(start(&Pasta::default(), container.netns())).expect("pasta comes up");
        let link = container.tell("ip -o link show up");
        let before = Instant::now();
        let attachment = started.discover().expect("pasta's addresses can be read").clone();
        eprintln!("discovered in {:?}: {attachment:?}", before.elapsed());
        assert!(link.contains(attachment.interface.as_deref().unwrap()), "{link}");
        let address = attachment.ipv4().expect("the host has IPv4");
        assert!(container.tell("ip -o addr").contains(&format!("{}/{}", address.ip, address.prefix)));
        assert_eq!(attachment.dns, ["169.254.1.1".parse::<std::net::IpAddr>().unwrap()]);
        started.stop();
    }
    Outcome::Passed
}

fn pasta_failure_is_reported_with_its_words() -> Outcome {
    need!(enter_userns(false));
    let container = Container::start();
    let options = pasta::Options::parse("--address,nonsense").unwrap();
    let failed = need!(start(&Pasta::new(options), container.netns())).map(drop);
    let message = failed.expect_err("that is no address").to_string();
    assert!(message.starts_with("network pasta: ") && message.contains("nonsense"), "{message}");
    Outcome::Passed
}
