//! A server for containers, which tells each client its address: this program, put into the container's network namespace.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::home::Home;

/// A server in a container; ends when it is dropped.
pub(super) struct Service(Child);

impl Service {
    /// Starts one on `port`, of TCP and UDP.
    pub(super) fn start(home: &Home, container: &str, port: u16) -> Self {
        let pid = home.inspect(container, "{{.State.Pid}}");
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid]).arg(std::env::current_exe().expect("this program has a path"));
        command.args(["--service", &port.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("nsenter is there");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line of its");
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The inner role of this program.
///
/// TCP: a line with the client's address, then everything back, then a line with the number of bytes once the client has
/// closed its side. To `bye` it closes its side, and counts what comes then; to `pour` it sends without an end, and counts
/// what it could.
///
/// UDP: the client's address for each datagram; the count to `count`.
pub(super) fn run(port: &str) -> ExitCode {
    let port = port.parse().expect("a number");
    let any = (Ipv6Addr::UNSPECIFIED, port);
    let (tcp, udp) = (TcpListener::bind(any).expect("a port"), UdpSocket::bind(any).expect("a port"));
    println!("ready");
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((len, from)) = udp.recv_from(&mut datagram) {
            let answer = match &datagram[..len] {
                b"count" => COUNT.load(Ordering::SeqCst).to_string(),
                _ => canonical(from).to_string(),
            };
            let _ = udp.send_to(answer.as_bytes(), from);
        }
    });
    for stream in tcp.incoming().flatten() {
        let Ok(peer) = stream.peer_addr() else { continue };
        thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || {
                let mut stream = stream;
                let _ = writeln!(stream, "{}", canonical(peer));
                let (mut buffer, mut count) = ([0; 8192], 0);
                let mut is_closed = false;
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    count += len;
                    match &buffer[..len] {
                        _ if is_closed => {
                            COUNT.fetch_add(len, Ordering::SeqCst);
                            continue;
                        }
                        b"bye\n" => {
                            is_closed = stream.shutdown(Shutdown::Write).is_ok();
                            continue;
                        }
                        b"pour\n" => {
                            while let Ok(len) = stream.write(&[0; 64 * 1024]) {
                                COUNT.fetch_add(len, Ordering::SeqCst);
                            }
                            return;
                        }
                        _ => {}
                    }
                    let _ = stream.write_all(&buffer[..len]);
                }
                let _ = writeln!(stream, "end {count}");
            })
            .expect("a thread");
    }
    ExitCode::SUCCESS
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
