//! Records, what is written of them, and that `kube play` reads it as it was meant.

use serde_json::json;
use storage::state::container::{self, ImageRecord};
use storage::state::layout::ContainerId;
use storage::state::pod::{self, ExitPolicy};
use storage::state::request::{
    AddHost, BindMount, HealthAction, Healthcheck, PublishedPort, Request, SeccompProfile, SecretKind, SecretUse,
    TmpfsMount, VolumeMount,
};

use super::*;
use crate::commands::kube::emit;

fn record(name: &str, request: Request) -> Record {
    let digest = storage::digest::Digest::of(b"image");
    Record {
        version: container::VERSION,
        id: ContainerId::random(),
        name: name.to_owned(),
        created: jiff::Timestamp::UNIX_EPOCH,
        image: Some(ImageRecord {
            typed: "bb".to_owned(),
            full: "docker.io/library/bb:1".to_owned(),
            id: digest.clone(),
            manifest: digest,
            platform: String::new(),
            layers: Vec::new(),
        }),
        driver: String::new(),
        started_at_once: false,
        anonymous_volumes: Vec::new(),
        addresses: std::collections::BTreeMap::new(),
        request,
    }
}

fn port(host: u16, container: u16) -> PublishedPort {
    let text = format!("127.0.0.1:{host}:{container}/udp");
    crate::cli::parse::ports::published(&text).unwrap()
}

fn written(group: &Group) -> (Value, Vec<String>) {
    let image: ImageConfiguration = serde_json::from_value(json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
        "config": { "Cmd": ["sh"], "Env": ["FROM=image"], "WorkingDir": "/srv" },
    }))
    .unwrap();
    let world = World {
        image: &|_| Some(image.clone()),
        is_directory: &|path| (path != Path::new("/none")).then(|| path.ends_with("dir")),
        created: "2026-01-02T03:04:05Z",
        podman_only: false,
    };
    let mut warnings = Vec::new();
    (describe(group, &world, &mut warnings), warnings)
}

fn full() -> Record {
    let words = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    record(
        "web_1",
        Request {
            cmd: words(&["sleep", "1000", "$(A) $(B) $$"]),
            env: words(&[
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "container=coracle",
                "FROM=image",
                "A=b: c",
            ]),
            workdir: "/srv".into(),
            user: "5:6".to_owned(),
            labels: BTreeMap::from([("x".to_owned(), "y".to_owned())]),
            hostname: Some("hh".to_owned()),
            privileged: true,
            read_only: true,
            cap_drop: words(&["ALL"]),
            cap_add: words(&["CAP_CHOWN"]),
            restart: RestartPolicy::Always,
            stop_timeout: Some(3),
            healthcheck: Some(Healthcheck {
                test: words(&["CMD", "true"]),
                on_failure: HealthAction::Restart,
                ..Healthcheck::default()
            }),
            resources: storage::state::request::Resources {
                memory_bytes: Some(64 << 20),
                nano_cpus: Some(500_000_000),
                ..Default::default()
            },
            network: Network {
                published: vec![port(8080, 80)],
                dns: vec!["1.1.1.1".parse().unwrap()],
                dns_options: words(&["ndots:2", "edns0"]),
                add_hosts: vec![AddHost { names: words(&["a", "b"]), address: "10.0.0.1".to_owned() }],
                ..Network::default()
            },
            mounts: vec![
                Mount::Bind(BindMount {
                    source: "/mnt/dir".into(),
                    target: "/h".into(),
                    read_only: true,
                    ..Default::default()
                }),
                Mount::Bind(BindMount { source: "/none".into(), target: "/n".into(), ..Default::default() }),
                Mount::Tmpfs(TmpfsMount { target: "/t".into(), size: Some("1m".to_owned()), ..Default::default() }),
                Mount::Volume(VolumeMount {
                    name: Some("vv".to_owned()),
                    target: "/v".into(),
                    subpath: Some("s".into()),
                    ..Default::default()
                }),
                Mount::Volume(VolumeMount {
                    name: Some("f00d".to_owned()),
                    anonymous: true,
                    target: "/a".into(),
                    ..Default::default()
                }),
                Mount::Volume(VolumeMount {
                    name: Some("i".to_owned()),
                    from_image: true,
                    target: "/i".into(),
                    ..Default::default()
                }),
            ],
            secrets: vec![
                SecretUse {
                    name: "s".to_owned(),
                    key: Some("k".to_owned()),
                    kind: SecretKind::Env { variable: "S".to_owned() },
                },
                SecretUse {
                    name: "s".to_owned(),
                    key: Some("k".to_owned()),
                    kind: SecretKind::Mount { target: "/keys/k".into(), uid: 0, gid: 0, mode: 0o400 },
                },
            ],
            ..Request::default()
        },
    )
}

use storage::state::request::Mount;

#[test]
fn a_container_with_everything_becomes_what_is_written_beside_it() {
    let (pod, warnings) = written(&Group::of_containers(vec![full()]));
    let text = emit::yaml(&pod);
    assert_eq!(text, include_str!("full.yaml"), "{text}");
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn what_is_written_is_read_as_it_was_meant() {
    use crate::commands::kube::{plan, read};
    let (pod, _) = written(&Group::of_containers(vec![full()]));
    let objects = read::objects(&emit::yaml(&pod)).unwrap();
    let Some(read::Object::Pod(named)) = objects.last() else { panic!("{objects:?}") };
    let world = plan::World {
        config_maps: &BTreeMap::new(),
        secret: &|_| Ok(Some(BTreeMap::from([("k".to_owned(), b"hush".to_vec())]))),
        pod_id: "",
        hostname: "",
        memory_bytes: 0,
        cpus: 1,
    };
    let plan = plan::pod(named, &plan::Wishes::default(), &world).unwrap();
    let (made, meant) = (&plan.containers[0], full().request);
    let request = &made.request;
    assert_eq!(made.entrypoint.as_ref().unwrap(), &meant.cmd);
    assert_eq!(made.env, [("A".to_owned(), "b: c".to_owned())]);
    assert_eq!(made.health.test, meant.healthcheck.as_ref().unwrap().test);
    assert_eq!(plan.request.hostname, meant.hostname);
    assert_eq!(plan.request.network, meant.network.clone_without_names());
    assert_eq!(request.user, meant.user);
    assert_eq!((&request.cap_add, &request.cap_drop), (&meant.cap_add, &meant.cap_drop));
    assert_eq!((request.privileged, request.read_only, request.restart), (true, true, meant.restart));
    assert_eq!((&request.resources, request.stop_timeout), (&meant.resources, meant.stop_timeout));
    assert_eq!(request.secrets, meant.secrets);
    let targets = |request: &Request| request.mounts.iter().map(|mount| mount.target().clone()).collect::<Vec<_>>();
    assert_eq!(targets(request), &targets(&meant)[..5]);
}

trait OneNameEach {
    fn clone_without_names(&self) -> Network;
}

impl OneNameEach for Network {
    /// Host aliases are written one by one.
    fn clone_without_names(&self) -> Network {
        let mut network = self.clone();
        network.add_hosts = self
            .add_hosts
            .iter()
            .flat_map(|host| {
                host.names.iter().map(|name| AddHost { names: vec![name.clone()], address: host.address.clone() })
            })
            .collect();
        network
    }
}

#[test]
fn what_has_no_word_is_told() {
    let request = Request {
        user: "www".to_owned(),
        secrets: vec![SecretUse {
            name: "s".to_owned(),
            key: None,
            kind: SecretKind::Env { variable: "S".to_owned() },
        }],
        ..Request::default()
    };
    let request = Request {
        security: storage::state::request::Security {
            seccomp: SeccompProfile::File("/p".into()),
            ..Default::default()
        },
        ..request
    };
    let (_, warnings) = written(&Group::of_containers(vec![record("c", request)]));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

#[test]
fn a_pod_has_its_network_and_the_names_of_its_containers() {
    let id = ContainerId::random();
    let infra = record(
        "i",
        Request {
            infra: true,
            network: Network { published: vec![port(1, 2)], ..Network::default() },
            ..Request::default()
        },
    );
    let pod = Pod {
        version: pod::VERSION,
        id,
        name: "p".to_owned(),
        created: jiff::Timestamp::UNIX_EPOCH,
        infra: Some(infra.id.clone()),
        share: vec!["net".to_owned(), "pid".to_owned()],
        hostname: "p".to_owned(),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        create_command: vec!["kube".to_owned(), "play".to_owned()],
        exit_policy: ExitPolicy::Stop,
        restart: RestartPolicy::No,
        userns: UserNamespace::Host,
        members: Default::default(),
    };
    let first = Request { init_container: Some(storage::state::request::InitContainer::Always), ..Request::default() };
    let members =
        vec![infra, record("p-first", first), record("p-one", Request::default()), record("two", Request::default())];
    let (made, _) = written(&Group::of_pod(&pod, members));
    let names = |key: &str| {
        made["spec"][key]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names("initContainers"), names("containers")),
        (vec!["first".to_owned()], vec!["one".to_owned(), "two".to_owned()])
    );
    assert_eq!(made["metadata"]["labels"], json!({ "a": "b", "app": "p" }));
    assert_eq!(made["spec"]["containers"][0]["ports"][0]["hostPort"], 1);
    assert_eq!(
        (&made["spec"]["restartPolicy"], &made["spec"]["shareProcessNamespace"]),
        (&json!("Never"), &json!(true))
    );
    let service = service(&made, &mut NodePorts::new(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 2);
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 30_001);
}
