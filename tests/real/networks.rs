//! Servers that people run, and clients that know them by name: web, cache, database, repositories, a WebSocket.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::debian::{debian_image, pull_from};
use crate::support::home::wait_until;
use crate::support::prelude::*;
use crate::support::registry::{Registry, free_port};

pub(crate) const TESTS: &[Test] = &[test!(programs_find_each_other_by_name)
    .needs(&[Need::Debian, Need::Registry, Need::Skopeo, Need::Tun])
    .without_image()
    .limit_secs(900)
    .alone()];

const PACKAGES: &str = "nginx-light,redis-server,postgresql,git,iperf3,python3";

const DATABASE: &str = r#"
    bin=$(echo /usr/lib/postgresql/*/bin); echo secret >/tmp/password
    $bin/initdb -D /tmp/data -A scram-sha-256 --pwfile=/tmp/password
    echo "host all all all scram-sha-256" >>/tmp/data/pg_hba.conf
    exec $bin/postgres -D /tmp/data -c listen_addresses="*" -c unix_socket_directories=/tmp"#;

const REPOSITORY: &str = r#"
    git init -q -b main /tmp/it && cd /tmp/it && git config user.email a@example.org && git config user.name a
    head -c 20000000 /dev/urandom >large && sha256sum large >sum && git add . && git commit -qm one
    mkdir /srv/git && git clone -q --bare . /srv/git/it
    exec git daemon --export-all --base-path=/srv/git"#;

/// Says back what it hears, in frames of a WebSocket.
const WEBSOCKET: &str = r#"
import base64, hashlib, socket
server = socket.create_server(("", 80))
while True:
    link, _ = server.accept()
    stream = link.makefile("rwb")
    key = b""
    while (line := stream.readline().strip()):
        name, _, value = line.partition(b": ")
        if name.lower() == b"sec-websocket-key":
            key = value
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    stream.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    stream.flush()
    while (head := stream.read(2)):
        mask, text = stream.read(4), stream.read(head[1] & 127)
        text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))
        stream.write(bytes([head[0], len(text)]) + text)
        stream.flush()
"#;

/// A connection that is held open.
struct WebSocket(TcpStream);

impl WebSocket {
    fn open(port: u16) -> Option<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        // Key and answer of RFC 6455, section 1.3.
        let ask = "GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(ask.as_bytes()).ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            answer.extend(byte);
        }
        String::from_utf8_lossy(&answer).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").then_some(Self(stream))
    }

    fn says_back(&mut self, text: &str) {
        let mask = [7, 1, 9, 3];
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).expect("it is short")];
        frame.extend(mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.0.write_all(&frame).expect("it is open");
        let mut answer = vec![0; 2 + text.len()];
        self.0.read_exact(&mut answer).expect("it is answered");
        assert_eq!(&answer[2..], text.as_bytes());
    }
}

fn programs_find_each_other_by_name(home: &Home) {
    let registry = Registry::start(home);
    let image = pull_from(home, &registry, "programs", &debian_image(home, "programs", PACKAGES));
    home.ok("network create shop");
    let port = free_port();
    let published = format!("-p {port}:80");
    for (name, options, shell, script) in [
        ("socket", published.as_str(), "python3 -c", WEBSOCKET),
        ("web", "", "bash -c", "exec nginx -g 'daemon off;'"),
        ("cache", "-u redis -w /tmp", "bash -c", "exec redis-server --protected-mode no"),
        ("db", "-u postgres", "bash -c", DATABASE),
        ("code", "", "bash -c", REPOSITORY),
        ("meter", "", "bash -c", "exec iperf3 -s"),
        ("client", "", "bash -c", "exec sleep 1000"),
    ] {
        let line = format!("run -d --name {name} --network shop {options} {image} {shell}");
        home.coracle(&line).arg(script).run().ok();
    }
    let mut socket = None;
    wait_until("there is a WebSocket", || {
        socket = WebSocket::open(port);
        socket.is_some()
    });
    let mut socket = socket.expect("it was waited for");
    socket.says_back("at first");
    for (what, script, expected) in [
        (
            "nginx",
            "python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://web/\").read().decode())'",
            "Welcome to nginx",
        ),
        ("redis", "redis-cli -h cache set key word && redis-cli -h cache get key", "word"),
        ("PostgreSQL", "PGPASSWORD=secret psql -h db -U postgres -tAc 'select 6*7'", "42"),
        ("git", "rm -rf /tmp/it && git clone -q git://code/it /tmp/it && cd /tmp/it && sha256sum -c sum", "large: OK"),
        ("iperf3", "iperf3 -c meter -n 64M && iperf3 -c meter -n 64M -R && iperf3 -c meter -u -t 1", "iperf Done."),
    ] {
        let mut said = String::new();
        wait_until(what, || {
            let finished = home.coracle("exec client bash -c").arg(script).limit_secs(120).run();
            said = finished.stdout();
            finished.code() == 0
        });
        assert!(said.contains(expected), "{what}: {said}");
        socket.says_back(what);
    }
    // Whoever is started again is found again, and the connection to another one is none the worse.
    home.ok("restart -t 0 cache");
    wait_until("it is found again", || home.run("exec client redis-cli -h cache ping").stdout().contains("PONG"));
    socket.says_back("at last");
}
