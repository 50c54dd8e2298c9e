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
        ["up", address, mebibytes, streams] => {
            load(address, mebibytes.parse().expect("a size"), streams.parse().expect("a number"), up)
        }
        ["down", address, mebibytes, streams] => {
            load(address, mebibytes.parse().expect("a size"), streams.parse().expect("a number"), down)
        }
        ["connects", address, count] => connects(address, count.parse().expect("a number")),
        ["udp-flood", address, count] => udp_flood(address, count.parse().expect("a number")),
        ["bad-wire", netns] => crate::wire::lay(netns).map_or_else(|e| e.to_string(), |()| "ok".to_owned()),
        ["bad-wire-report"] => crate::wire::report(),
        ["exchange", address, len] => exchange(address, len.parse().expect("a length")).unwrap_or_else(|e| e),
        ["connect-many", address, count] => {
            connect_many(address, count.parse().expect("a number")).unwrap_or_else(|e| e.to_string())
        }
        ["hold", address] => match TcpStream::connect(address) {
            Ok(stream) => {
                std::mem::forget(stream);
                "ok".to_owned()
            }
            Err(error) => error.kind().to_string(),
        },
        ["reset", address] => match TcpStream::connect(address) {
            Ok(stream) => {
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &RESET).expect("SO_LINGER");
                "ok".to_owned()
            }
            Err(error) => error.kind().to_string(),
        },
        ["half-close", address] => half_close(address).unwrap_or_else(|e| e.to_string()),
        ["udp-ask", address, len] => {
            udp_ask(address, len.parse().expect("a length")).unwrap_or_else(|e| e.kind().to_string())
        }
        ["echo", address] => {
            echo_request(address.parse().expect("an address")).unwrap_or_else(|e| e.kind().to_string())
        }
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

/// The byte at a place of the stream that [`exchange`] sends.
pub(crate) fn byte(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Sends so many bytes to an echo service, ends, and compares what comes back meanwhile.
fn exchange(address: &str, len: usize) -> Result<String, String> {
    let stream = TcpStream::connect(address).map_err(|e| e.kind().to_string())?;
    let mut writer = stream.try_clone().expect("a descriptor");
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        let mut at = 0;
        while at < len {
            let part = buffer.len().min(len - at);
            buffer.iter_mut().enumerate().for_each(|(offset, place)| *place = byte(at + offset));
            writer.write_all(&buffer[..part])?;
            at += part;
        }
        writer.shutdown(Shutdown::Write)
    });
    let mut reader = std::io::BufReader::with_capacity(256 * 1024, stream);
    std::io::BufRead::read_line(&mut reader, &mut String::new()).map_err(|e| format!("first line: {e}"))?;
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let count = reader.read(&mut buffer).map_err(|e| format!("after {at} bytes: {e}"))?;
        if count == 0 {
            break;
        }
        if let Some(wrong) = (0..count).find(|offset| buffer[*offset] != byte(at + offset)) {
            return Err(format!("byte {} differs", at + wrong));
        }
        at += count;
    }
    sender.join().expect("the sender ends").map_err(|e| format!("send: {e}"))?;
    Ok(at.to_string())
}

/// Holds so many connections at once, each of which says something.
fn connect_many(address: &str, count: usize) -> std::io::Result<String> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address)?);
    }
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&at.to_ne_bytes())?;
        stream.shutdown(Shutdown::Write)?;
    }
    let mut right = 0;
    for (at, stream) in streams.iter_mut().enumerate() {
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        right += usize::from(text.ends_with(&at.to_ne_bytes()));
    }
    Ok(right.to_string())
}

/// Reads to the end of the other side's half, then says something.
fn half_close(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(b"still here")?;
    Ok(text)
}

fn udp_ask(address: &str, len: usize) -> std::io::Result<String> {
    let address: std::net::SocketAddr = address.parse().expect("an address");
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE * 5))?;
    let message: Vec<u8> = (0..len).map(byte).collect();
    socket.send(&message)?;
    let mut buffer = vec![0; 65536];
    let len = socket.recv(&mut buffer)?;
    let right = buffer[..len].ends_with(&message);
    Ok(if right { "ok".to_owned() } else { format!("{len} other bytes") })
}

/// Sends an echo request by a ping socket.
fn echo_request(address: std::net::IpAddr) -> std::io::Result<String> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd as _;
    let (family, protocol, kind) = match address.is_ipv4() {
        true => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        false => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(std::net::SocketAddr::new(address, 0)))?;
    if address.is_ipv4() {
        // Else errors that may pass are not reported.
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    }
    setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(10, 0))?;
    let message: Vec<u8> = [kind, 0, 0, 0, 0, 0, 0, 7].into_iter().chain((0..3000).map(byte)).collect();
    nix::unistd::write(&socket, &message)?;
    let mut buffer = [0; 4096];
    let len = nix::unistd::read(&socket, &mut buffer)?;
    let right = len == message.len() && buffer[6..len] == message[6..];
    Ok(if right { "ok".to_owned() } else { format!("{len} other bytes") })
}

/// Moves so many MiB over so many connections; answers in how many milliseconds.
fn load(address: &str, mebibytes: usize, streams: usize, work: fn(TcpStream, usize) -> std::io::Result<()>) -> String {
    let start = std::time::Instant::now();
    let each = (mebibytes << 20) / streams;
    let threads: Vec<_> = (0..streams)
        .map(|_| {
            let stream = TcpStream::connect(address).expect("the service listens");
            std::thread::spawn(move || work(stream, each))
        })
        .collect();
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("it ends")).collect();
    match ends.into_iter().find_map(Result::err) {
        Some(error) => error.to_string(),
        None => start.elapsed().as_millis().to_string(),
    }
}

/// To a `tcp-sink`.
fn up(mut stream: TcpStream, len: usize) -> std::io::Result<()> {
    let buffer = vec![0; 128 << 10];
    for _ in 0..len / buffer.len() {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])
}

/// From a `tcp-source`.
fn down(mut stream: TcpStream, len: usize) -> std::io::Result<()> {
    stream.write_all(&(len as u64).to_ne_bytes())?;
    let mut buffer = vec![0; 128 << 10];
    let mut got = 0;
    while got < len {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => got += count,
        }
    }
    Ok(())
}

/// The median of connecting and getting the first byte of a `tcp-one`, in microseconds.
fn connects(address: &str, count: usize) -> String {
    let mut times: Vec<u128> = (0..count)
        .map(|_| {
            let start = std::time::Instant::now();
            let mut stream = TcpStream::connect(address).expect("the service listens");
            stream.read_exact(&mut [0]).expect("it says something");
            start.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times[count / 2].to_string()
}

/// Sends datagrams to a `udp-echo` as fast as they are answered, 32 at a time; answers how many of a thousand got lost.
fn udp_flood(address: &str, count: usize) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.connect(address).expect("an address");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut got = 0;
    for _ in 0..count / 32 {
        (0..32).for_each(|_| drop(socket.send(&[0; 1200])));
        got += (0..32).filter(|_| socket.recv(&mut [0; 2048]).is_ok()).count();
    }
    let sent = count / 32 * 32;
    ((sent - got) * 1000 / sent).to_string()
}
