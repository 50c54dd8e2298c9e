//! Generated specifications: compared with the ones kept in `golden/`, and given to a real runtime where there is one.
//!
//! `UPDATE_GOLDEN=1 cargo test -p coracle-runtime --test bundle` writes the kept ones anew.

// The fences of clippy.toml are for what we ship; tests make their own surroundings.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMapping, LinuxIdMappingBuilder,
    Mount, PosixRlimitBuilder, PosixRlimitType, Spec, UserBuilder,
};
use runtime::bundle::{
    Choice, DeviceBind, InvalidSpec, Namespaces, Options, OwnFile, Shm, defaults, generate, to_json, validate,
};

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn bind(source: &str, target: &str) -> Mount {
    defaults::bind(Path::new(source), Path::new(target), false, true, None, &[])
}

fn root_capabilities(all: &[Capability]) -> LinuxCapabilities {
    let set: Capabilities = all.iter().copied().collect();
    let mut sets = defaults::no_capabilities();
    sets.set_bounding(Some(set.clone())).set_effective(Some(set.clone())).set_permitted(Some(set));
    sets
}

fn mapping(container: u32, host: u32, size: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default().container_id(container).host_id(host).size(size).build().unwrap()
}

fn plain() -> Options {
    Options {
        root: PathBuf::from("/store/containers/c1/merged"),
        args: strings(&["sh", "-c", "echo hello"]),
        env: strings(&["container=coracle", "PATH=/usr/bin:/bin", "HOSTNAME=c1", "HOME=/root"]),
        hostname: Some("c1".to_owned()),
        capabilities: root_capabilities(&[Capability::Chown, Capability::Kill, Capability::NetBindService]),
        sysctls: defaults::network_sysctls(65535),
        masked_paths: strings(&["/proc/kcore", "/sys/firmware"]),
        readonly_paths: strings(&["/proc/sys"]),
        files: vec![
            OwnFile { source: "/run/user/1000/coracle/c1/hosts".into(), target: "/etc/hosts".into() },
            OwnFile { source: "/run/user/1000/coracle/c1/hostname".into(), target: "/etc/hostname".into() },
            OwnFile { source: "/run/user/1000/coracle/c1/containerenv".into(), target: "/run/.containerenv".into() },
        ],
        ..Options::default()
    }
}

fn cases() -> Vec<(&'static str, Options)> {
    let shared = Namespaces {
        pid: Choice::Host,
        network: Choice::Host,
        ipc: Choice::Host,
        uts: Choice::Host,
        cgroup: Choice::Host,
    };
    vec![
        ("plain", plain()),
        (
            "terminal",
            Options { terminal: true, console_size: Some((24, 80)), init: Some("/usr/bin/init".into()), ..plain() },
        ),
        (
            "host_namespaces",
            Options {
                namespaces: shared,
                shm: Shm::Bind("/dev/shm".into()),
                sysctls: BTreeMap::new(),
                tty_group_mapped: false,
                ..plain()
            },
        ),
        (
            "joined_namespaces",
            Options {
                namespaces: Namespaces { network: Choice::Path("/proc/71/ns/net".into()), ..Namespaces::default() },
                sysctls: BTreeMap::new(),
                shm: Shm::Absent,
                ..plain()
            },
        ),
        ("read_only", Options { read_only: true, ..plain() }),
        ("read_only_everything", Options { read_only: true, read_only_tmpfs: false, ..plain() }),
        ("privileged", Options { privileged: true, masked_paths: vec![], readonly_paths: vec![], ..plain() }),
        (
            "keep_id",
            Options {
                uid_mappings: vec![mapping(0, 1, 1000), mapping(1000, 0, 1), mapping(1001, 1001, 64536)],
                gid_mappings: vec![mapping(0, 1, 1000), mapping(1000, 0, 1), mapping(1001, 1001, 64536)],
                user: UserBuilder::default()
                    .uid(1000u32)
                    .gid(1000u32)
                    .umask(0o077u32)
                    .additional_gids([1000])
                    .build()
                    .unwrap(),
                ..plain()
            },
        ),
        (
            "mounts",
            Options {
                mounts: vec![
                    bind("/srv/deep", "/srv/data/deep"),
                    bind("/srv", "//srv/./data/"),
                    defaults::bind(Path::new("/m"), Path::new("/m"), true, true, Some("rslave"), &strings(&["exec"])),
                    defaults::tmpfs(Path::new("/run"), &strings(&["size=1m", "mode=700"]), true),
                    defaults::tmpfs(Path::new("/t"), &strings(&["ro", "exec", "dev"]), false),
                    bind("/srv/hosts", "/etc/hosts"),
                    bind("/srv/first", "/twice"),
                    bind("/srv/second", "/twice"),
                ],
                devices: vec![DeviceBind { source: "/dev/fuse".into(), target: "/dev/fuse".into(), read_only: false }],
                rlimits: vec![
                    PosixRlimitBuilder::default()
                        .typ(PosixRlimitType::RlimitNofile)
                        .soft(1024u64)
                        .hard(4096u64)
                        .build()
                        .unwrap(),
                ],
                oom_score_adj: Some(100),
                no_new_privileges: true,
                ..plain()
            },
        ),
        ("own_dev", Options { mounts: vec![bind("/dev", "/dev")], ..plain() }),
    ]
}

#[test]
fn generated_specifications_are_the_kept_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, options) in cases() {
        let spec = generate(&options);
        validate(&spec).unwrap_or_else(|error| panic!("{name}: {error}"));
        let value: serde_json::Value = serde_json::from_str(&to_json(&spec).unwrap()).unwrap();
        let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
        let path = folder.join(name).with_extension("json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, kept, "{name}");
    }
}

#[test]
fn equal_options_give_equal_bytes() {
    for (name, options) in cases() {
        assert_eq!(to_json(&generate(&options)).unwrap(), to_json(&generate(&options)).unwrap(), "{name}");
    }
}

#[test]
fn written_specification_reads_back_as_itself() {
    for (name, options) in cases() {
        let spec = generate(&options);
        let read: Spec = serde_json::from_str(&to_json(&spec).unwrap()).unwrap();
        assert_eq!(read, spec, "{name}");
    }
}

type Expected = fn(&InvalidSpec) -> bool;

#[test]
fn broken_options_are_refused_with_their_rule() {
    use InvalidSpec as E;
    let none: Capabilities = Capabilities::new();
    let one: Capabilities = [Capability::Kill].into_iter().collect();
    let sets = |bounding: &Capabilities, permitted: &Capabilities, ambient: &Capabilities| {
        LinuxCapabilitiesBuilder::default()
            .bounding(bounding.clone())
            .permitted(permitted.clone())
            .effective(none.clone())
            .inheritable(none.clone())
            .ambient(ambient.clone())
            .build()
            .unwrap()
    };
    let limit = |soft: u64, hard: u64| {
        PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitCore).soft(soft).hard(hard).build().unwrap()
    };
    let host_network = || Namespaces { network: Choice::Host, ..Namespaces::default() };
    let bad: Vec<(Options, Expected)> = vec![
        (Options { args: vec![], ..plain() }, |e| matches!(e, E::NoCommand)),
        (Options { args: strings(&[""]), ..plain() }, |e| matches!(e, E::NoCommand)),
        (Options { args: strings(&["a\0b"]), ..plain() }, |e| matches!(e, E::Nul { .. })),
        (Options { env: strings(&["NAME"]), ..plain() }, |e| matches!(e, E::Environment(_))),
        (Options { env: strings(&["=x"]), ..plain() }, |e| matches!(e, E::Environment(_))),
        (Options { cwd: "tmp".into(), ..plain() }, |e| matches!(e, E::Relative { .. })),
        (Options { cwd: "/a/../b".into(), ..plain() }, |e| matches!(e, E::Upward { .. })),
        (Options { root: "".into(), ..plain() }, |e| matches!(e, E::Missing("root.path"))),
        (Options { mounts: vec![bind("a", "/b")], ..plain() }, |e| matches!(e, E::Relative { .. })),
        (Options { mounts: vec![bind("/a", "/")], ..plain() }, |e| matches!(e, E::RootMount(_))),
        (Options { hostname: Some("x".repeat(65)), ..plain() }, |e| matches!(e, E::Hostname(_))),
        (Options { namespaces: host_network(), ..plain() }, |e| matches!(e, E::NeedsNamespace { .. })),
        (Options { uid_mappings: vec![mapping(0, 0, 5), mapping(4, 9, 1)], ..plain() }, |e| {
            matches!(e, E::OverlappingIds { object: "uidMappings", first: 4, last: 4 })
        }),
        (Options { uid_mappings: vec![mapping(0, 0, 5), mapping(5, 4, 2)], ..plain() }, |e| {
            matches!(e, E::OverlappingIds { .. })
        }),
        (Options { uid_mappings: vec![mapping(0, 0, 0)], ..plain() }, |e| matches!(e, E::MappingRange { .. })),
        (Options { uid_mappings: vec![mapping(0, u32::MAX, 2)], ..plain() }, |e| matches!(e, E::MappingRange { .. })),
        (Options { uid_mappings: vec![mapping(1, 0, 5)], ..plain() }, |e| {
            matches!(e, E::UnmappedId { object: "uid", id: 0 })
        }),
        (Options { capabilities: sets(&none, &one, &none), ..plain() }, |e| {
            matches!(e, E::Capability { set: "permitted", .. })
        }),
        (Options { capabilities: sets(&one, &one, &one), ..plain() }, |e| {
            matches!(e, E::Capability { set: "ambient", within: "inheritable", .. })
        }),
        (Options { rlimits: vec![limit(2, 1)], ..plain() }, |e| matches!(e, E::Rlimit { .. })),
        (Options { rlimits: vec![limit(1, 1), limit(1, 1)], ..plain() }, |e| matches!(e, E::DuplicateRlimit(_))),
        (Options { oom_score_adj: Some(1001), ..plain() }, |e| matches!(e, E::OomScore(1001))),
        (Options { masked_paths: strings(&["proc"]), ..plain() }, |e| matches!(e, E::Relative { .. })),
    ];
    for (number, (options, expected)) in bad.into_iter().enumerate() {
        let error = validate(&generate(&options)).unwrap_err();
        assert!(expected(&error), "case {number}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
}

/// The specification is real: another runtime runs it, in a user namespace like the one that ours starts in.
#[test]
fn crun_runs_the_generated_bundle() {
    let works = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let in_user_namespace = ["--user", "--map-root-user", "--mount", "true"];
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let busybox = match busybox {
        Some(busybox) if unified && works("crun", &["--version"]) && works("unshare", &in_user_namespace) => busybox,
        _ => return eprintln!("skipped: needs crun, busybox, user namespaces and a unified cgroup hierarchy"),
    };
    let folder = tempfile::tempdir().unwrap();
    let rootfs = folder.path().join("rootfs");
    std::fs::create_dir_all(rootfs.join("bin")).unwrap();
    std::fs::copy(busybox, rootfs.join("bin/sh")).unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    for (name, options) in cases() {
        // A single mapped id is what an ordinary user has without help; the other cases need more than that.
        if ["host_namespaces", "joined_namespaces", "keep_id", "terminal", "mounts", "own_dev"].contains(&name) {
            continue;
        }
        let options = Options {
            root: rootfs.clone(),
            args: strings(&["/bin/sh", "-c", "echo hello from $$; while read l; do echo $l; done < /etc/hosts"]),
            files: vec![OwnFile { source: hosts.clone(), target: "/etc/hosts".into() }],
            sysctls: defaults::network_sysctls(0),
            tty_group_mapped: false,
            ..options
        };
        std::fs::write(folder.path().join("config.json"), to_json(&generate(&options)).unwrap()).unwrap();
        let state = folder.path().join("state");
        let mut command = Command::new("unshare");
        command.args(&in_user_namespace[..3]).args(["crun", "--cgroup-manager=disabled", "--root"]).arg(&state);
        let output =
            command.args(["run", "--bundle"]).arg(folder.path()).arg(format!("coracle-{name}")).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(stdout, "hello from 1\n127.0.0.1 localhost\n", "{name}: {stderr}");
    }
}
