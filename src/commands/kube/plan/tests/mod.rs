//! Files as people write them, and what is made of them.

use serde_json::{Map, Value, json};

use super::*;
use crate::commands::kube::read::{self, Object};

fn config_map() -> ConfigMap {
    let data = BTreeMap::from([("level".to_owned(), "high".to_owned()), ("mode".to_owned(), "fast".to_owned())]);
    ConfigMap { data, ..ConfigMap::default() }
}

fn plan_with(text: &str, wishes: &Wishes) -> Result<PodPlan, String> {
    let objects = read::objects(text).map_err(|error| error.to_string())?;
    let Some(Object::Pod(named)) = objects.last() else { panic!("no pod in {text}") };
    let keys = SecretKeys::from([("token".to_owned(), b"hush".to_vec()), ("bytes".to_owned(), vec![0xff])]);
    let config_maps = BTreeMap::from([("settings".to_owned(), config_map())]);
    let world = World {
        config_maps: &config_maps,
        secret: &|name| Ok((name == "keys").then(|| keys.clone())),
        pod_id: "0123",
        hostname: "machine",
        memory_bytes: 1 << 30,
        cpus: 4,
    };
    pod(named, wishes, &world).map_err(|error| error.to_string())
}

fn plan(text: &str) -> Result<PodPlan, String> {
    plan_with(text, &Wishes { seccomp_root: "/profiles".into(), ..Wishes::default() })
}

/// The members that are not as in `default`.
fn changed(value: &Value, default: &Value) -> Value {
    match (value, default) {
        (Value::Object(members), Value::Object(of_default)) => {
            let mut kept: Map<String, Value> = Map::new();
            for (key, member) in members {
                let before = of_default.get(key).unwrap_or(&Value::Null);
                if member != before {
                    kept.insert(key.clone(), changed(member, before));
                }
            }
            Value::Object(kept)
        }
        _ => value.clone(),
    }
}

fn request(request: &Request) -> Value {
    changed(&json!(request), &json!(Request::default()))
}

fn described(plan: &PodPlan) -> Value {
    let container = |one: &ContainerPlan| {
        json!({
            "name": one.name,
            "request": request(&one.request),
            "env": one.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "entrypoint": one.entrypoint,
            "command": one.command,
            "health": changed(&json!(one.health), &json!(Healthcheck::default())),
        })
    };
    let file = |files: &Files| {
        let items = files.items.iter().map(|(path, mode, data)| json!([path, mode, String::from_utf8_lossy(data)]));
        json!({ "volume": files.volume, "items": items.collect::<Vec<_>>() })
    };
    json!({
        "name": plan.name,
        "labels": plan.labels,
        "share": plan.share,
        "request": request(&plan.request),
        "restart": plan.restart,
        "files": plan.files.iter().map(file).collect::<Vec<_>>(),
        "host_paths": plan.host_paths.iter().map(|one| format!("{} {:?}", one.path.display(), one.kind)).collect::<Vec<_>>(),
        "containers": plan.containers.iter().map(container).collect::<Vec<_>>(),
    })
}

#[test]
fn a_pod_with_everything_becomes_what_is_written_beside_it() {
    let made = described(&plan(include_str!("full.yaml")).unwrap());
    let expected: Value = serde_json::from_str(include_str!("full.json")).unwrap();
    assert_eq!(made, expected, "{made:#}");
}

fn one(container: &str) -> String {
    format!("kind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - {{name: c, image: i{container}}}\n")
}

#[test]
fn the_command_line_has_the_last_word() {
    let text = "kind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 2\n  template:\n    spec:\n      containers:\n      - name: c\n        image: i\n        ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81}]\n        readinessProbe: {}\n";
    let port = ports::published("9090:80").unwrap();
    let wishes = Wishes {
        published: vec![port.clone()],
        publish_all: true,
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        network: Network { mode: "slirp4netns".to_owned(), no_hosts: true, ..Network::default() },
        userns: Some(UserNamespace::KeepId { uid: None, gid: None, size: None }),
        ..Wishes::default()
    };
    let made = plan_with(text, &wishes).unwrap();
    assert_eq!(made.request.network.published, [port, ports::published("81:81").unwrap()]);
    assert_eq!((made.name.as_str(), made.request.network.mode.as_str()), ("d-pod", "slirp4netns"));
    let container = &made.containers[0];
    assert_eq!((container.name.as_str(), container.request.annotations["a"].as_str()), ("d-pod-c", "b"));
    assert!(matches!(made.userns, UserNamespace::KeepId { .. }));
    assert_eq!(container.request.restart, RestartPolicy::Always);
    let warnings: Vec<_> = made.warnings.iter().map(String::as_str).collect();
    assert_eq!(
        warnings,
        [
            "Warning: pod d-pod: Limiting replica count to 1, more than one replica is not supported",
            "Warning: pod d-pod: container c: readinessProbe has no effect"
        ]
    );
}

#[test]
fn namespaces_of_the_host_are_the_containers() {
    let text = "kind: Pod\nmetadata: {name: p}\nspec:\n  hostNetwork: true\n  hostPID: true\n  hostIPC: true\n  restartPolicy: Never\n  containers:\n  - {name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}\n";
    let made = plan(text).unwrap();
    assert_eq!(made.request.network.mode, "host");
    assert_eq!(made.request.hostname.as_deref(), Some("machine"));
    assert!(made.request.network.published.is_empty());
    let request = &made.containers[0].request;
    assert_eq!(request.pid, storage::state::request::Namespace::Host);
    assert_eq!(request.ipc, storage::state::request::Namespace::Host);
    assert_eq!(request.restart, RestartPolicy::No);
}

#[test]
fn pods_that_cannot_be_are_refused_with_what_is_wrong() {
    let volume = |source: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes: [{{name: v, {source}}}]\n  containers: [{{name: c, image: i, volumeMounts: [{{name: v, mountPath: /v}}]}}]\n"
        )
    };
    for (text, part) in [
        (
            one(", env: [{name: A, valueFrom: {configMapKeyRef: {name: x, key: k}}}]"),
            "cannot set env A: configmap x not found",
        ),
        (
            one(", env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: k}}}]"),
            "key k not found in configmap settings",
        ),
        (one(", env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: k}}}]"), "secret keys has not k key"),
        (one(", env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: bytes}}}]"), "is no text"),
        (
            one(", env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]"),
            "fieldPath status.podIP is either not valid or not supported",
        ),
        (one(", env: [{name: A=B, value: x}]"), "is not a name of a variable"),
        (one(", envFrom: [{configMapRef: {name: x}}]"), "configmap x not found"),
        (one(", envFrom: [{secretRef: {name: x}}]"), "no such secret"),
        (
            one(", volumeMounts: [{name: v, mountPath: /v}]"),
            "volume mount v specified for container but not configured in volumes",
        ),
        (one(", resources: {limits: {memory: many}}"), "\"many\" is no quantity"),
        (one(", livenessProbe: {tcpSocket: {port: http}}"), "unknown port: http"),
        (one(", livenessProbe: {httpGet: {port: 80, path: \"/'; rm -rf /\"}}"), "is no address"),
        (one(", livenessProbe: {tcpSocket: {port: 80, host: \"$(x)\"}}"), "is no name of a host"),
        (one(", securityContext: {capabilities: {add: [NO_SUCH]}}"), "capabilit"),
        (one(", securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../x}}"), "must be a path below"),
        (one(", imagePullPolicy: Sometimes"), "imagePullPolicy"),
        (one(", ports: [{containerPort: 80, hostPort: 80, protocol: XYZ}]"), "ports"),
        ("kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}".to_owned(), "does not have a image"),
        (
            "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}, {name: c, image: i}]}".to_owned(),
            "duplicate container name",
        ),
        ("kind: Pod\nmetadata: {name: p}\nspec: {restartPolicy: Sometimes}".to_owned(), "restartPolicy"),
        ("kind: Pod\nmetadata: {name: p}\nspec: {hostUsers: false}".to_owned(), "can be host, keep-id or single"),
        (
            "kind: Pod\nmetadata: {name: p}\nspec: {initContainers: [{name: c, image: i, livenessProbe: {}}]}"
                .to_owned(),
            "init container",
        ),
        (volume("hostPath: {path: relative}"), "must be an absolute path"),
        (volume("hostPath: {path: /x, type: Pipe}"), "invalid HostPath type Pipe"),
        (volume("configMap: {name: x}"), "no such ConfigMap"),
        (volume("configMap: {name: settings, items: [{key: level, path: ../../x}]}"), "must be a relative path"),
        (volume("configMap: {name: settings, defaultMode: 04777}"), "between 0000 and 0777"),
        (volume("secret: {secretName: x}"), "no such secret"),
        (volume("nfs: {server: x}"), "currently the only supported"),
        (volume("emptyDir: {medium: Tape}"), "emptyDir.medium"),
    ] {
        let why = plan(&text).expect_err(&text);
        assert!(why.contains(part), "{text}\n{why}");
    }
    let optional = plan(&volume("secret: {secretName: x, optional: true}")).unwrap();
    assert!(optional.containers[0].request.mounts.is_empty() && optional.containers[0].request.secrets.is_empty());
}
