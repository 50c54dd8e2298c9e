//! The lines of the introductions to docker that people begin with, typed as printed, through a link named `docker`, by an
//! ordinary user; stand-in images under the same names. Ports of the host are free ones instead of the printed ones.
//!
//! What cannot work yet stands in [`MISSING`] with what it waits for, and the test says when it no longer does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::support::docker::Docker;
use crate::support::home::wait_until;
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(first_commands),
    test!(images_are_listed_and_removed),
    test!(containers_in_the_background),
    test!(all_forms_of_publish).limit_secs(120),
    test!(environment_volumes_and_arguments),
    test!(unreadable_host_paths_are_named),
    test!(copy_inspect_commit_save_load),
    test!(what_is_missing_is_listed),
];

/// Lines that wait for something, and the command or option that is not there.
const MISSING: &[(&str, &str)] = &[
    ("search centos", "docker search"),
    ("search redis:4.0", "docker search"),
    ("push localhost:5000/nginx:latest", "docker push"),
    ("login --username=xxx@aliyun.com registry.example", "docker login"),
    ("build -t mycentos:1.1 .", "docker build"),
];

/// Images of the introductions: shells, and servers that answer on their port.
fn make_images(home: &Home) {
    let bash = "#!/bin/sh\nexec sh \"$@\"\n";
    let centos = Image::busybox().layer(Layer::new().executable("bin/bash", bash)).set("Cmd", json!(["/bin/bash"]));
    centos.clone().load(home, "docker.io/library/centos:latest");
    home.ok("tag docker.io/library/centos:latest docker.io/library/centos:7");
    let hello = Image::busybox().set("Cmd", json!(["echo", "Hello from Docker!"]));
    hello.load(home, "docker.io/library/hello-world:latest");
    let server = |port: u16, name: &str| {
        let script = format!("#!/bin/sh\necho \"$@\"\nexec httpd -f -p {port} -h /www\n");
        Image::busybox()
            .layer(
                Layer::new()
                    .executable(&format!("bin/{name}"), script)
                    .dir("www")
                    .file("www/index.html", format!("from {name}"))
                    .executable("bin/bash", bash)
                    .dir("data"),
            )
            .set("Cmd", json!([name]))
            .set("ExposedPorts", json!({ format!("{port}/tcp"): {} }))
    };
    server(80, "nginx").load(home, "docker.io/library/nginx:latest");
    server(8080, "tomcat").load(home, "docker.io/superzhan/mytomcat:latest");
    server(6379, "redis-server").set("Volumes", json!({"/data": {}})).load(home, "docker.io/library/redis:4.0");
}

fn docker(home: &Home) -> Docker<'_> {
    make_images(home);
    Docker::new(home)
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// What a server on this port of the host answers, as soon as it does.
fn fetch(address: &str) -> String {
    let mut text = String::new();
    wait_until("the server answers", || {
        text.clear();
        let Ok(mut stream) = TcpStream::connect(address) else { return false };
        let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(5)));
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
        text.contains("from ")
    });
    text
}

fn first_commands(home: &Home) {
    let docker = docker(home);
    assert!(docker.ok("version").contains("Server:"));
    let info = docker.ok("info");
    for line in ["Containers:", "Images:", "Storage Driver:", "Docker Root Dir:"] {
        assert!(info.contains(line), "{line}\n{info}");
    }
    assert!(docker.ok("--help").contains("Commands:"));
    assert_eq!(docker.ok("run hello-world"), "Hello from Docker!");
    assert_eq!(docker.run_with("run -i centos /bin/bash", "echo $((6*7)); exit 3\n").code, 3);
    assert_eq!(docker.run_with("run -i --name=mycentos centos:latest /bin/bash", "hostname\n").out.len(), 12);
    assert_eq!(docker.run_with("run -i mycentos:1.1", "").code, 125);
}

fn images_are_listed_and_removed(home: &Home) {
    let docker = docker(home);
    let table = docker.ok("images");
    let mut lines = table.lines();
    let heading: Vec<_> = lines.next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(heading, ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    assert!(table.lines().any(|line| line.starts_with("nginx ")), "{table}");
    for options in ["-a", "-q", "--digests", "--no-trunc"] {
        docker.ok(&format!("images {options}"));
    }
    docker.ok("rmi -f centos:7 hello-world:latest");
    let id = docker.ok("images -q nginx");
    docker.ok("tag nginx:latest localhost:5000/nginx:latest");
    assert_ne!(docker.run(&format!("rmi {id}")).code, 0);
    docker.ok(&format!("rmi -f {id}"));
    assert_eq!(docker.ok("images -q nginx"), "");
    docker.ok("create --name user redis:4.0");
    assert_eq!(docker.run("rmi redis:4.0").code, 1);
    docker.ok("rm user");
    let all = docker.ok("images -qa").replace('\n', " ");
    // An image with two names stands there twice.
    docker.ok(&format!("rmi -f {all} {all}"));
    assert_eq!(docker.ok("images -qa"), "");
    assert_eq!(docker.run("rmi -f").code, 1);
}

fn containers_in_the_background(home: &Home) {
    let docker = docker(home);
    let id = docker.ok("run -di --name=mycentos2 centos:latest");
    assert_eq!(id.len(), 64);
    home.wait_for_status("mycentos2", "running");
    assert_eq!(docker.run_with("exec -i mycentos2 /bin/bash", "echo inside\n").out, "inside");
    assert_eq!(docker.ok(&format!("exec {} echo by-prefix", &id[..6])), "by-prefix");
    assert!(docker.ok("ps").contains("mycentos2"));
    assert_ne!(docker.run("rm mycentos2").code, 0);
    docker.ok("stop -t 1 mycentos2");
    assert!(docker.ok("ps -a").contains("Exited"));
    assert!(docker.ok("ps -l").contains("mycentos2"));
    assert!(docker.ok("ps -f status=exited").contains("mycentos2"));
    docker.ok("start mycentos2");
    docker.ok("restart -t 1 mycentos2");
    docker.ok("kill mycentos2");
    home.wait_for_status("mycentos2", "exited");
    docker.ok("rm mycentos2");
    let html = home.tmp().join("myhtml");
    let line =
        format!("run -di --privileged=true -v {0}:/usr/local/myhtml --name=mycentos3 centos:latest", html.display());
    docker.ok(&line);
    docker.ok("exec mycentos3 touch /usr/local/myhtml/made");
    // The missing source has been created.
    assert!(html.join("made").exists());
    docker.ok("rm -f mycentos3");
}

fn all_forms_of_publish(home: &Home) {
    let docker = docker(home);
    let port = free_port();
    docker.ok(&format!("run -di --name=mynginx -p {port}:80 nginx"));
    assert!(fetch(&format!("127.0.0.1:{port}")).contains("from nginx"));
    docker.ok("rm -f mynginx");
    let port = free_port();
    docker.ok(&format!("run -d --name a -p 127.0.0.1:{port}:80 -p 127.0.0.1::81 -p 82 nginx"));
    assert!(fetch(&format!("127.0.0.1:{port}")).contains("from nginx"));
    let shown = docker.ok("port a");
    assert_eq!(shown.lines().count(), 3, "{shown}");
    assert!(shown.contains(&format!("80/tcp -> 127.0.0.1:{port}")), "{shown}");
    docker.ok("rm -f a");
    docker.ok("run -d --name b -P nginx");
    let shown = docker.ok("port b 80");
    let shown = shown.lines().next().unwrap().replace("0.0.0.0", "127.0.0.1");
    assert!(fetch(&shown).contains("from nginx"));
    docker.ok("rm -f b");
}

fn environment_volumes_and_arguments(home: &Home) {
    let docker = docker(home);
    assert_eq!(docker.ok("run --rm -e MYSQL_ROOT_PASSWORD=123456 centos sh -c 'echo $MYSQL_ROOT_PASSWORD'"), "123456");
    let conf = home.write("redis/redis.conf", "port 6379\n");
    let data = home.tmp().join("redis/data");
    let port = free_port();
    docker.ok(&format!(
        "run --name myredis -p {port}:6379 -v {}/:/data -v {}:/usr/local/etc/redis/redis.conf -d redis:4.0 redis-server \
         /usr/local/etc/redis/redis.conf --appendonly yes",
        data.display(),
        conf.display()
    ));
    wait_until("it says with what it was called", || !home.ok("logs myredis").is_empty());
    assert_eq!(docker.ok("logs myredis"), "/usr/local/etc/redis/redis.conf --appendonly yes");
    assert_eq!(docker.ok("exec myredis cat /usr/local/etc/redis/redis.conf"), "port 6379");
    docker.ok("exec myredis touch /data/dump");
    assert!(data.join("dump").exists());
    docker.ok("rm -f myredis");
}

fn unreadable_host_paths_are_named(home: &Home) {
    let docker = docker(home);
    let answer = docker.run(
        "run -d -v /root/webapps/:/opt/tomcat/webapps/ -v /root/logs/:/opt/tomcat/logs/ --name cat_1 superzhan/mytomcat \
         /root/run.sh",
    );
    assert_eq!(answer.code, 125, "{}", answer.err);
    assert!(answer.err.contains("/root/webapps") && answer.err.contains("permission denied"), "{}", answer.err);
    assert_eq!(docker.ok("ps -aq"), "");
}

fn copy_inspect_commit_save_load(home: &Home) {
    let docker = docker(home);
    home.write("anaconda.log", "a log");
    docker.ok("run -di --name=mycentos2 centos:latest");
    docker.ok("cp anaconda.log mycentos2:/tmp");
    assert_eq!(docker.ok("exec mycentos2 cat /tmp/anaconda.log"), "a log");
    std::fs::create_dir(home.tmp().join("export")).unwrap();
    docker.ok("cp mycentos2:/tmp export/");
    assert!(home.tmp().join("export/tmp/anaconda.log").exists());
    docker.ok("inspect mycentos2");
    // The page has typographic quotes around the braces.
    let quoted = docker.ok("inspect --format=\u{2019}{{.State.Status}}\u{2019} mycentos2");
    assert_eq!(quoted, "\u{2019}running\u{2019}");
    docker.ok("inspect --format='{{.NetworkSettings.IPAddress}}' mycentos2");
    docker.ok("run -di --name mynginx nginx");
    docker.ok("commit mynginx mynginx_image");
    docker.ok("save -o mynginx.tar mynginx_image");
    docker.ok("rmi mynginx_image");
    assert!(docker.ok("load -i mynginx.tar").contains("mynginx_image"));
    assert_eq!(docker.ok("inspect -f {{.Config.Cmd}} mynginx_image"), "[nginx]");
    docker.ok("tag nginx:latest localhost:5000/nginx:latest");
    docker.ok("rm -f mynginx mycentos2");
}

fn what_is_missing_is_listed(home: &Home) {
    let docker = docker(home);
    for (line, waits_for) in MISSING {
        let answer = docker.run(line);
        let is_missing = answer.err.contains(&format!("unrecognized command `{waits_for}`"));
        assert!(is_missing, "docker {line}: it does not wait for {waits_for} any more:\n{}", answer.err);
    }
}
