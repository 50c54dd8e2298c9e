//! Whole command lines, from argv to the request.

use clap::Parser;
use oci_spec::image::ImageConfiguration;
use storage::state::request::{BindMount, Namespace, PullPolicy, RestartPolicy};

use super::*;
use crate::cli::options::run::RunOptions;
use crate::cli::usage::one_line;

#[derive(Parser)]
#[command(name = "run", args_override_self = true, mut_args = valued_flag)]
struct Run {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    options: ContainerOptions,
}

fn parse(args: &[&str]) -> Result<Run, String> {
    Run::try_parse_from(std::iter::once(&"run").chain(args)).map_err(|error| one_line(&error))
}

fn ask(args: &[&str]) -> Result<Asked, String> {
    let environment = [("HOME", "/home/me"), ("HTTP_PROXY", "http://proxy"), ("no_proxy", "x"), ("SECRET", "s")];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let caller = Caller {
        environment: &environment,
        cwd: Path::new("/w"),
        uid: 1000,
        gid: 1001,
        read: &|path| match path.to_str() {
            Some("/w/env") => Ok(b"# x\nA=file\nB=file\n".to_vec()),
            Some("/w/labels") => Ok(b"a=file\nb=file\n".to_vec()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        },
    };
    parse(args)?.options.ask(&caller, vec!["coracle".to_owned(), "run".to_owned()]).map_err(|error| error.to_string())
}

fn image(config: &str) -> ImageConfiguration {
    let json = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{config}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn request(args: &[&str], config: &str) -> Result<Request, String> {
    ask(args)?.finish(Some(&image(config))).map_err(|error| error.to_string())
}

#[test]
fn command_definition_has_no_contradictions() {
    use clap::CommandFactory;
    Run::command().debug_assert();
}

#[test]
fn options_stop_at_the_image() {
    for (args, command) in [
        (&["bb", "ls", "-l"][..], &["ls", "-l"][..]),
        (&["bb", "-v", "--rm"], &["-v", "--rm"]),
        (&["bb", "sh", "-c", "echo $0", "--name=x"], &["sh", "-c", "echo $0", "--name=x"]),
        (&["--", "bb", "-i"], &["-i"]),
        (&["bb", "--", "-i"], &["--", "-i"]),
        (&["bb", "--help"], &["--help"]),
        (&["bb", "-h"], &["-h"]),
    ] {
        let run = parse(args).unwrap();
        assert_eq!(run.options.image(), "bb", "{args:?}");
        assert_eq!(run.options.image_and_command[1..], *command, "{args:?}");
        assert!(!run.options.life.rm && !run.options.process.interactive, "{args:?}");
    }
}

#[test]
fn shorts_combine_and_take_attached_values() {
    let run = parse(&["-dit", "-eA=1", "-p80:80", "-v/tmp:/mnt", "-uroot", "-w/x", "-hweb", "-m1g", "bb"]).unwrap();
    let options = &run.options;
    assert!(run.run.detach && options.process.interactive && options.process.tty);
    assert_eq!(options.process.env, ["A=1"]);
    assert_eq!(options.network.publish, ["80:80"]);
    assert_eq!(options.mounts.volumes, ["/tmp:/mnt"]);
    assert_eq!(options.process.user.as_deref(), Some("root"));
    assert_eq!(options.network.hostname.as_deref(), Some("web"));
    assert_eq!(options.resources.memory.as_deref(), Some("1g"));
    let run = parse(&["-itv", "/a:/b", "-diP", "bb"]).unwrap();
    assert_eq!(run.options.mounts.volumes, ["/a:/b"]);
    assert!(run.options.network.publish_all && run.run.detach);
}

#[test]
fn flags_take_true_and_false() {
    for (args, rm, privileged, interactive) in [
        (&["--rm", "bb"][..], true, false, false),
        (&["--rm=true", "--privileged=true", "bb"], true, true, false),
        (&["--rm=false", "-i=false", "bb"], false, false, false),
        (&["-i=true", "--privileged=1", "bb"], false, true, true),
        (&["--rm", "--rm=false", "-i", "-i", "bb"], false, false, true),
    ] {
        let options = parse(args).unwrap().options;
        let found = (options.life.rm, options.security.privileged, options.process.interactive);
        assert_eq!(found, (rm, privileged, interactive), "{args:?}");
    }
    let run = parse(&["bb"]).unwrap();
    assert!(run.run.sig_proxy && run.options.process.http_proxy && run.options.mounts.read_only_tmpfs);
    let run = parse(&["--sig-proxy=false", "--http-proxy=false", "--read-only-tmpfs=false", "bb"]).unwrap();
    assert!(!run.run.sig_proxy && !run.options.process.http_proxy && !run.options.mounts.read_only_tmpfs);
    // A value stands behind the equals sign or not at all: "false" is the image here.
    assert_eq!(parse(&["--rm", "false"]).unwrap().options.image(), "false");
}

#[test]
fn last_of_a_repeated_option_counts() {
    let options = parse(&["--name", "a", "--name=b", "-w", "/a", "-w", "/b", "bb"]).unwrap().options;
    assert_eq!((options.life.name.as_deref(), options.process.workdir.as_deref()), (Some("b"), Some("/b")));
}

#[test]
fn wrong_command_lines_are_answered_with_one_line() {
    for (args, expected) in [
        (&["--bogus", "bb"][..], "unknown flag: --bogus"),
        (&["--bogus=1", "bb"], "unknown flag: --bogus"),
        (&["-Z", "bb"], "unknown shorthand flag: 'Z' in -Z"),
        (&["-iZ", "bb"], "unknown shorthand flag: 'Z' in -Z"),
        (
            &["--gpus", "count=1", "bb"],
            "invalid argument \"count=1\" for \"--gpus\" flag: must be all, the number or name of a device, or \
             device=NAME[,NAME...]",
        ),
        (&["--name"], "flag needs an argument: --name"),
        (&["--privileged=foo", "bb"], "invalid argument \"foo\" for \"--privileged\" flag: must be true or false"),
        (
            &["-v", "foo:bar", "bb"],
            "invalid argument \"foo:bar\" for \"-v, --volume\" flag: invalid container path \"bar\", must be an absolute path",
        ),
        (
            &["-v", "/a:/b", "-v", "/c:/b/", "bb"],
            "invalid argument \"/c:/b/\" for \"-v, --volume\" flag: /b: duplicate mount destination",
        ),
        (&["-p", "99999", "bb"], "invalid argument \"99999\" for \"-p, --publish\" flag: invalid containerPort: 99999"),
        (
            &["--rm", "--restart", "always", "bb"],
            "invalid argument \"always\" for \"--restart\" flag: conflicts with --rm",
        ),
        (&["--env-file", "nosuch", "bb"], "invalid argument \"nosuch\" for \"--env-file\" flag: no such file"),
        (
            &["--network", "none", "--net", "b", "bb"],
            "invalid argument \"none b\" for \"--network\" flag: cannot set multiple networks without bridge network mode, \
             selected mode none",
        ),
        (
            &["--sysctl", "net.a=1", "--net=host", "bb"],
            "invalid argument \"net.a\" for \"--sysctl\" flag: sysctl net.a can't be set: the container has no network namespace of its own",
        ),
        (
            &["-w", "rel", "bb"],
            "invalid argument \"rel\" for \"-w, --workdir\" flag: the working directory must be an absolute path",
        ),
        (&["--cap-add", "foo", "bb"], "invalid argument \"foo\" for \"--cap-add\" flag: unknown capability"),
        (
            &["--cap-add", "CHOWN", "--cap-drop", "chown", "bb"],
            "invalid argument \"CAP_CHOWN\" for \"--cap-add\" flag: cannot be both dropped and added",
        ),
        (
            &["--uts", "host", "-h", "web", "bb"],
            "invalid argument \"web\" for \"-h, --hostname\" flag: the container has no UTS namespace of its own",
        ),
        (&["--memory-swap", "1g", "bb"], "invalid argument \"1g\" for \"--memory-swap\" flag: needs --memory"),
        (&["--stop-timeout", "x", "bb"], "invalid argument \"x\" for \"--stop-timeout\" flag: must be a number"),
        (
            &["--group-add", "keep-groups", "--group-add", "x", "bb"],
            "invalid argument \"keep-groups\" for \"--group-add\" flag: not allowed with any other --group-add options",
        ),
        (&["-e", "=\u{1b}x", "bb"], "invalid argument \"=\\u{1b}x\" for \"-e, --env\" flag: invalid variable: no name"),
    ] {
        assert_eq!(ask(args).map(|_| ()).unwrap_err(), expected, "{args:?}");
    }
    let missing = ask(&["--rm"]).map(|_| ()).unwrap_err();
    assert!(missing.starts_with("requires at least 1 argument") && !missing.contains('\n'), "{missing}");
}

#[test]
fn defaults_are_those_of_podman() {
    let request = request(&["bb", "true"], "{}").unwrap();
    assert_eq!(request.args, ["true"]);
    assert_eq!(
        request.env,
        [
            "container=coracle",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HTTP_PROXY=http://proxy",
            "no_proxy=x",
        ]
    );
    assert_eq!((request.image.as_str(), request.workdir.as_path()), ("bb", Path::new("/")));
    assert_eq!((request.pull, request.restart), (PullPolicy::Missing, RestartPolicy::No));
    assert_eq!((request.pid.clone(), request.userns.clone()), (Namespace::Private, UserNamespace::Host));
    assert!(request.read_only_tmpfs && !request.read_only && request.stop_signal.is_none());
    assert_eq!(request.create_command, ["coracle", "run"]);
}

#[test]
fn entrypoint_and_command_merge_as_in_docker() {
    const BOTH: &str = r#"{"Entrypoint":["/entry","-x"],"Cmd":["default"]}"#;
    const CMD: &str = r#"{"Cmd":["sh","-c","x"]}"#;
    for (args, config, expected) in [
        (&["bb"][..], BOTH, &["/entry", "-x", "default"][..]),
        (&["bb", "a", "b"], BOTH, &["/entry", "-x", "a", "b"]),
        (&["--entrypoint", "/other", "bb"], BOTH, &["/other"]),
        (&["--entrypoint", "/other", "bb", "a"], BOTH, &["/other", "a"]),
        (&["--entrypoint=", "bb", "a"], BOTH, &["a"]),
        (&["--entrypoint", "[\"/o\",\"-y\"]", "bb", "a"], BOTH, &["/o", "-y", "a"]),
        (&["--entrypoint", "[ -f", "bb"], BOTH, &["[ -f"]),
        (&["bb"], CMD, &["sh", "-c", "x"]),
        (&["bb", "ls"], CMD, &["ls"]),
        (&["bb", "ls"], r#"{"Entrypoint":[""]}"#, &["ls"]),
    ] {
        assert_eq!(request(args, config).unwrap().args, *expected, "{args:?}");
    }
    for (args, config) in [(&["bb"][..], "{}"), (&["--entrypoint=", "bb"], BOTH)] {
        let error = request(args, config).unwrap_err();
        assert_eq!(error, "no command or entrypoint provided, and no CMD or ENTRYPOINT from image");
    }
}

#[test]
fn environment_is_layered_defaults_image_files_options() {
    let config = r#"{"Env":["PATH=/image","A=image","B=image","C=image","BARE"],"Cmd":["x"]}"#;
    let args = ["--http-proxy=false", "--env-file", "env", "-t", "-e", "A=option", "-e", "HOME", "-e", "NOSUCH", "bb"];
    assert_eq!(
        request(&args, config).unwrap().env,
        ["container=coracle", "PATH=/image", "TERM=xterm", "A=option", "B=file", "C=image", "BARE=", "HOME=/home/me"]
    );
    let args = ["--unsetenv", "C", "--unsetenv", "A", "-e", "A=kept", "--http-proxy=false", "bb"];
    assert_eq!(request(&args, config).unwrap().env, ["container=coracle", "PATH=/image", "B=image", "BARE=", "A=kept"]);
    assert_eq!(request(&["--unsetenv-all", "-e", "A=1", "bb"], config).unwrap().env, ["A=1"]);
    let env = request(&["--env-host", "bb"], config).unwrap().env;
    assert!(env.contains(&"SECRET=s".to_owned()) && env.contains(&"A=image".to_owned()), "{env:?}");
}

#[test]
fn image_supplies_what_the_user_left_open() {
    let config = r#"{"User":"web","WorkingDir":"/srv/./x/","StopSignal":"SIGQUIT","Cmd":["x"],
        "Labels":{"a":"image","c":"image"},"ExposedPorts":{"80/tcp":{},"53/udp":{}},
        "Volumes":{"/data":{},"/mine":{}}}"#;
    let args = ["-l", "d=option", "--label-file", "labels", "-v", "/h:/mine", "--expose", "80", "bb"];
    let left = request(&args, config).unwrap();
    assert_eq!((left.user.as_str(), left.workdir.as_path()), ("web", Path::new("/srv/x")));
    assert_eq!(left.stop_signal.as_deref(), Some("SIGQUIT"));
    let labels: Vec<_> = left.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(labels, ["a=file", "b=file", "c=image", "d=option"]);
    let exposed: Vec<_> = left.network.exposed.iter().map(|port| (port.port, port.protocol.as_str())).collect();
    assert_eq!(exposed, [(53, "udp"), (80, "tcp")]);
    let mine = BindMount { source: "/h".into(), target: "/mine".into(), create_source: true, ..BindMount::default() };
    let data = VolumeMount { target: "/data".into(), from_image: true, ..VolumeMount::default() };
    assert_eq!(left.mounts, [Mount::Bind(mine), Mount::Volume(data)]);
    let given = request(&["-u", "0:0", "-w", "/tmp", "--stop-signal", "9", "bb"], config).unwrap();
    assert_eq!((given.user.as_str(), given.workdir.as_path()), ("0:0", Path::new("/tmp")));
    assert_eq!(given.stop_signal.as_deref(), Some("SIGKILL"));
}

#[test]
fn hostile_image_configuration_is_refused_in_its_own_name() {
    for (config, part) in [
        (r#"{"Cmd":["x"],"Volumes":{"/":{}}}"#, "VOLUME of the image"),
        (r#"{"Cmd":["x"],"ExposedPorts":{"x":{}}}"#, "EXPOSE of the image"),
        (r#"{"Cmd":["x"],"StopSignal":"\u001b[2J"}"#, "STOPSIGNAL of the image"),
    ] {
        let error = request(&["bb"], config).unwrap_err();
        assert!(error.contains(part) && !error.contains('\u{1b}'), "{error}");
    }
    let escaping = request(&["bb"], r#"{"Cmd":["x"],"WorkingDir":"../../etc","Volumes":{"../../v":{}}}"#).unwrap();
    assert_eq!(escaping.workdir, Path::new("/etc"));
    assert_eq!(escaping.mounts[0].target(), Path::new("/v"));
}

#[test]
fn keep_id_runs_as_the_caller_unless_told_otherwise() {
    const CONFIG: &str = r#"{"Cmd":["x"]}"#;
    for (args, user) in [
        (&["--userns", "keep-id", "bb"][..], "1000:1001"),
        (&["--userns", "keep-id:uid=7,gid=8", "bb"], "7:8"),
        (&["--userns", "keep-id", "-u", "root", "bb"], "root"),
        (&["bb"], ""),
    ] {
        assert_eq!(request(args, CONFIG).unwrap().user, user, "{args:?}");
    }
}

#[test]
fn options_without_effect_are_said() {
    let warnings = |args: &[&str]| ask(args).unwrap().warnings().len();
    assert_eq!(warnings(&["-p", "80", "bb"]), 0);
    assert_eq!(warnings(&["-p", "80", "--net", "host", "bb"]), 1);
    assert_eq!(warnings(&["-p", "80", "--network=none", "bb"]), 1);
    assert_eq!(warnings(&["-m", "1g", "bb"]), 0);
    assert_eq!(warnings(&["bb"]), 0);
}

#[test]
fn rootfs_takes_a_directory_instead_of_an_image() {
    let asked = ask(&["--rootfs", "tree", "sh"]).unwrap();
    let request = asked.finish(None).unwrap();
    assert_eq!((request.rootfs.as_deref(), request.image.as_str()), (Some(Path::new("/w/tree")), ""));
    assert_eq!(request.args, ["sh"]);
}

/// The lines of the tutorials that people copy from.
#[test]
fn tutorial_lines_are_read_as_they_are() {
    for line in [
        "-it centos /bin/bash",
        "-it --name=mycentos centos:latest /bin/bash",
        "-di --name=mycentos2 centos:latest",
        "-d -p 58080:8080 -v /root/webapps/:/opt/tomcat/webapps/ --name cat_1 superzhan/mytomcat /root/run.sh",
        "-di --name=mynginx -p 80:80 nginx",
        "-p 6379:6379 -v /r/data/:/data -v /r/redis.conf:/usr/local/etc/redis/redis.conf -d redis:4.0 redis-server /usr/local/etc/redis/redis.conf --appendonly yes",
        "-di --privileged=true -v /usr/local/myhtml:/usr/local/myhtml --name=mycentos3 centos:latest",
        "-di -v /opt/registry:/var/lib/registry -p 5000:5000 --name myregistry registry:2",
        "--rm --userns keep-id:size=65536 --security-opt label=disable --security-opt apparmor=unconfined --annotation run.oci.keep_original_groups=1 --pids-limit=-1 --ipc host --pid host --network host --cgroupns host --user root:root -v /:/run/host/:rslave -v /dev:/dev:rslave bb",
        "--tmpfs /run -v VOL:/var:suid,exec,dev --cgroupns=private --privileged --publish=127.0.0.1:6443:6443/tcp -v /lib/modules:/lib/modules:ro bb",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        if let Err(error) = request(&args, r#"{"Cmd":["x"]}"#) {
            panic!("{line}: {error}");
        }
    }
}

/// Any argv is answered: with a request or with one printable line, never with a panic.
#[test]
fn random_command_lines_never_panic() {
    const WORDS: &[&str] = &[
        "-v",
        "-p",
        "-e",
        "-it",
        "-u",
        "-w",
        "-m",
        "-h",
        "-a",
        "-l",
        "--mount",
        "--tmpfs",
        "--device",
        "--ulimit",
        "--sysctl",
        "--security-opt",
        "--userns",
        "--ipc",
        "--network",
        "--add-host",
        "--dns",
        "--shm-size",
        "--cpus",
        "--stop-signal",
        "--umask",
        "--tz",
        "--platform",
        "--log-opt",
        "--restart",
        "--pull",
        "--cap-add",
        "--volumes-from",
        "--expose",
        "--rm=",
        "--privileged=",
        "--entrypoint",
        "--cpuset-cpus",
        "--memory-swap",
        "--bogus",
        "--",
        "bb",
        "sh",
        "",
    ];
    const PIECES: &[&str] = &[
        "/a",
        "b",
        ":",
        "=",
        ",",
        "ro",
        "type=bind",
        "src=",
        "dst=",
        "\"",
        "\\",
        "..",
        "/",
        "-",
        "1",
        "99999999999999999999",
        "0",
        ".",
        "k",
        "%",
        "[",
        "]",
        "é",
        "\u{1b}[2J",
        "\n",
        "\0",
        "::1",
        "127.0.0.1",
        "host",
        "container:",
        "keep-id:uid=",
        "nofile",
        "net.",
        "CAP_",
        "size=",
        "tcp",
        "+",
        "~",
        " ",
        "all",
        "none",
        "SIGRTMIN+",
        "🦀",
        "{",
        "null",
    ];
    // A fixed sequence: what fails once fails always.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..3000 {
        let mut args: Vec<String> = Vec::new();
        for _ in 0..next(6) {
            let word = WORDS[next(WORDS.len())];
            let value: String = (0..next(6)).map(|_| PIECES[next(PIECES.len())]).collect();
            match next(3) {
                0 => args.push(format!("{word}{value}")),
                1 => args.extend([word.to_owned(), value]),
                _ => args.push(format!("{word}={value}")),
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["bb"]).collect();
        // Help is no error of the command line, and not printed through here.
        if let Err(line) = request(&args, r#"{"Cmd":["x"]}"#) {
            assert!(!line.is_empty() && !line.contains(char::is_control), "{args:?}: {line:?}");
        }
    }
}
