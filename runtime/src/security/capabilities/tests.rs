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
