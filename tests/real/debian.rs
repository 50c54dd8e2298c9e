//! A Debian base, nginx, redis and python: pushed by skopeo to the distribution registry, pulled, and used as people do.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use crate::support::home::wait_until;
use crate::support::image::{Image, Layer, Packing, debian_mirror};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::pty::Terminal;
use crate::support::registry::{Registry, free_port, run_program, tool};
use serde_json::json;

const NEEDS: &[Need] = &[Need::Debian, Need::Registry, Need::Skopeo, Need::Tun];

pub(crate) const TESTS: &[Test] = &[
    test!(debian_installs_a_package).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(debian_installs_packages_with_one_id).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(nginx_serves_through_a_published_port)
        .needs(&[Need::Debian, Need::Registry, Need::Skopeo, Need::Tun, Need::Curl])
        .without_image()
        .limit_secs(600)
        .alone(),
    test!(redis_answers_through_a_published_port)
        .needs(&[Need::Debian, Need::Registry, Need::Skopeo, Need::Tun, Need::RedisCli])
        .without_image()
        .limit_secs(600)
        .alone(),
    test!(python_works_over_a_bind_mounted_directory).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(bash_with_job_control).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(large_image_of_many_layers).needs(&[Need::Registry, Need::Skopeo]).without_image().limit_secs(600).alone(),
];

/// A Debian with these packages, made once for a run of the tests and kept beside their homes.
fn debian(home: &Home, name: &str, packages: &str) -> Vec<u8> {
    let shared = PathBuf::from(std::env::var_os("CORACLE_TEST_DIR").expect("the runner names it"));
    let archive = shared.parent().expect("it has one").join(format!("debian-{name}.tar"));
    if !archive.exists() {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let own = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
        let mut command = Command::new(tool("mmdebstrap"));
        command.args(["--quiet", "--mode=unshare", "--variant=minbase"]).env("TMPDIR", home.tmp());
        if !packages.is_empty() {
            command.arg(format!("--include={packages}"));
        }
        let unfinished = archive.with_extension("unfinished.tar");
        run_program(command.arg(own).arg(&unfinished).arg(debian_mirror().expect("the test needs it")));
        fs::rename(unfinished, &archive).expect("the runner's directory");
    }
    fs::read(archive).expect("it was made")
}

/// Debian with these packages as an image.
pub(super) fn debian_image(home: &Home, name: &str, packages: &str) -> Image {
    let mut image = Image::scratch().set("Cmd", json!(["bash"]));
    image.layers.push(debian(home, name, packages));
    image
}

/// Debian with this configuration, pulled from a registry; returns its name.
fn pulled(
    home: &Home,
    registry: &Registry,
    name: &str,
    packages: &str,
    config: &[(&str, serde_json::Value)],
) -> String {
    let image = debian_image(home, name, packages);
    let image = config.iter().fold(image, |image, (field, value)| image.set(field, value.clone()));
    pull_from(home, registry, name, &image)
}

/// Pushes an image to a registry and pulls it from there; returns its name.
pub(super) fn pull_from(home: &Home, registry: &Registry, name: &str, image: &Image) -> String {
    let mut blobs = Blobs::default();
    blobs.add("it", image, Packing::Gzip, Schema::Oci);
    let dir = home.tmp().join(name);
    blobs.write(&dir);
    registry.push(&format!("oci:{}:it", dir.display()), &format!("{name}:1"));
    let reference = format!("{}/{name}:1", registry.host());
    home.coracle(&format!("pull -q --tls-verify=false {reference}")).limit_secs(120).run().ok();
    reference
}

pub(super) const SERVICES: &str = "nginx-light,redis-server,python3,python3-yaml,python3-requests,python3-numpy";

fn debian_installs_a_package(home: &Home) {
    let registry = Registry::start(home);
    let image = pulled(home, &registry, "base", "", &[]);
    let script = "apt-get update -q && apt-get install -y -q hello && hello";
    for network in ["podman", "builtin"] {
        let line = format!("run --rm --network {network} {image} bash -c");
        let finished = home.coracle(&line).arg(script).limit_secs(240).run();
        assert!(finished.ok().ends_with("Hello, world!"), "{network}: {}", finished.transcript());
    }
    let owners = home.ok(&format!("run --rm {image} stat -c %U:%G:%a /etc/shadow /usr/bin/passwd /tmp"));
    assert_eq!(owners, "root:shadow:640\nroot:root:4755\nroot:root:1777");
    assert_eq!(home.ok(&format!("run --rm -u nobody {image} id -un")), "nobody");
}

/// Packages with users, groups and set-id programs of their own, and daemons that leave root.
fn debian_installs_packages_with_one_id(home: &Home) {
    let registry = Registry::start(home);
    let image = pulled(home, &registry, "base", "", &[]);
    let script = "export DEBIAN_FRONTEND=noninteractive; \
        apt-get update -q && apt-get install -y -q hello postfix redis-server >/dev/null && hello && \
        stat -c %U:%G:%a /usr/sbin/postdrop /var/lib/redis /var/spool/postfix/active && \
        su -s /bin/sh redis -c 'redis-server --daemonize yes --dir /var/lib/redis >/dev/null; sleep 1; redis-cli save; stat -c %U /var/lib/redis/dump.rdb'";
    let finished = home.coracle(&format!("run --rm --userns=single {image} bash -c")).arg(script).limit_secs(400).run();
    let said = finished.ok();
    let end = "Hello, world!\nroot:postdrop:2555\nredis:redis:750\npostfix:root:700\nOK\nredis";
    assert!(said.ends_with(end), "{}", finished.transcript());
}

fn nginx_serves_through_a_published_port(home: &Home) {
    let registry = Registry::start(home);
    let config = [
        ("Cmd", json!(["nginx", "-g", "daemon off;"])),
        ("ExposedPorts", json!({"80/tcp": {}})),
        ("StopSignal", json!("SIGQUIT")),
    ];
    let image = pulled(home, &registry, "services", SERVICES, &config);
    let port = free_port();
    home.write("www/index.html", "served by nginx\n");
    home.ok(&format!("run -d --name web -p 127.0.0.1:{port}:80 -v ./www:/var/www/html:ro {image}"));
    let url = format!("http://127.0.0.1:{port}/");
    let curl = || Command::new(tool("curl")).args(["-s", "--max-time", "5", &url]).output().unwrap().stdout;
    wait_until("nginx answers", || curl() == b"served by nginx\n");
    for _ in 0..50 {
        assert_eq!(curl(), b"served by nginx\n");
    }
    assert!(home.ok("exec web cat /var/log/nginx/access.log").contains("curl"));
    home.ok("stop web");
    assert_eq!(home.inspect("web", "{{.State.ExitCode}}"), "0");
    home.ok("start web");
    wait_until("nginx answers again", || curl() == b"served by nginx\n");
}

fn redis_answers_through_a_published_port(home: &Home) {
    let registry = Registry::start(home);
    let command = json!(["redis-server", "--protected-mode", "no", "--dir", "/data", "--save", "1 1"]);
    let image = pulled(home, &registry, "services", SERVICES, &[("Cmd", command), ("User", json!("redis"))]);
    let port = free_port();
    home.ok(&format!("run -d --name db -p 127.0.0.1:{port}:6379 --tmpfs /data:mode=1777 {image}"));
    let redis = |words: &[&str]| {
        let output = Command::new(tool("redis-cli")).args(["-p", &port.to_string()]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    wait_until("redis answers", || redis(&["ping"]) == "PONG\n");
    assert_eq!(redis(&["set", "key", "value"]), "OK\n");
    assert_eq!(redis(&["get", "key"]), "value\n");
    assert_eq!(home.ok("exec db id -un"), "redis");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    home.ok("stop db");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok();
    assert_eq!(redis(&["ping"]), "");
}

fn python_works_over_a_bind_mounted_directory(home: &Home) {
    let registry = Registry::start(home);
    let image = pulled(home, &registry, "services", SERVICES, &[]);
    let data = home.write("data/in.yaml", "numbers: [1, 2, 3]\n");
    let script = "import yaml, numpy, json; d = yaml.safe_load(open('/data/in.yaml')); json.dump(int(numpy.sum(d['numbers'])), open('/data/out.json', 'w'))";
    let finished = home.coracle(&format!("run --rm -v ./data:/data -w /data {image} python3 -c")).arg(script).run();
    finished.ok();
    assert_eq!(fs::read_to_string(data.with_file_name("out.json")).unwrap(), "6");
    home.ok(&format!("run --rm {image} python3 -m compileall -q /usr/lib/python3/dist-packages/yaml"));
}

fn bash_with_job_control(home: &Home) {
    let registry = Registry::start(home);
    let image = pulled(home, &registry, "base", "", &[]);
    let mut terminal = Terminal::start(home.coracle(&format!("run --rm -it --hostname box {image}")));
    terminal.expect("root@box:/# ");
    // Only what cat itself was given is certain to be echoed: until then the terminal is still readline's.
    terminal.send("echo star''ted; cat\n");
    terminal.expect("started\r\n");
    terminal.send("echoed\n");
    terminal.expect("echoed\r\nechoed");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect("root@box:/# ");
    terminal.send("jobs\n");
    terminal.expect("Stopped");
    terminal.expect("root@box:/# ");
    terminal.send("fg\n");
    terminal.expect("cat\r\n");
    terminal.send("\x04");
    terminal.expect("root@box:/# ");
    terminal.send("exit 4\n");
    assert_eq!(terminal.wait(), 4);
}

fn large_image_of_many_layers(home: &Home) {
    // Twelve layers, 600 MB: text that compresses about as well as programs do, and some files of every layer replaced.
    let mut image = Image::busybox();
    let mut seed = 1_u64;
    for layer in 0..12 {
        let mut tar = Layer::new();
        for file in 0..10 {
            let mut body = String::with_capacity(5_100_000);
            while body.len() < 5_000_000 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                body += &format!("layer {layer} file {file} {:016x} the quick brown fox\n", seed >> 24);
            }
            tar = tar.file(&format!("data{}", (layer * 7 + file) % 90), body);
        }
        image = image.layer(tar);
    }
    let mut blobs = Blobs::default();
    blobs.add("it", &image, Packing::Gzip, Schema::Oci);
    let dir = home.tmp().join("large");
    blobs.write(&dir);
    let registry = Registry::start(home);
    registry.push(&format!("oci:{}:it", dir.display()), "large:1");
    let name = format!("{}/large:1", registry.host());
    home.coracle(&format!("pull -q --tls-verify=false {name}")).limit_secs(240).run().ok();
    assert_eq!(home.ok(&format!("run --rm {name} sh -c 'head -c 15 /data77'")), "layer 11 file 0");
    home.coracle(&format!("rmi {name}")).limit_secs(60).run().ok();
    assert_eq!(home.ok("images -q"), "");
}
