//! What keys become: one file each, the words of one line of its service.

use super::*;

/// What `files` (name, text) become: the services by name, or their errors.
fn converted(files: &[(&str, &str)]) -> BTreeMap<String, Result<Service, String>> {
    let of = |(name, text): &(&str, &str)| Source {
        name: (*name).to_owned(),
        path: Path::new("/q").join(name),
        kind: Kind::of(name).unwrap(),
        unit: Unit::parse(text).unwrap(),
    };
    let mut sources: Vec<Source> = files.iter().map(of).collect();
    sources.sort_by_key(|source| source.kind);
    let mut conversion = Conversion::new("/bin/coracle", &sources);
    sources.iter().map(|source| (source.name.clone(), conversion.convert(source))).collect()
}

/// The value of a key of `[Service]` of the first of them.
fn line(files: &[(&str, &str)], key: &str) -> String {
    let mut all = converted(files);
    let service = all.remove(files[0].0).unwrap().unwrap_or_else(|error| panic!("{files:?}: {error}"));
    service.unit.all("Service", key).join(" | ")
}

fn error(files: &[(&str, &str)]) -> String {
    converted(files).remove(files[0].0).unwrap().unwrap_err()
}

const IMAGE: &str = "[Container]\nImage=localhost/x\n";

/// What a section has beyond `run … localhost/x`.
fn run(text: &str) -> String {
    let all = line(&[("a.container", &format!("{IMAGE}{text}"))], "ExecStart");
    let head =
        "/bin/coracle run --name systemd-%N --cidfile=%t/%N.cid --replace --rm --cgroups=split --log-driver=journald ";
    let rest = all.strip_prefix(head).unwrap_or_else(|| panic!("{all}"));
    rest.replacen("--sdnotify=conmon -d ", "", 1).replacen(" localhost/x", "", 1).replacen("localhost/x", "", 1)
}

#[test]
fn keys_of_a_container_are_options_of_run() {
    for (text, expected) in [
        ("", ""),
        ("Exec=a \"b c\" %h $X\n", " a \"b c\" %h $X"),
        ("Environment=A=1 \"B=2 3\" C\nEnvironment=A=4\n", "--env A=4 --env \"B=2 3\" --env C"),
        (
            "AddCapability=CAP_NET_ADMIN sys_time\nDropCapability=ALL\n",
            "--cap-drop all --cap-add cap_net_admin --cap-add sys_time",
        ),
        ("User=1\nGroup=2\n", "--user 1:2"),
        ("UserNS=keep-id:uid=5\n", "--userns keep-id:uid=5"),
        ("RemapUsers=auto\nRemapUid=0:1:2 3\nRemapUidSize=9\n", "--userns auto:uidmapping=0:1:2,uidmapping=3,size=9"),
        ("RemapUsers=keep-id\nRemapGid=7\n", "--userns keep-id:gid=7"),
        ("RemapUsers=manual\nRemapUid=1\nRemapGid=2\n", "--uidmap 1 --gidmap 2"),
        ("ReadOnly=yes\nVolatileTmp=yes\n", "--read-only"),
        ("VolatileTmp=yes\n", "--tmpfs /tmp:rw,size=512M,mode=1777"),
        ("RunInit=no\n", "--init=false"),
        ("Volume=/a:/b:ro\nVolume=./c:/d\nVolume=e:/f\nVolume=/g\n", "-v /a:/b:ro -v /q/c:/d -v e:/f -v /g"),
        (
            "Mount=type=bind,src=./y,dst=/y\nMount=type=tmpfs,dst=/t\n",
            "--mount type=bind,source=/q/y,dst=/y --mount type=tmpfs,dst=/t",
        ),
        ("EnvironmentFile=./e /f %h/g\n", "--env-file /q/e --env-file /f --env-file %h/g"),
        ("AddDevice=-/dev/nope\nAddDevice=/dev/null\n", "--device /dev/null"),
        (
            "Mask=/a /b\nSeccompProfile=/p\nNoNewPrivileges=true\nSecurityLabelDisable=true\n",
            "--security-opt=no-new-privileges --security-opt label=disable --security-opt seccomp=/p --security-opt mask=/a --security-opt mask=/b",
        ),
        ("AutoUpdate=registry\nLabel=b=2 a=1\n", "--label io.containers.autoupdate=registry --label a=1 --label b=2"),
        ("ExposeHostPort=50-59/udp\nPublishPort=80:80\n", "--expose 50-59/udp --publish 80:80"),
        ("HealthCmd=\"echo hi\"\nHealthOnFailure=kill\n", "--health-cmd \"echo hi\" --health-on-failure kill"),
        ("HealthCmd=test -e \"/a b\"\n", "--health-cmd \"test -e \\\"/a b\\\"\""),
        ("Network=host\nDNS=\nDNS=1.1.1.1\n", "--network host --dns 1.1.1.1"),
        ("PodmanArgs=--log-opt \"a b\"\n", "--log-opt \"a b\""),
        ("Pull=\nMemory=1g\n", "--memory 1g"),
    ] {
        assert_eq!(run(text).trim_end(), expected, "{text}");
    }
}

#[test]
fn who_notifies_is_the_supervisor_unless_told() {
    for (text, expected) in [
        ("Notify=yes\n", "--sdnotify=container -d"),
        ("Notify=no\n", ""),
        ("Notify=Healthy\n", "--sdnotify=healthy -d"),
        ("[Service]\nType=oneshot\n", ""),
    ] {
        assert_eq!(run(text), expected, "{text}");
    }
    let all = line(&[("a.container", &format!("{IMAGE}[Service]\nType=oneshot\n"))], "ExecStart");
    assert!(!all.contains(" -d ") && !all.contains("sdnotify"), "{all}");
}

#[test]
fn a_service_has_what_systemd_needs() {
    let source = format!(
        "# note\n{IMAGE}GlobalArgs=--log-level error\nContainerName=web\nReloadSignal=HUP\n[Service]\nRestart=always\n"
    );
    let service = converted(&[("a.container", &source)]).remove("a.container").unwrap().unwrap();
    let expected = "# note\n[X-Container]\nImage=localhost/x\nGlobalArgs=--log-level error\nContainerName=web\nReloadSignal=HUP\n\n\
                    [Service]\nRestart=always\nEnvironment=PODMAN_SYSTEMD_UNIT=%n\nKillMode=mixed\n\
                    ExecStop=/bin/coracle --log-level error rm -v -f -i --cidfile=%t/%N.cid\n\
                    ExecStopPost=-/bin/coracle --log-level error rm -v -f -i --cidfile=%t/%N.cid\n\
                    ExecReload=/bin/coracle --log-level error kill --signal HUP web\nDelegate=yes\nType=notify\nNotifyAccess=all\n\
                    SyslogIdentifier=%N\n\
                    ExecStart=/bin/coracle --log-level error run --name web --cidfile=%t/%N.cid --replace --rm --cgroups=split --log-driver=journald \
                    --sdnotify=conmon -d localhost/x\n\n\
                    [Unit]\nWants=coracle-wait-network-online.service\nAfter=coracle-wait-network-online.service\n\
                    SourcePath=/q/a.container\nRequiresMountsFor=%t/coracle\n";
    assert_eq!((service.name.as_str(), service.unit.to_string().as_str()), ("a.service", expected));
}

#[test]
fn files_that_name_others_need_their_services() {
    let files = [
        (
            "a.container",
            "[Container]\nImage=b.build\nVolume=v.volume:/v:ro\nNetwork=n.network:ip=1.2.3.4\nNetwork=c.container\nPod=p.pod\n\
                         Mount=type=image,source=i.image,dst=/i\n[Unit]\nAfter=v.volume x.service\n",
        ),
        ("b.build", "[Build]\nImageTag=localhost/b\nFile=/f\n"),
        ("c.container", IMAGE),
        ("i.image", "[Image]\nImage=localhost/i\n"),
        ("n.network", "[Network]\nServiceName=net\n"),
        ("p.pod", "[Pod]\nPodName=pp\n"),
        ("v.volume", "[Volume]\nVolumeName=vv\n"),
    ];
    let all = line(&files, "ExecStart");
    for words in [
        "--network systemd-n:ip=1.2.3.4",
        "--network container:systemd-c",
        "-v vv:/v:ro",
        "--mount type=image,source=localhost/i,dst=/i",
        "--pod-id-file %t/p-pod.pod-id",
        " localhost/b",
    ] {
        assert!(all.contains(words), "{words}: {all}");
    }
    let services = converted(&files);
    let of = |name: &str, key| services[name].as_ref().unwrap().unit.all("Unit", key).join(" ");
    assert_eq!(of("a.container", "Requires"), "b-build.service net.service c.service v-volume.service i-image.service");
    assert_eq!(of("a.container", "BindsTo"), "p-pod.service");
    assert!(of("a.container", "After").starts_with("coracle-wait-network-online.service v-volume.service x.service "));
    assert_eq!(of("p.pod", "Wants"), "coracle-wait-network-online.service a.service");
    assert_eq!(of("p.pod", "Before"), "a.service");
}

#[test]
fn other_files_are_commands_of_their_own() {
    for (name, text, expected) in [
        (
            "v.volume",
            "[Volume]\nUser=1\nGroup=2\nDevice=/d\nType=bind\nOptions=ro\nCopy=no\nLabel=a=1\n",
            "volume create --ignore --opt nocopy --opt device=/d --opt type=bind --opt o=uid=1,gid=2,ro --label a=1 systemd-v",
        ),
        (
            "n.network",
            "[Network]\nSubnet=10.1.0.0/24\nGateway=10.1.0.9\nIPv6=yes\nOptions=isolate=true\n",
            "network create --ignore --subnet 10.1.0.0/24 --gateway 10.1.0.9 --ipv6 --opt isolate=true systemd-n",
        ),
        (
            "i.image",
            "[Image]\nImage=localhost/i\nAllTags=yes\nArch=arm64\n",
            "image pull --arch arm64 --all-tags localhost/i",
        ),
        (
            "b.build",
            "[Build]\nImageTag=localhost/b\nSetWorkingDirectory=unit\nPull=never\n",
            "build --pull=never --tag localhost/b /q",
        ),
        (
            "b.build",
            "[Build]\nImageTag=localhost/b\nFile=/f\nTarget=t\n",
            "build --target t --tag localhost/b --file /f",
        ),
        (
            "b.build",
            "[Build]\nImageTag=localhost/b\nSetWorkingDirectory=https://x/y.git\n",
            "build --tag localhost/b https://x/y.git",
        ),
        (
            "k.kube",
            "[Kube]\nYaml=./k.yaml\nAutoUpdate=registry a/local\nConfigMap=c\nExitCodePropagation=any\n",
            "kube play --replace --service-container=true --service-exit-code-propagation=any --log-driver=journald \
          --annotation=io.containers.autoupdate=registry --annotation=io.containers.autoupdate/a=local --configmap /q/c /q/k.yaml",
        ),
        ("p.pod", "[Pod]\n", "pod start --pod-id-file=%t/%N.pod-id"),
    ] {
        assert_eq!(line(&[(name, text)], "ExecStart"), format!("/bin/coracle {expected}"), "{text}");
    }
    let create = line(&[("p.pod", "[Pod]\nPodName=pp\nPublishPort=80:80\nVolume=/a:/b\n")], "ExecStartPre");
    let expected = "/bin/coracle pod create --infra-conmon-pidfile=%t/%N.pid --pod-id-file=%t/%N.pod-id --exit-policy=stop \
                    --replace --publish 80:80 -v /a:/b --infra-name pp-infra --name pp";
    assert_eq!(create, expected);
}

#[test]
fn what_is_wrong_is_named() {
    for (name, text, expected) in [
        (
            "a.container",
            "[Container]\nImage=localhost/x\nFoo=1\n",
            "unsupported key 'Foo' in group 'Container' in /q/a.container",
        ),
        (
            "a.container",
            "[Container]\nImage=localhost/x\n[Quadlet]\nFoo=1\n",
            "unsupported key 'Foo' in group 'Quadlet' in /q/a.container",
        ),
        ("a.container", "[Container]\n", "no Image or Rootfs key specified"),
        ("a.container", "[Container]\nImage=x\nRootfs=/y\n", "the Image And Rootfs keys conflict"),
        ("a.container", "[Container]\nImage=localhost/x\n[Service]\nType=simple\n", "invalid service Type 'simple'"),
        ("a.container", "[Container]\nImage=localhost/x\n[Service]\nKillMode=process\n", "invalid KillMode 'process'"),
        (
            "a.container",
            "[Container]\nImage=localhost/x\nVolume=no.volume:/x\n",
            "requested Quadlet source no.volume was not found",
        ),
        ("a.container", "[Container]\nImage=no.image\n", "requested Quadlet image no.image was not found"),
        (
            "a.container",
            "[Container]\nImage=localhost/x\nNetwork=no.network\n",
            "requested Quadlet unit no.network was not found",
        ),
        ("a.container", "[Container]\nImage=localhost/x\nPod=x\n", "pod x is not Quadlet based"),
        ("a.container", "[Container]\nImage=localhost/x\nPod=x.pod\n", "quadlet pod unit x.pod does not exist"),
        ("a.container", "[Container]\nImage=localhost/x\nGroup=1\n", "invalid Group set without User"),
        ("a.container", "[Container]\nImage=localhost/x\nUserNS=host\nRemapUsers=auto\n", "deprecated Remap keys"),
        ("a.container", "[Container]\nImage=localhost/x\nExposeHostPort=a\n", "invalid port format 'a'"),
        ("a.container", "[Container]\nImage=localhost/x\nReloadCmd=a\nReloadSignal=b\n", "mutually exclusive"),
        ("a.container", "[Container]\nImage=localhost/x\nExec=\\q\n", "unsupported escape \\q"),
        ("v.volume", "[Volume]\nType=bind\n", "key Type can't be used without Device"),
        ("v.volume", "[Volume]\nDriver=image\n", "the key Image is mandatory"),
        ("n.network", "[Network]\nGateway=1\n", "cannot set gateway or range without subnet"),
        ("b.build", "[Build]\n", "no ImageTag key specified"),
        ("b.build", "[Build]\nImageTag=x\n", "neither SetWorkingDirectory, nor File key specified"),
        ("b.build", "[Build]\nImageTag=x\nFile=f\n", "relative path in File key"),
        ("k.kube", "[Kube]\n", "no Yaml key specified"),
        ("k.kube", "[Kube]\nYaml=x\nRemapUsers=manual\n", "RemapUsers=manual is not supported"),
        ("i.image", "[Image]\n", "no Image key specified"),
    ] {
        let message = error(&[(name, text)]);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn kinds_go_by_the_extension() {
    assert_eq!(Kind::of("a.b.container"), Some(Kind::Container));
    for other in ["container", ".container", "a.Container", "a.service", "a.container.d", "a.kubes"] {
        assert_eq!(Kind::of(other), None, "{other}");
    }
}

#[test]
fn odd_values_are_warned_of() {
    let warnings =
        |text: &str| converted(&[("a.container", text)]).remove("a.container").unwrap().unwrap().warnings.join("\n");
    assert!(warnings("[Container]\nImage=nginx\n").contains("short name"));
    assert!(warnings("[Container]\nImage=localhost/x\nLabel=a=b c\n").contains("double quotes"));
    assert_eq!(warnings("[Container]\nImage=docker.io/library/nginx\nLabel=a=b\n"), "");
}
