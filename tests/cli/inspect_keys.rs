//! The documents of `inspect`: every member that podman 5.4.2 shows, and what docker's tools read beyond it.

use serde_json::Value;

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(a_container_has_every_member),
    test!(an_image_has_every_member),
    test!(a_volume_has_every_member),
    test!(what_was_asked_for_is_what_is_shown),
];

/// Members with a dot between levels; those that depend on what a container has are not among them.
const CONTAINER: &str = "Id Created Path Args State.OciVersion State.Status State.Running State.Paused State.Restarting \
    State.OOMKilled State.Dead State.Pid State.ConmonPid State.ExitCode State.Error State.StartedAt State.FinishedAt \
    State.CgroupPath State.CheckpointedAt State.RestoredAt Image ImageDigest ImageName Rootfs Pod ResolvConfPath \
    HostnamePath HostsPath StaticDir OCIConfigPath OCIRuntime ConmonPidFile PidFile Name RestartCount Driver MountLabel \
    ProcessLabel AppArmorProfile EffectiveCaps BoundingCaps ExecIDs GraphDriver.Name GraphDriver.Data.LowerDir \
    GraphDriver.Data.UpperDir GraphDriver.Data.WorkDir Mounts Dependencies NetworkSettings.EndpointID \
    NetworkSettings.Gateway NetworkSettings.IPAddress NetworkSettings.IPPrefixLen NetworkSettings.IPv6Gateway \
    NetworkSettings.GlobalIPv6Address NetworkSettings.GlobalIPv6PrefixLen NetworkSettings.MacAddress \
    NetworkSettings.Bridge NetworkSettings.SandboxID NetworkSettings.HairpinMode NetworkSettings.LinkLocalIPv6Address \
    NetworkSettings.LinkLocalIPv6PrefixLen NetworkSettings.Ports.80/tcp NetworkSettings.SandboxKey \
    Namespace IsInfra IsService KubeExitCodePropagation lockNumber Config.Hostname Config.Domainname Config.User \
    Config.AttachStdin Config.AttachStdout Config.AttachStderr Config.Tty Config.OpenStdin Config.StdinOnce Config.Env \
    Config.Cmd Config.Image Config.Volumes Config.WorkingDir Config.Entrypoint Config.OnBuild Config.Labels \
    Config.Annotations Config.StopSignal Config.HealthcheckOnFailureAction Config.HealthLogDestination \
    Config.HealthcheckMaxLogCount Config.HealthcheckMaxLogSize Config.CreateCommand Config.Umask Config.Timeout \
    Config.StopTimeout Config.Passwd Config.sdNotifyMode Config.ExposedPorts.80/tcp HostConfig.Binds \
    HostConfig.CgroupManager HostConfig.CgroupMode HostConfig.ContainerIDFile HostConfig.LogConfig.Type \
    HostConfig.LogConfig.Config HostConfig.LogConfig.Path HostConfig.LogConfig.Tag HostConfig.LogConfig.Size \
    HostConfig.NetworkMode HostConfig.PortBindings.80/tcp HostConfig.RestartPolicy.Name \
    HostConfig.RestartPolicy.MaximumRetryCount HostConfig.AutoRemove HostConfig.AutoRemoveImage HostConfig.Annotations \
    HostConfig.VolumeDriver HostConfig.VolumesFrom HostConfig.CapAdd HostConfig.CapDrop HostConfig.Dns \
    HostConfig.DnsOptions HostConfig.DnsSearch HostConfig.ExtraHosts HostConfig.HostsFile HostConfig.GroupAdd \
    HostConfig.IpcMode HostConfig.Cgroup HostConfig.Cgroups HostConfig.Links HostConfig.OomScoreAdj HostConfig.PidMode \
    HostConfig.Privileged HostConfig.PublishAllPorts HostConfig.ReadonlyRootfs HostConfig.SecurityOpt HostConfig.Tmpfs \
    HostConfig.UTSMode HostConfig.UsernsMode HostConfig.ShmSize HostConfig.Runtime HostConfig.ConsoleSize \
    HostConfig.Isolation HostConfig.CpuShares HostConfig.Memory HostConfig.NanoCpus HostConfig.CgroupParent \
    HostConfig.BlkioWeight HostConfig.BlkioWeightDevice HostConfig.BlkioDeviceReadBps HostConfig.BlkioDeviceWriteBps \
    HostConfig.BlkioDeviceReadIOps HostConfig.BlkioDeviceWriteIOps HostConfig.CpuPeriod HostConfig.CpuQuota \
    HostConfig.CpuRealtimePeriod HostConfig.CpuRealtimeRuntime HostConfig.CpusetCpus HostConfig.CpusetMems \
    HostConfig.Devices HostConfig.DiskQuota HostConfig.KernelMemory HostConfig.MemoryReservation HostConfig.MemorySwap \
    HostConfig.MemorySwappiness HostConfig.OomKillDisable HostConfig.PidsLimit HostConfig.Ulimits HostConfig.CpuCount \
    HostConfig.CpuPercent HostConfig.IOMaximumIOps HostConfig.IOMaximumBandwidth HostConfig.CgroupConf UseImageHosts \
    UseImageHostname LogPath Platform HostConfig.Init NetworkSettings.Networks";

const MOUNT: &str = "Type Name Source Destination Driver Mode Options RW Propagation";

const IMAGE: &str = "Id Digest RepoTags RepoDigests Parent Comment Created Config Version Author Architecture Os Size \
    VirtualSize GraphDriver.Name GraphDriver.Data.UpperDir RootFS.Type RootFS.Layers Labels Annotations ManifestType User \
    History NamesHistory";

const VOLUME: &str = "Name Driver Mountpoint CreatedAt Labels Scope Options MountCount NeedsCopyUp NeedsChown";

#[track_caller]
fn has_all(document: &Value, members: &str) {
    let missing: Vec<&str> = members
        .split_whitespace()
        .filter(|path| path.split('.').try_fold(document, |value, key| value.get(key)).is_none())
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {document:#}");
}

fn document(home: &Home, line: &str) -> Value {
    let list: Value = serde_json::from_str(&home.ok(line)).unwrap();
    list[0].clone()
}

fn a_container_has_every_member(home: &Home) {
    home.ok("run -d --name c -p 127.0.0.1::80 -v data:/data busybox sleep 1000");
    let container = document(home, "inspect c");
    has_all(&container, CONTAINER);
    has_all(&container["Mounts"][0], MOUNT);
    has_all(&document(home, "inspect -s c"), "SizeRw SizeRootFs");
    // Paths that are shown lead somewhere.
    for member in ["ResolvConfPath", "HostnamePath", "HostsPath", "OCIConfigPath", "LogPath"] {
        let path = container[member].as_str().unwrap();
        assert!(std::path::Path::new(path).exists(), "{member}: {path}");
    }
}

fn an_image_has_every_member(home: &Home) {
    has_all(&document(home, "image inspect busybox"), IMAGE);
}

fn a_volume_has_every_member(home: &Home) {
    home.ok("volume create data");
    has_all(&document(home, "volume inspect data"), VOLUME);
}

fn what_was_asked_for_is_what_is_shown(home: &Home) {
    home.ok(
        "create --name c --network none --restart no --cap-add NET_ADMIN --cap-drop chown --dns 192.0.2.1 --dns-search x.y \
         --add-host a:192.0.2.2 --group-add 7 --ipc host --pid host --uts host --oom-score-adj 5 --read-only \
         --security-opt no-new-privileges --shm-size 1m --stop-signal INT --stop-timeout 3 --timeout 60 --umask 0077 \
         --ulimit nofile=5:6 --tmpfs /t --init --label l=v --annotation a=b --expose 81 --passwd=false --hosts-file none \
         --no-hostname --entrypoint /bin/echo -e E=1 -w /tmp -u 5:6 -t -i --cidfile id busybox word",
    );
    let shown = |template: &str| home.ok(&format!("inspect --format '{{{{{template}}}}}' c"));
    for (template, expected) in [
        ("json .HostConfig.CapAdd", "[\"CAP_NET_ADMIN\"]"),
        ("json .HostConfig.CapDrop", "[\"CAP_CHOWN\"]"),
        ("json .HostConfig.Dns", "[\"192.0.2.1\"]"),
        ("json .HostConfig.DnsSearch", "[\"x.y\"]"),
        ("json .HostConfig.ExtraHosts", "[\"a:192.0.2.2\"]"),
        ("json .HostConfig.GroupAdd", "[\"7\"]"),
        (".HostConfig.IpcMode", "host"),
        (".HostConfig.PidMode", "host"),
        (".HostConfig.UTSMode", "host"),
        (".HostConfig.NetworkMode", "none"),
        (".HostConfig.OomScoreAdj", "5"),
        (".HostConfig.ReadonlyRootfs", "true"),
        ("json .HostConfig.SecurityOpt", "[\"no-new-privileges\"]"),
        (".HostConfig.ShmSize", "1048576"),
        (".HostConfig.HostsFile", "none"),
        (".HostConfig.Init", "true"),
        ("len .HostConfig.Tmpfs", "1"),
        ("(index .HostConfig.Ulimits 0).Name", "RLIMIT_NOFILE"),
        ("(index .HostConfig.Ulimits 0).Hard", "6"),
        (".Config.StopTimeout", "3"),
        (".Config.Timeout", "60"),
        (".Config.Umask", "0077"),
        (".Config.User", "5:6"),
        (".Config.WorkingDir", "/tmp"),
        (".Config.Tty", "true"),
        (".Config.OpenStdin", "true"),
        (".Config.Passwd", "false"),
        ("json .Config.Entrypoint", "[\"/bin/echo\"]"),
        ("json .Config.Cmd", "[\"word\"]"),
        ("index .Config.Labels \"l\"", "v"),
        ("index .Config.Annotations \"a\"", "b"),
        ("len .Config.ExposedPorts", "1"),
        (".UseImageHostname", "true"),
        (".Path", "/bin/echo"),
        (".State.Status", "created"),
    ] {
        assert_eq!(shown(template), expected, "{template}");
    }
    assert!(shown(".HostConfig.ContainerIDFile").ends_with("/id"));
    assert!(shown("json .Config.CreateCommand").contains("--no-hostname"));
}
