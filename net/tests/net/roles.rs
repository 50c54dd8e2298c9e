//! What a container of these tests can be told to do.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use net::netlink::{Address, Netlink, Route};

use crate::fixture::{await_ipv6, ip};

/// How long a connection that is to fail is tried.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives `eth0` an address and a default route.
fn configure(address: &str, gateway: &str) -> Result<(), net::netlink::NetlinkError> {
    let (ip, prefix) = address.split_once('/').expect("address/prefix");
    let address = Address { ip: ip.parse().expect("an address"), prefix: prefix.parse().expect("a length") };
    let mut netlink = Netlink::open()?;
    let index = netlink.link_named("eth0")?.expect("it has been put here");
    netlink.link_up(index)?;
    netlink.add_address(index, address)?;
    let all = if address.ip.is_ipv4() { "0.0.0.0" } else { "::" };
    let to = Address { ip: all.parse().expect("an address"), prefix: 0 };
    netlink.add_route(index, Route { to, gateway: gateway.parse().expect("an address"), metric: 0 })
}

/// Obeys one command and returns the answer, one line.
pub(crate) fn obey(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["ip", ..] => ip(&command[3..]).map_or_else(|e| e, |out| out.replace('\n', " ")),
        ["read", path] => std::fs::read_to_string(path).map_or_else(|e| e.to_string(), |t| t.trim().to_owned()),
        ["write", path, value] => std::fs::write(path, value).map_or_else(|e| e.to_string(), |()| "ok".to_owned()),
        ["lines", path] => std::fs::read_to_string(path).map_or_else(|e| e.to_string(), |t| t.replace('\n', ";")),
        ["configure", address, gateway] => {
            configure(address, gateway).map_or_else(|e| e.to_string(), |()| "ok".to_owned())
        }
        ["tcp-reach", address] => match TcpStream::connect_timeout(&address.parse().expect("an address"), PATIENCE) {
            Err(error) => error.kind().to_string(),
            Ok(mut stream) => {
                let mut text = String::new();
                let _ = stream.set_read_timeout(Some(PATIENCE));
                stream.read_to_string(&mut text).map_or_else(|e| e.to_string(), |_| text)
            }
        },
        ["look-up", way, server, name] => {
            look_up(way, server.parse().expect("an address"), name).unwrap_or_else(|e| e.kind().to_string())
        }
        ["tcp-peer", address] => serve(address, |mut stream| {
            let peer = stream.peer_addr().expect("it is connected");
            let _ = write!(stream, "{}", peer.ip());
        }),
        ["await-ipv6", address] => {
            await_ipv6(address);
            "ok".to_owned()
        }
        ["tcp-echo", address] => serve(address, echo),
        ["tcp-silent", address] => serve(address, |stream| {
            std::thread::sleep(Duration::from_secs(3600));
            drop(stream);
        }),
        ["tcp-reset", address] => serve(address, |mut stream| {
            let _ = stream.read(&mut [0]);
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &RESET).expect("SO_LINGER");
        }),
        ["tcp-report-end", address] => serve(address, |mut stream| {
            let end = loop {
                match stream.read(&mut [0; 4096]) {
                    Ok(0) => break "closed".to_owned(),
                    Ok(_) => {}
                    Err(error) => break error.kind().to_string(),
                }
            };
            println!("{end}");
        }),
        ["tcp-sink", address] => serve(address, |mut stream| {
            let mut buffer = vec![0; 1 << 20];
            while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
            let _ = stream.write_all(b"x");
        }),
        ["tcp-source", address] => serve(address, |mut stream| {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes).expect("the client says how much");
            let mut left = u64::from_ne_bytes(bytes);
            let buffer = vec![0; 1 << 20];
            while left > 0 {
                let part = usize::try_from(left.min(1 << 20)).expect("small");
                stream.write_all(&buffer[..part]).expect("the client reads");
                left -= part as u64;
            }
        }),
        ["tcp-one", address] => {
            let listener = TcpListener::bind(address).expect("the port is free");
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.write_all(b"x");
                }
            });
            "ok".to_owned()
        }
        ["udp-echo", address] => {
            let socket = UdpSocket::bind(address).expect("the port is free");
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                loop {
                    let (len, peer) = socket.recv_from(&mut buffer).expect("datagrams come");
                    let mut answer = format!("{peer} ").into_bytes();
                    answer.extend_from_slice(&buffer[..len]);
                    let _ = socket.send_to(&answer, peer);
                }
            });
            "ok".to_owned()
        }
        _ => panic!("unknown command {command:?}"),
    }
}

/// Asks a server for the IPv4 addresses of a name: the answer's code, then the addresses.
fn look_up(way: &str, server: IpAddr, name: &str) -> std::io::Result<String> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a short one"));
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let mut answer = vec![0; 4096];
    // As long as a resolver waits, and more.
    let patience = Some(Duration::from_secs(10));
    let len = if way == "tcp" {
        let mut stream = TcpStream::connect((server, 53))?;
        stream.set_read_timeout(patience)?;
        stream.write_all(&[&u16::try_from(query.len()).expect("short").to_be_bytes()[..], &query].concat())?;
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let len = usize::from(u16::from_be_bytes(len));
        stream.read_exact(&mut answer[..len])?;
        len
    } else {
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        // What comes from another address is not heard.
        socket.connect((server, 53))?;
        socket.set_read_timeout(patience)?;
        socket.send(&query)?;
        socket.recv(&mut answer)?
    };
    let mut text = (answer[3] & 0xf).to_string();
    for record in answer[..len].get(query.len()..).unwrap_or_default().chunks(16) {
        text += &format!(" {}.{}.{}.{}", record[12], record[13], record[14], record[15]);
    }
    Ok(text)
}

pub(crate) const RESET: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

fn serve(address: &str, work: fn(TcpStream)) -> String {
    let listener = TcpListener::bind(address).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::Builder::new().stack_size(128 * 1024).spawn(move || work(stream)).expect("threads");
        }
    });
    "ok".to_owned()
}

/// Says who the client is, then gives back what it sends.
fn echo(mut stream: TcpStream) {
    let peer = stream.peer_addr().expect("it is connected");
    writeln!(stream, "{peer}").expect("the client reads");
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                if stream.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}
