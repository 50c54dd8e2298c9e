//! The same commands to coracle and to a real podman: exit status and stdout must be equal, whatever they are.
//!
//! Where coracle differs on purpose, the command is not here but in a test of its own:
//!
//! | command | podman | coracle | why |
//! | --- | --- | --- | --- |
//! | `run -u nosuchuser` | 126 | 125 | nothing was found that could not be executed; docker's status |
//! | `run -w /new/dir` | refuses | makes it | docker does, and so does podman for the image's own WORKDIR |
//! | `exec` in a stopped container | 255 | 125 | the status its own manual page names |
//! | `--cidfile` that exists | overwrites it | refuses | the file of another container is lost otherwise |
//! | `run -p` of a port in use, with pasta | starts | refuses | the port would be dead |

use crate::support::peer::Podman;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[test!(answers_are_podmans).needs(&[Need::Podman]).limit_secs(600)];

const COMMANDS: &[&str] = &[
    "run --rm --network none busybox echo hello",
    "run --rm --network none busybox sh -c 'exit 3'",
    "run --rm --network none busybox no-such-command",
    "run --rm --network none busybox /etc/passwd",
    "run --rm --network none --entrypoint echo busybox a b",
    "run --rm --network none -e A=1 -e B= busybox sh -c 'echo $A.$B.$HOME'",
    "run --rm --network none -u www-data busybox sh -c 'id -u; id -g; echo $HOME'",
    "run --rm --network none -u 1234:567 busybox sh -c 'id -u; id -g'",
    "run --rm --network none -h box busybox hostname",
    "run --rm --network none --cap-drop all busybox grep Cap /proc/self/status",
    "run --rm --network none --cap-add net_raw busybox grep CapEff /proc/self/status",
    "run --rm --network none -u 1000 busybox grep Cap /proc/self/status",
    "run --rm --network none --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status",
    "run --rm --network none --tmpfs /t:size=2m,mode=700 busybox stat -c %a /t",
    "run --rm --network none --read-only busybox touch /x",
    "run --rm --network none --ulimit nofile=300:400 busybox sh -c 'ulimit -Sn; ulimit -Hn'",
    "run --rm --network none --shm-size 2m busybox sh -c 'df -k /dev/shm | tail -n 1 | awk \"{print \\$2}\"'",
    "run --rm --network none busybox sh -c 'echo $(ls /dev)'",
    "run --rm --network none busybox ls /sys/class/net",
    "run --rm --network none --add-host a:10.0.0.1 busybox grep 10.0.0.1 /etc/hosts",
    "run --rm --network none -v /no/such:/x busybox true",
    "run --rm --network none --no-such-flag busybox true",
    "run --rm --pull=never localhost/nosuch true",
    "run --network none --name kept busybox sh -c 'echo out; exit 4'",
    "run --network none --name kept busybox true",
    "logs kept",
    "inspect --format '{{.State.Status}} {{.State.ExitCode}} {{json .Config.Cmd}}' kept",
    "ps -a --format '{{.Names}} {{.Image}} {{.State}}'",
    "ps -q",
    "wait kept",
    "stop kept",
    "rm kept",
    "rm kept",
    "rm -f kept",
    "inspect kept",
    "create --network none --name made busybox sleep 1000",
    "start made",
    "exec made sh -c 'exit 6'",
    "exec made no-such-command",
    "exec -w /etc -e X=y made sh -c 'pwd; echo $X'",
    "kill --signal NOSUCH made",
    "kill made",
    "wait made",
    "rm made",
    "images --format '{{.Repository}}:{{.Tag}}'",
    "tag busybox localhost/two:2",
    "rmi localhost/two:2 --no-such",
    "rmi nosuch",
    "volume create v",
    "volume ls -q",
    "volume create v",
    "volume rm v",
    "volume rm v",
];

fn answers_are_podmans(home: &Home) {
    let podman = Podman::new(home);
    let mut differences = String::new();
    for line in COMMANDS {
        let ours = home.run(line);
        let (code, stdout, stderr) = podman.run(line);
        let ids = |text: &str| text.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() == 64);
        let same_text = ours.stdout() == stdout || ids(&ours.stdout()) && ids(&stdout);
        if ours.code() != code || !same_text {
            differences += &format!("{}podman: [{code}]\n{stdout}{stderr}\n", ours.transcript());
        }
    }
    assert!(differences.is_empty(), "{differences}");
}
