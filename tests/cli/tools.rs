//! Command lines that other programs type: distrobox, toolbox, kind, the dev containers CLI.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::command::{binary, words};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[test!(distrobox), test!(toolbox), test!(kind), test!(dev_containers)];

fn caller() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

fn distrobox(home: &Home) {
    home.ok(&format!(
        "create --hostname box.host --name box --privileged --security-opt label=disable --security-opt apparmor=unconfined \
         --pids-limit=-1 --user root:root --ipc host --network host --pid host --label manager=distrobox --env SHELL=bash \
         --env HOME=/home/{0} --volume /:/run/host/:rslave --volume /dev:/dev:rslave --volume /sys:/sys:rslave \
         --volume /tmp:/tmp:rslave --volume /dev/pts --annotation run.oci.keep_original_groups=1 --systemd=always \
         --userns keep-id --ulimit host --entrypoint /bin/sh busybox -c 'echo ready; sleep 1000'",
        caller()
    ));
    assert_eq!(home.ok("ps -a --no-trunc --filter label=manager=distrobox --format {{.Names}}"), "box");
    home.ok("start box");
    crate::support::home::wait_until("it is ready", || home.ok("logs box").contains("ready"));
    assert_eq!(home.ok("exec --interactive --detach-keys= --user root box id -u"), "0");
    assert_eq!(home.ok(&format!("exec --interactive --detach-keys= --user {} box id -un", caller())), caller());
    assert!(home.ok("exec box ls -d /run/host/etc").contains("/run/host/etc"));
    home.ok("rm -f box");
}

fn toolbox(home: &Home) {
    home.ok("--log-level error system migrate --new-runtime crun");
    home.ok("--log-level error create --cgroupns host --dns none --name tools --ipc host \
         --label com.github.containers.toolbox=true --network host --no-hosts --pid host --privileged \
         --security-opt label=disable --ulimit host --userns=keep-id --user root:root --volume /etc:/run/host/etc \
         --volume /dev:/dev:rslave busybox sleep 1000");
    let listed: serde_json::Value = serde_json::from_str(&home.ok("ps --all --format json --sort names")).unwrap();
    assert_eq!(listed[0]["Names"][0], "tools");
    assert_eq!(listed[0]["Labels"]["com.github.containers.toolbox"], "true");
    home.ok("container exists tools");
    home.ok("image exists busybox");
    assert_eq!(home.run("container exists nosuch").code(), 1);
    let found: serde_json::Value =
        serde_json::from_str(&home.ok("inspect --format json --type container tools")).unwrap();
    assert_eq!(found[0]["Name"], "tools");
    home.ok("start tools");
    // The container has the host's /dev, and its terminals.
    assert_eq!(home.ok(&format!("exec --tty --user {} --workdir / tools id -un", caller())).trim(), caller());
    home.ok("logs --since 1700000000 tools");
    home.ok("rm -f tools");
}

fn kind(home: &Home) {
    let modules = home.tmp().join("modules");
    std::fs::create_dir(&modules).unwrap();
    home.ok(&format!(
        "run --name node --hostname node --label io.x-k8s.kind.role=control-plane --privileged --tmpfs /tmp --tmpfs /run \
         --volume nodes:/var:suid,exec,dev --volume {}:/lib/modules:ro -e KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER --detach \
         --tty --cgroupns=private --publish=127.0.0.1::6443/tcp -e KUBECONFIG=/etc/kubernetes/admin.conf busybox sleep 1000",
        modules.display()
    ));
    assert_eq!(home.ok("ps --filter label=io.x-k8s.kind.role --format '{{.Names}}'"), "node");
    assert_eq!(home.ok("exec node sh -c 'echo $KUBECONFIG'").trim(), "/etc/kubernetes/admin.conf");
    let port = home.ok("inspect --format '{{ (index (index .NetworkSettings.Ports \"6443/tcp\") 0).HostPort }}' node");
    assert!(port.parse::<u16>().is_ok(), "{port}");
    home.ok("rm -f -v node");
}

/// What the CLI of VS Code's dev containers asks of docker.
fn dev_containers(home: &Home) {
    let link = home.tmp().join("docker");
    symlink(binary(), &link).unwrap();
    let docker = |line: &str| {
        let like = home.coracle("").to_command();
        let mut command = Command::new(&link);
        command.args(words(line)).env_clear().current_dir(home.tmp());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "$ docker {line}\n{err}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    assert!(!docker("-v").contains("podman"));
    assert!(docker("version --format {{.Server.Version}}").split('.').count() >= 3);
    docker("info -f {{.Runtimes.nvidia}}");
    docker("inspect --type image busybox");
    let workspace = home.tmp().join("w");
    std::fs::create_dir(&workspace).unwrap();
    let ran = docker(&format!(
        "run --sig-proxy=false -a STDOUT -a STDERR --mount type=bind,source={},target=/w -l devcontainer.local_folder=/x \
         -u root --entrypoint /bin/sh busybox -c 'echo Container started'",
        workspace.display()
    ));
    assert_eq!(ran, "Container started");
    let id = docker("ps -q -a --filter label=devcontainer.local_folder=/x");
    assert_eq!(id.len(), 12);
    let found: serde_json::Value = serde_json::from_str(&docker(&format!("inspect --type container {id}"))).unwrap();
    assert_eq!(found[0]["Config"]["Labels"]["devcontainer.local_folder"], "/x");
    assert_eq!(found[0]["Mounts"][0]["Destination"], "/w");
    docker("run -d --name dev busybox sleep 1000");
    assert_eq!(docker("exec -i -u root -e A=b -w /tmp dev sh -c 'echo $A; pwd'"), "b\n/tmp");
    docker("stop -t 0 dev");
    docker(&format!("rm -f {id} dev"));
}
