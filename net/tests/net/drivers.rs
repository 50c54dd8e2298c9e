//! The helper drivers against the installed programs, in the machine's own network namespace.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use net::driver::{Driver, DriverError, Started};
use net::pasta::{self, Pasta};
use net::slirp4netns::{self, Slirp4netns};

use crate::fixture::{Container, enter_userns};
use crate::{Case, Outcome, need};

pub(crate) const CASES: &[Case] = &[
    ("slirp4netns_configures_what_the_plan_says", slirp4netns_configures_what_the_plan_says),
    ("slirp4netns_failure_is_reported_with_its_words", slirp4netns_failure_is_reported_with_its_words),
    ("slirp4netns_ends_with_its_supervisor", slirp4netns_ends_with_its_supervisor),
    ("pasta_is_ready_when_it_says_so", pasta_is_ready_when_it_says_so),
    ("pasta_failure_is_reported_with_its_words", pasta_failure_is_reported_with_its_words),
];

fn start(driver: &dyn Driver, container: &mut Container) -> Result<Result<Started, DriverError>, String> {
    let before = Instant::now();
    let plan = match driver.prepare() {
        Err(DriverError::NotInstalled(name)) => return Err(name.to_owned()),
        other => other.expect("a plan"),
    };
    container.prepare(&plan);
    let planned = before.elapsed();
    let mut started = driver.start(plan, container.netns()).expect("the helper starts");
    let spawned = before.elapsed();
    let ready = started.wait_ready();
    eprintln!("{}: planned {planned:?}, spawned {spawned:?}, ready {:?}", driver.name(), before.elapsed());
    Ok(ready.map(|()| started))
}

fn slirp4netns_configures_what_the_plan_says() -> Outcome {
    need!(enter_userns(false));
    for round in 0..5 {
        let mut container = Container::start();
        let options = if round == 0 { "" } else { "cidr=10.9.0.0/24,mtu=1500" };
        let driver = Slirp4netns::new(slirp4netns::Options::parse(options).unwrap());
        let started = need!(start(&driver, &mut container)).expect("slirp4netns comes up");
        let attachment = started.attachment().clone();
        if let Some(v6) = attachment.ipv6() {
            // The announced prefix comes by a packet, so it may be a moment late; detection must not make it a second.
            let wait = Instant::now();
            let address = v6.ip.to_string();
            let shown = loop {
                let shown = container.tell("ip -6 -o addr show tap0 scope global");
                if shown.contains(&address) {
                    break shown;
                }
                assert!(wait.elapsed().as_secs() < 5, "no {address} after 5 s");
                std::thread::yield_now();
            };
            assert!(!shown.contains("tentative"), "{shown}");
            eprintln!("IPv6 address after {:?}", wait.elapsed());
        }
        let shown = container.tell("ip -o addr show tap0");
        assert!(shown.contains(&format!("{}/24", attachment.ipv4().unwrap().ip)), "{shown}");
        let link = container.tell("ip -o link show tap0");
        assert!(link.contains(&format!("mtu {} ", attachment.mtu.unwrap())), "{link}");
        if let Some(mac) = attachment.mac {
            assert!(link.contains(&mac.to_string()), "{link} {mac}");
        }
        let route = container.tell("ip route show default");
        assert!(route.contains(&format!("via {}", attachment.gateway(false).unwrap())), "{route}");
        started.stop();
    }
    Outcome::Passed
}

fn slirp4netns_failure_is_reported_with_its_words() -> Outcome {
    need!(enter_userns(false));
    let mut container = Container::start();
    let options = slirp4netns::Options::parse("outbound_addr=nodevice0").unwrap();
    let failed = need!(start(&Slirp4netns::new(options), &mut container)).map(drop);
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
    let mut container = Container::start();
    let started = need!(start(&Slirp4netns::default(), &mut container)).expect("slirp4netns comes up");
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
        let mut started = need!(start(&Pasta::default(), &mut container)).expect("pasta comes up");
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
    let mut container = Container::start();
    let options = pasta::Options::parse("--address,nonsense").unwrap();
    let failed = need!(start(&Pasta::new(options), &mut container)).map(drop);
    let message = failed.expect_err("that is no address").to_string();
    assert!(message.starts_with("network pasta: ") && message.contains("nonsense"), "{message}");
    Outcome::Passed
}
