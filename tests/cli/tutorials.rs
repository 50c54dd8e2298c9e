//! The lines of the introductions to docker that people begin with, typed as printed, through a link named `docker`, by an
//! ordinary user; stand-in images under the same names. Ports of the host are free ones instead of the printed ones.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;

use crate::support::docker::Docker;
use crate::support::home::wait_until;
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use crate::support::registry::{run_program, tool};
use crate::support::sink::{Sink, Trouble};
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(first_commands),
    test!(images_are_listed_and_removed),
    test!(containers_in_the_background),
    test!(all_forms_of_publish).limit_secs(120),
    test!(environment_volumes_and_arguments),
    test!(unreadable_host_paths_are_named),
    test!(copy_inspect_commit_save_load),
    test!(private_registry_in_a_container).needs(&[Need::Registry]).limit_secs(120),
    test!(search_and_login),
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

/// Debian's registry in an image, with what its program is linked to.
fn registry_image() -> Image {
    let program = tool("docker-registry");
    let listed = run_program(Command::new("ldd").arg(&program));
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let config = "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\n  delete:\n    \
                  enabled: true\nhttp:\n  addr: :5000\n  secret: test\n";
    let layer = Layer::new()
        .dir("etc")
        .dir("etc/docker")
        .dir("etc/docker/registry")
        .file("etc/docker/registry/config.yml", config)
        .dir("var")
        .dir("var/lib")
        .dir("var/lib/registry")
        .executable("bin/registry", std::fs::read(&program).unwrap());
    let mut made: Vec<String> = Vec::new();
    let layer = libraries.fold(layer, |layer, library| {
        let parts: Vec<&str> = library.trim_start_matches('/').split('/').collect();
        let dirs = (1..parts.len()).map(|end| parts[..end].join("/"));
        let layer = dirs.fold(layer, |layer, dir| {
            if made.contains(&dir) {
                return layer;
            }
            made.push(dir.clone());
            layer.dir(&dir)
        });
        layer.executable(library.trim_start_matches('/'), std::fs::read(library).unwrap())
    });
    Image::busybox()
        .layer(layer)
        .set("Entrypoint", json!(["/bin/registry"]))
        .set("Cmd", json!(["serve", "/etc/docker/registry/config.yml"]))
        .set("Env", json!(["PATH=/bin", "OTEL_TRACES_EXPORTER=none"]))
        .set("Volumes", json!({"/var/lib/registry": {}}))
        .set("ExposedPorts", json!({"5000/tcp": {}}))
}

fn private_registry_in_a_container(home: &Home) {
    let docker = docker(home);
    registry_image().load(home, "docker.io/library/registry:2");
    let (port, data) = (free_port(), home.tmp().join("opt/registry"));
    std::fs::create_dir_all(&data).unwrap();
    docker.ok(&format!("run -di -v {}:/var/lib/registry -p {port}:5000 --name myregistry registry:2", data.display()));
    let catalog = || {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            let _ = stream.write_all(b"GET /v2/_catalog HTTP/1.0\r\n\r\n");
            let _ = stream.read_to_string(&mut text);
        }
        text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.trim().to_owned())
    };
    wait_until("the registry answers", || catalog() == r#"{"repositories":[]}"#);
    docker.ok(&format!("tag nginx:latest localhost:{port}/nginx:latest"));
    let pushed = docker.ok(&format!("push localhost:{port}/nginx:latest"));
    assert!(pushed.starts_with(&format!("The push refers to repository [localhost:{port}/nginx]")), "{pushed}");
    assert!(pushed.lines().last().unwrap().starts_with("latest: digest: sha256:"), "{pushed}");
    assert_eq!(catalog(), r#"{"repositories":["nginx"]}"#);
    assert!(data.join("docker/registry/v2/repositories/nginx").exists());
    let id = docker.ok("images -q --no-trunc nginx");
    docker.ok(&format!("rmi localhost:{port}/nginx:latest"));
    docker.ok("rmi -f nginx");
    docker.ok(&format!("pull localhost:{port}/nginx:latest"));
    assert_eq!(docker.ok(&format!("images -q --no-trunc localhost:{port}/nginx")), id);
    assert_eq!(docker.ok(&format!("run --rm localhost:{port}/nginx:latest cat /www/index.html")), "from nginx");
    docker.ok("rm -f myregistry");
}

fn search_and_login(home: &Home) {
    let hub = Sink::start(|request| {
        let answer = r#"{"results":[
            {"name":"centos","description":"The official build of CentOS.","star_count":7000,"is_official":true},
            {"name":"me/centos","description":"mine","star_count":1,"is_automated":true}]}"#;
        let is_search = request.path.starts_with("/v1/search?q=centos") || request.path.contains("q=redis%3A4.0");
        let is_known = request.headers.contains_key("authorization");
        let challenge = vec![("WWW-Authenticate".to_owned(), r#"Basic realm="x""#.to_owned())];
        match (is_search, is_known) {
            (true, _) => Some(Trouble::Status(200, Vec::new(), answer.to_owned())),
            (false, true) => None,
            (false, false) => Some(Trouble::Status(401, challenge, String::new())),
        }
    });
    let conf = home.path().join(".config/containers");
    std::fs::create_dir_all(&conf).unwrap();
    let text = format!("unqualified-search-registries = [\"{}\"]\n", hub.host());
    std::fs::write(conf.join("registries.conf"), text).unwrap();
    let docker = docker(home);
    for (line, found) in [
        ("search centos", 2),
        ("search redis:4.0", 2),
        ("search --no-trunc centos", 2),
        ("search -s 5 centos", 1),
        ("search --automated centos", 1),
    ] {
        let table = docker.ok(line);
        assert_eq!(table.lines().count(), 1 + found, "{line}\n{table}");
    }
    let answer =
        docker.run_with(&format!("login --username=xxx@aliyun.com --password-stdin {}", hub.host()), "secret\n");
    assert_eq!((answer.code, answer.out.as_str()), (0, "Login Succeeded"), "{}", answer.err);
    let kept = std::fs::read_to_string(home.path().join(".docker/config.json")).unwrap();
    assert!(kept.contains(&hub.host()), "{kept}");
}
