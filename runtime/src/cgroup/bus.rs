//! A client of D-Bus, as large as the calls of [`super::manager`] need it: one connection, calls of strings, numbers and
//! properties, replies, one signal.
//!
//! Written by hand: the whole of it is smaller than the set-up of a library for it, and a start does not wait for threads.
//! Whatever can be sent before an answer is needed goes out in one write: authentication, greeting, call.
//!
//! # Source
//! D-Bus Specification, "Message Protocol" and "Authentication Protocol". Messages are in this machine's byte order, which
//! everybody on it uses.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ORDER: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

/// No message of ours comes near; one that says more is broken.
const MOST_BYTES: usize = 1 << 20;

/// Where somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A message bus.
    Bus(Socket),
    /// The manager itself: it takes calls without a greeting and sends its signals unasked.
    Direct(PathBuf),
}

/// A UNIX socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

/// The sockets in a list of addresses as `DBUS_SESSION_BUS_ADDRESS` has it; other transports are left out.
pub(super) fn sockets(addresses: &str) -> Vec<Socket> {
    let of = |address: &str| {
        let keys = address.strip_prefix("unix:")?;
        keys.split(',').find_map(|pair| match pair.split_once('=')? {
            ("path", value) => Some(Socket::Path(PathBuf::from(String::from_utf8(unescape(value)?).ok()?))),
            ("abstract", value) => unescape(value).map(Socket::Abstract),
            _ => None,
        })
    };
    addresses.split(';').filter_map(of).collect()
}

/// `%xx` is a byte.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some(out)
}

/// The arguments of a call, or a part of them.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.align(4);
        self.0.extend(number.to_ne_bytes());
        self
    }

    pub(super) fn boolean(&mut self, value: bool) -> &mut Self {
        self.u32(u32::from(value))
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.align(8);
        self.0.extend(number.to_ne_bytes());
        self
    }

    /// A string, or an object's path.
    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    fn signature(&mut self, text: &str) -> &mut Self {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    /// An array whose elements are aligned so.
    pub(super) fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) -> &mut Self {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        elements(self);
        let length = (self.0.len() - start) as u32;
        if let Some(place) = self.0.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    /// Begins a structure.
    pub(super) fn structure(&mut self) -> &mut Self {
        self.align(8);
        self
    }

    /// An element of `a(sv)`: a name and a value of the given type.
    pub(super) fn property(&mut self, name: &str, signature: &str, value: impl FnOnce(&mut Self)) -> &mut Self {
        self.align(8);
        self.string(name).signature(signature);
        value(self);
        self
    }
}

/// A call of a method.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) signature: &'a str,
    pub(super) body: Body,
}

impl Call<'_> {
    fn encode(&self, serial: u32) -> Vec<u8> {
        let mut head = Body::default();
        head.0.extend([ORDER, 1, 0, 1]);
        head.u32(self.body.0.len() as u32).u32(serial);
        head.array(8, |fields| {
            let mut field = |code: u8, kind: &str, value: &str| {
                fields.align(8);
                fields.0.push(code);
                fields.signature(kind);
                if kind == "g" {
                    fields.signature(value)
                } else {
                    fields.string(value)
                };
            };
            field(1, "o", self.path);
            field(2, "s", self.interface);
            field(3, "s", self.member);
            field(6, "s", self.destination);
            if !self.signature.is_empty() {
                field(8, "g", self.signature);
            }
        });
        head.align(8);
        head.0.extend(&self.body.0);
        head.0
    }
}

/// A message that has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    kind: u8,
    reply_to: Option<u32>,
    pub(super) member: Option<String>,
    error: Option<String>,
    body: Vec<u8>,
}

impl Message {
    /// Whether it is a signal of this name.
    pub(super) fn is_signal(&self, member: &str) -> bool {
        self.kind == 4 && self.member.as_deref() == Some(member)
    }

    /// Its arguments.
    pub(super) fn arguments(&self) -> Arguments<'_> {
        Arguments { bytes: &self.body, at: 0 }
    }

    fn parse(bytes: &[u8]) -> Option<Message> {
        let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
        let mut head = Arguments { bytes, at: 12 };
        let length = head.u32()? as usize;
        head.align(8);
        let end = head.at.checked_add(length)?;
        while head.at < end {
            head.align(8);
            let code = head.byte()?;
            let kind = head.signature()?;
            match (code, kind) {
                (3, "s") => message.member = Some(head.string()?.to_owned()),
                (4, "s") => message.error = Some(head.string()?.to_owned()),
                (5, "u") => message.reply_to = Some(head.u32()?),
                (_, "s" | "o") => drop(head.string()?),
                (_, "g") => drop(head.signature()?),
                (_, "u") => drop(head.u32()?),
                _ => return None,
            }
        }
        head.align(8);
        message.body = bytes.get(head.at..)?.to_vec();
        Some(message)
    }
}

/// The length of the message that begins here; `None` while too little of it has come.
fn length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let number = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes);
    let (Some(body), Some(fields)) = (number(4), number(12)) else { return Ok(None) };
    let length = 16 + (fields as usize).next_multiple_of(8) + body as usize;
    if bytes.first() != Some(&ORDER) || length > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(length))
}

/// Reads arguments in their order.
#[derive(Debug)]
pub(super) struct Arguments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Arguments<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A string, or an object's path.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    /// A boolean in a variant.
    pub(super) fn variant_boolean(&mut self) -> Option<bool> {
        if self.signature()? != "b" {
            return None;
        }
        self.u32().map(|value| value != 0)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }
}

/// A connection. What it has sent is answered in any order.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    is_authenticated: bool,
    serial: u32,
    /// There is a bus between, which must be told which signals are wanted.
    pub(super) is_bus: bool,
}

impl Connection {
    /// Connects; nothing is sent yet.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) fn open(address: &Address, uid: u32) -> io::Result<Connection> {
        let stream = match address {
            Address::Direct(path) | Address::Bus(Socket::Path(path)) => UnixStream::connect(path)?,
            Address::Bus(Socket::Abstract(name)) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        };
        let hex: String = uid.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        let outgoing = format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").into_bytes();
        let is_bus = matches!(address, Address::Bus(_));
        let mut connection =
            Connection { stream, outgoing, incoming: Vec::new(), is_authenticated: false, serial: 0, is_bus };
        if is_bus {
            connection.queue(&of_bus("Hello", "", Body::default()));
        }
        Ok(connection)
    }

    /// Asks the bus for signals.
    pub(super) fn queue_match(&mut self, rule: &str) {
        if self.is_bus {
            let mut body = Body::default();
            body.string(rule);
            self.queue(&of_bus("AddMatch", "s", body));
        }
    }

    /// Adds a call to what goes out, and gives its number.
    pub(super) fn queue(&mut self, call: &Call<'_>) -> u32 {
        self.serial += 1;
        self.outgoing.extend(call.encode(self.serial));
        self.serial
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The other side is gone.
    pub(super) fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&std::mem::take(&mut self.outgoing))
    }

    /// Sends what is queued and waits until the other side knows us. A short call must not come before: the manager reads
    /// 256 bytes at first, and looks for a call only when there is more to be read.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub(super) fn introduce(&mut self, deadline: Instant) -> io::Result<()> {
        self.send()?;
        while !self.is_known()? {
            self.read(deadline)?;
        }
        Ok(())
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// `WouldBlock` or `TimedOut` after the deadline; `PermissionDenied` if the other side does not know us.
    pub(super) fn receive(&mut self, deadline: Instant) -> io::Result<Message> {
        loop {
            if self.is_known()?
                && let Some(length) = length(&self.incoming)?
                && length <= self.incoming.len()
            {
                let bytes: Vec<u8> = self.incoming.drain(..length).collect();
                return Message::parse(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            self.read(deadline)?;
        }
    }

    /// Whether the other side has said that it knows us.
    fn is_known(&mut self) -> io::Result<bool> {
        if !self.is_authenticated
            && let Some(end) = self.incoming.windows(2).position(|two| two == b"\r\n")
        {
            let line: Vec<u8> = self.incoming.drain(..end + 2).collect();
            if !line.starts_with(b"OK ") {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.is_authenticated = true;
        }
        Ok(self.is_authenticated)
    }

    fn read(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        let mut part = [0; 4096];
        match self.stream.read(&mut part) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.incoming.extend(part.iter().take(count));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Message {
    /// Whether this answers the call of this number, and how: the error's name and text, if it is one.
    pub(super) fn answer_to(&self, serial: u32) -> Option<Result<(), (String, String)>> {
        if self.reply_to != Some(serial) {
            return None;
        }
        match self.kind {
            2 => Some(Ok(())),
            3 => {
                let text = self.arguments().string().unwrap_or_default().to_owned();
                Some(Err((self.error.clone().unwrap_or_default(), text)))
            }
            _ => None,
        }
    }
}

fn of_bus<'a>(member: &'a str, signature: &'a str, body: Body) -> Call<'a> {
    let interface = "org.freedesktop.DBus";
    Call { destination: interface, path: "/org/freedesktop/DBus", interface, member, signature, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_sockets() {
        let path = |path: &str| Socket::Path(PathBuf::from(path));
        assert_eq!(sockets("unix:path=/run/user/1000/bus,guid=0123"), [path("/run/user/1000/bus")]);
        assert_eq!(
            sockets("tcp:host=x,port=1;unix:abstract=/tmp/d-1;unix:path=/a%20b"),
            [Socket::Abstract(b"/tmp/d-1".to_vec()), path("/a b")]
        );
        assert_eq!(sockets(""), []);
    }

    #[test]
    fn a_call_has_the_layout_of_the_specification() {
        let mut body = Body::default();
        body.string("x").array(8, |all| {
            all.property("P", "au", |value| {
                value.array(4, |pids| {
                    pids.u32(7);
                });
            });
        });
        let call = Call { destination: "d", path: "/p", interface: "i", member: "M", signature: "sa(sv)", body };
        let bytes = call.encode(3);
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_deref()), (1, Some("M")));
        let mut arguments = message.arguments();
        assert_eq!(arguments.string(), Some("x"));
        // Property name, signature of its value, length of its array, its element.
        assert_eq!(arguments.u32(), Some(20));
        arguments.align(8);
        assert_eq!(
            (arguments.string(), arguments.signature(), arguments.u32(), arguments.u32()),
            (Some("P"), Some("au"), Some(4), Some(7))
        );
        assert_eq!(arguments.at, message.body.len());
    }

    #[test]
    fn a_broken_message_is_an_error_and_no_panic() {
        let call =
            Call { destination: "d", path: "/p", interface: "i", member: "M", signature: "", body: Body::default() };
        let bytes = call.encode(1);
        for end in 0..bytes.len() {
            let _ = Message::parse(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] = 0xff;
            let _ = (length(&broken), Message::parse(&broken));
        }
        assert!(length(&[0; 16]).is_err());
    }
}
