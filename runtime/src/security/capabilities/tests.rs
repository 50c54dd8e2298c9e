use super::*;

fn selections(names: &[&str]) -> Vec<Selection> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn numbers_are_the_positions_in_the_table() {
    assert_eq!(Capability::EVERY.len(), 41);
    for (number, capability) in (0..).zip(Capability::EVERY) {
        assert_eq!(capability.number(), number);
        assert_eq!(Capability::from_number(number), Some(*capability));
    }
    assert_eq!(Capability::from_number(41), None);
}

#[test]
fn names_parse_in_any_case_with_and_without_prefix() {
    for text in ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin", "Cap_Net_Admin"] {
        assert_eq!(text.parse(), Ok(Capability::NetAdmin), "{text}");
    }
    for text in ["", "CAP_", "NETADMIN", "ALL", "CAP_CAP_CHOWN", "é", "cap\u{e9}x"] {
        assert_eq!(text.parse::<Capability>(), Err(UnknownCapability(text.to_owned())));
    }
    assert_eq!("all".parse(), Ok(Selection::All));
    assert_eq!(Capability::SysChroot.to_string(), "CAP_SYS_CHROOT");
}

#[test]
fn defaults_are_podmans_eleven_within_dockers_fourteen() {
    assert_eq!(CapabilitySet::DEFAULT.len(), 11);
    assert_eq!(CapabilitySet::DOCKER.len(), 14);
    assert!(CapabilitySet::DEFAULT.difference(CapabilitySet::DOCKER).is_empty());
}

#[test]
fn add_and_drop_lists_follow_docker() {
    let default = CapabilitySet::DEFAULT;
    let cases: &[(&[&str], &[&str], CapabilitySet)] = &[
        (&[], &[], default),
        (&["NET_ADMIN"], &[], default.with(Capability::NetAdmin)),
        (&[], &["chown"], default.without(Capability::Chown)),
        (&["CHOWN"], &["CHOWN"], default),
        (&["all"], &[], CapabilitySet::ALL),
        (&["ALL"], &["SYS_ADMIN"], CapabilitySet::ALL.without(Capability::SysAdmin)),
        (&[], &["ALL"], CapabilitySet::EMPTY),
        (&["KILL"], &["ALL"], CapabilitySet::of(&[Capability::Kill])),
        (&["ALL"], &["ALL"], CapabilitySet::ALL),
    ];
    for (add, drop, expected) in cases {
        assert_eq!(default.adjust(&selections(add), &selections(drop)), *expected, "add {add:?} drop {drop:?}");
    }
}

#[test]
fn other_users_keep_only_what_was_added_by_name() {
    let added = selections(&["NET_ADMIN"]);
    let bounding = CapabilitySet::DEFAULT.adjust(&added, &[]);
    let root = process_sets(bounding, &added, true);
    assert_eq!((root.effective, root.permitted, root.bounding), (bounding, bounding, bounding));
    assert!(root.ambient.is_empty() && root.inheritable.is_empty());

    let user = process_sets(bounding, &added, false);
    let net_admin = CapabilitySet::of(&[Capability::NetAdmin]);
    assert_eq!(
        user,
        Sets { bounding, effective: net_admin, permitted: net_admin, inheritable: net_admin, ambient: net_admin }
    );
}

#[test]
fn every_capability_survives_the_way_through_config_json() {
    let sets = Sets {
        bounding: CapabilitySet::ALL,
        effective: CapabilitySet::DEFAULT,
        permitted: CapabilitySet::DOCKER,
        inheritable: CapabilitySet::EMPTY,
        ambient: CapabilitySet::of(&[Capability::CheckpointRestore]),
    };
    let json = serde_json::to_string(&oci::LinuxCapabilities::from(sets)).unwrap();
    let back: oci::LinuxCapabilities = serde_json::from_str(&json).unwrap();
    assert_eq!(Sets::from(&back), sets);
}

#[test]
fn sets_above_the_kernels_last_capability_are_cut() {
    assert_eq!(CapabilitySet::ALL.up_to(0), CapabilitySet::of(&[Capability::Chown]));
    assert_eq!(CapabilitySet::ALL.up_to(40), CapabilitySet::ALL);
    assert_eq!(CapabilitySet::ALL.up_to(63), CapabilitySet::ALL);
    assert!(last_capability() >= 37);
}

/// Runs the test again as root of a user namespace, in a process of its own.
fn in_user_namespace(test: &str) -> bool {
    const MARK: &str = "CORACLE_TEST_IN_USER_NAMESPACE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--"]).arg(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(MARK, "1").output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
            println!("skipped: needs user namespaces");
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => println!("skipped: needs unshare: {error}"),
    }
    false
}

#[test]
fn the_kernel_has_the_sets_that_were_applied() {
    if !in_user_namespace("security::capabilities::tests::the_kernel_has_the_sets_that_were_applied") {
        return;
    }
    assert_eq!(bounding().up_to(last_capability()), CapabilitySet::ALL.up_to(last_capability()));
    let kill = CapabilitySet::of(&[Capability::Kill]);
    let permitted = kill.with(Capability::Chown);
    let sets = Sets { bounding: CapabilitySet::DEFAULT, effective: kill, permitted, inheritable: kill, ambient: kill };
    drop_bounding(sets.bounding).unwrap();
    set_keep_caps(true).unwrap();
    set_sets(&sets).unwrap();
    set_ambient(sets.ambient).unwrap();
    assert_eq!(bounding(), CapabilitySet::DEFAULT);

    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        CapabilitySet::from_bits(u64::from_str_radix(value.trim(), 16).unwrap())
    };
    let applied = Sets {
        bounding: field("CapBnd:"),
        effective: field("CapEff:"),
        permitted: field("CapPrm:"),
        inheritable: field("CapInh:"),
        ambient: field("CapAmb:"),
    };
    assert_eq!(applied, sets);

    // No way back: what is not permitted can be neither made effective nor ambient.
    let more = Sets { effective: CapabilitySet::DEFAULT, permitted: CapabilitySet::DEFAULT, ..sets };
    assert!(matches!(set_sets(&more), Err(Error::Capset { errno: Errno::EPERM, .. })));
    let error = set_ambient(CapabilitySet::of(&[Capability::Setuid])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SETUID): operation not permitted"
    );
}
