//! `secret`, and `--secret` of `run`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(secret_is_created_listed_inspected_and_removed),
    test!(secret_comes_from_a_file_a_pipe_or_the_environment),
    test!(secret_is_a_file_in_memory_with_its_owner),
    test!(secret_is_a_variable_of_run_and_exec),
    test!(secret_is_nowhere_on_the_containers_disk),
    test!(secret_target_cannot_lead_out),
    test!(bad_secrets_are_refused_as_podman_does),
];

fn create(home: &Home, name: &str, data: &str) {
    home.coracle(&format!("secret create {name} -")).stdin(data).run().ok();
}

fn secret_is_created_listed_inspected_and_removed(home: &Home) {
    let id = home.coracle("secret create -l a=b s -").stdin("hush").run().ok();
    assert_eq!(id.len(), 25);
    let table = home.ok("secret ls");
    let heading: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["ID", "NAME", "DRIVER", "CREATED", "UPDATED"]);
    assert!(
        table.contains(&format!("{id}  s           file        Less than a second ago"))
            || table.contains("seconds ago")
    );
    assert_eq!(home.ok("secret ls --format '{{.Name}} {{.Driver}}'"), "s file");
    assert_eq!(home.ok("secret inspect --format {{.Spec.Labels.a}} s"), "b");
    assert!(!home.ok("secret inspect s").contains("hush"));
    assert!(home.ok("secret inspect --showsecret s").contains("\"SecretData\": \"hush\""));
    assert!(
        home.ok("secret inspect --pretty s")
            .contains("Name:              s\nLabels:\n - a=b\nDriver:            file\n")
    );
    home.run("secret exists s").exits(0);
    assert_eq!(home.ok("secret rm s"), id);
    home.run("secret exists s").exits(1);
    create(home, "a", "1");
    create(home, "b", "2");
    assert_eq!(home.ok("secret rm --all").lines().count(), 2);
    assert_eq!(home.ok("secret ls -q"), "");
}

fn secret_comes_from_a_file_a_pipe_or_the_environment(home: &Home) {
    let file = home.write("file", "from a file");
    home.coracle("secret create file").arg(&file).run().ok();
    create(home, "pipe", "from a pipe");
    home.coracle("secret create --env env VARIABLE").env("VARIABLE", "from env").run().ok();
    assert_eq!(
        home.ok("run --rm --secret file --secret pipe --secret env busybox sh -c 'cd /run/secrets; cat file pipe env'"),
        "from a filefrom a pipefrom env"
    );
    home.coracle("secret create --replace pipe -").stdin("another").run().ok();
    assert_eq!(home.ok("run --rm --secret pipe busybox cat /run/secrets/pipe"), "another");
}

fn secret_is_a_file_in_memory_with_its_owner(home: &Home) {
    create(home, "s", "hush");
    for userns in ["", "--userns=keep-id", "--userns=single"] {
        let line = format!(
            "run --rm {userns} --secret s,uid=3,gid=4,mode=0400,target=t --secret s,target=/etc/deep/s --secret s,target=sub/s \
             busybox sh -c 'stat -c %u:%g:%a /run/secrets/t /etc/deep/s; cat /etc/deep/s; ls /run/secrets; \
             stat -f -c %T /run/secrets /etc/deep/s; cat /run/secrets/sub/s'"
        );
        assert_eq!(home.ok(&line), "3:4:400\n0:0:444\nhushsub\nt\ntmpfs\ntmpfs\nhush", "{line}");
    }
    let said = home.ok("run --rm -u 5 --secret s busybox cat /run/secrets/s");
    assert_eq!(said, "hush");
}

fn secret_is_a_variable_of_run_and_exec(home: &Home) {
    create(home, "s", "hush");
    assert_eq!(
        home.ok("run --rm --secret s,type=env,target=S busybox sh -c 'echo $S; ls /run'").lines().next(),
        Some("hush")
    );
    home.ok("run -d --name c --secret s,type=env busybox sleep 1000");
    assert_eq!(home.ok("exec c sh -c 'echo $s'"), "hush");
}

fn secret_is_nowhere_on_the_containers_disk(home: &Home) {
    create(home, "s", "a-very-secret-word");
    home.ok("run -d --name c --secret s --secret s,type=env,target=S --secret s,target=/etc/s busybox sleep 1000");
    assert!(!home.ok("inspect c").contains("a-very-secret-word"));
    home.ok("commit -q c localhost/committed");
    let seen = home.ok("run --rm committed sh -c 'cat /run/secrets/* /etc/s; env' 2>/dev/null");
    assert!(!seen.contains("a-very-secret-word"), "{seen}");
    let archive = home.run("export c").out;
    assert!(!String::from_utf8_lossy(&archive).contains("a-very-secret-word"));
    let everything =
        std::process::Command::new("grep").args(["-rl", "a-very-secret-word"]).arg(home.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&everything.stdout), "");
    let file = home.data().join("secrets/s.json");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    // It is looked up at each start.
    home.ok("stop -t 0 c");
    home.ok("secret rm s");
    let line = home.refuses("start c");
    assert!(line.contains("no such secret"), "{line}");
}

fn secret_target_cannot_lead_out(home: &Home) {
    use crate::support::image::{Image, Layer};
    let canary = home.write("canary/file", "safe");
    create(home, "s", "hush");
    let outside = canary.parent().unwrap().to_str().unwrap();
    Image::busybox()
        .layer(Layer::new().dir("run").symlink("run/secrets", outside).symlink("etc/s", canary.to_str().unwrap()))
        .load(home, "localhost/hostile");
    // Links mean what the container sees: a directory of its own, or nothing.
    let finished = home.run("run --rm --secret s --secret s,target=/etc/s hostile cat /etc/s");
    assert!(finished.code() != 0 || finished.stdout() == "hush", "{}", finished.transcript());
    assert_eq!(fs::read_to_string(&canary).unwrap(), "safe");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
}

fn bad_secrets_are_refused_as_podman_does(home: &Home) {
    let nothing = home.write("nothing", "");
    home.coracle("secret create s").arg(&nothing).run().fails(125);
    create(home, "s", "x");
    let line = home.coracle("secret create s -").stdin("y").run().fails(125);
    assert!(line.contains("s: secret name in use"), "{line}");
    home.coracle("secret create a/b -").stdin("y").run().fails(125);
    home.coracle("secret create -d vault v -").stdin("y").run().fails(125);
    home.fails(125, "secret inspect nosuch");
    home.fails(125, "secret rm nosuch");
    home.ok("secret rm -i nosuch");
    let line = home.fails(125, "run --rm --secret nosuch busybox true");
    assert!(line.contains("no secret with name or id \"nosuch\": no such secret"), "{line}");
    home.fails(125, "run --rm --secret s,colour=red busybox true");
}
