//! What systemd's manager of the user is asked for: a scope with a process in it, and to take in one process more.
//!
//! ```text
//! P ── AUTH, BEGIN, StartTransientUnit(NAME.scope, PIDs=[S], Delegate) ──▶ manager
//! P ◀── JobRemoved(NAME.scope, "done") ─────────────────────────────────── S is in its cgroup, which is ours
//! ```
//! A user may not move a process from the cgroup of a login into one of the manager's, but the manager has it done.
//!
//! **Runs in:** the CLI, as the user, on the host.
//!
//! # Source
//! `org.freedesktop.systemd1(5)`; `systemd.resource-control(5)`, `Delegate=`. The socket `systemd/private` is where
//! `systemctl --user` itself calls: it is there without a message bus, and in a shell of `su` or `ssh`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bus::{self, Address, Body, Call, Connection};
use super::properties::{self, Value};
use super::resources::Setting;

/// A manager that takes longer has other troubles.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service whose start takes longer has been given up by anybody.
const LONGEST_START: Duration = Duration::from_secs(3600);

/// Why the manager did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// There is none.
    #[error("no service manager of this user can be reached")]
    Unreachable,
    /// It says no.
    #[error("the user's service manager refuses {call}: {reason}")]
    Refused {
        /// The method.
        call: &'static str,
        /// Its words.
        reason: String,
    },
    /// The scope has not come to be.
    #[error("the user's service manager did not start {unit}: {result}")]
    Job {
        /// Its name.
        unit: String,
        /// The job's result.
        result: String,
    },
    /// It has not answered.
    #[error("the user's service manager does not answer: {}", crate::sys::reason(.0))]
    Silent(#[source] io::Error),
}

/// Where it may be reached, best first.
fn addresses(uid: u32, variable: impl Fn(&str) -> Option<String>) -> Vec<Address> {
    let standard = PathBuf::from(format!("/run/user/{uid}"));
    let named = variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && *path != standard);
    let directories: Vec<PathBuf> = named.into_iter().chain([standard]).collect();
    let direct = directories.iter().map(|directory| Address::Direct(directory.join("systemd/private")));
    let session = variable("DBUS_SESSION_BUS_ADDRESS").map(|list| bus::sockets(&list)).unwrap_or_default();
    let user = directories.iter().map(|directory| bus::Socket::Path(directory.join("bus")));
    direct.chain(session.into_iter().chain(user).map(Address::Bus)).collect()
}

fn connect() -> Result<Connection, ManagerError> {
    let uid = nix::unistd::geteuid().as_raw();
    let addresses = addresses(uid, |name| std::env::var(name).ok());
    addresses.iter().find_map(|address| Connection::open(address, uid).ok()).ok_or(ManagerError::Unreachable)
}

/// Whether there is a manager to ask.
pub fn is_reachable() -> bool {
    connect().is_ok()
}

/// A scope to be made.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Its name, with `.scope`.
    pub name: &'a str,
    /// What listings say.
    pub description: &'a str,
    /// The slice it is put into; the manager's choice without.
    pub slice: Option<&'a str>,
    /// Limits of that slice. With them it is made along with the first scope in it, and goes with the last.
    pub of_slice: &'a [Setting],
    /// Its first process.
    pub pid: i32,
}

/// A scope that was asked for.
#[derive(Debug)]
pub struct Asked {
    connection: Connection,
    serial: u32,
    /// What is asked for if the slice that was to be made along is there already.
    again: Option<Body>,
    unit: String,
    deadline: Instant,
}

fn call<'a>(member: &'a str, signature: &'a str, body: Body) -> Call<'a> {
    Call {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
        signature,
        body,
    }
}

/// Asks for a scope, and does not wait for it.
///
/// # Errors
/// [`ManagerError::Unreachable`], [`ManagerError::Silent`].
pub fn ask(scope: &Scope<'_>) -> Result<Asked, ManagerError> {
    let mut connection = connect()?;
    connection.queue_match(
        "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    );
    let serial = connection.queue(&call(START, START_SIGNATURE, start_of(scope, true)));
    connection.send().map_err(ManagerError::Silent)?;
    let again = (!scope.of_slice.is_empty()).then(|| start_of(scope, false));
    Ok(Asked { connection, serial, again, unit: scope.name.to_owned(), deadline: Instant::now() + PATIENCE })
}

const START: &str = "StartTransientUnit";
const START_SIGNATURE: &str = "ssa(sv)a(sa(sv))";

/// The arguments of [`START`].
fn start_of(scope: &Scope<'_>, with_slice: bool) -> Body {
    let mut body = Body::default();
    body.string(scope.name).string("fail");
    body.array(8, |properties| {
        properties.property("Description", "s", |value| {
            value.string(scope.description);
        });
        if let Some(slice) = scope.slice {
            properties.property("Slice", "s", |value| {
                value.string(slice);
            });
        }
        properties.property("PIDs", "au", |value| {
            value.array(4, |pids| {
                pids.u32(scope.pid as u32);
            });
        });
        properties.property("Delegate", "b", |value| {
            value.boolean(true);
        });
        // Its limits are ours to set.
        properties.property("TasksMax", "t", |value| {
            value.u64(u64::MAX);
        });
        collected(properties);
    });
    body.array(8, |beside| {
        if let Some(slice) = scope.slice.filter(|_| with_slice && !scope.of_slice.is_empty()) {
            beside.structure().string(slice).array(8, |properties| {
                properties.property("StopWhenUnneeded", "b", |value| {
                    value.boolean(true);
                });
                collected(properties);
                properties::of(scope.of_slice).iter().for_each(|(name, value)| limit(properties, name, value));
            });
        }
    });
    body
}

/// One that failed is not to stand in the way of the next of its name.
fn collected(properties: &mut Body) {
    properties.property("CollectMode", "s", |value| {
        value.string("inactive-or-failed");
    });
}

fn limit(properties: &mut Body, name: &str, value: &Value) {
    match value {
        Value::Number(number) => properties.property(name, "t", |body| {
            body.u64(*number);
        }),
        Value::OfDevices(devices) => properties.property(name, "a(st)", |body| {
            body.array(8, |all| {
                for (device, number) in devices {
                    all.structure().string(device).u64(*number);
                }
            });
        }),
    };
}

impl Asked {
    /// Waits until the process is in the scope.
    ///
    /// # Errors
    /// Any [`ManagerError`].
    pub fn wait(mut self) -> Result<(), ManagerError> {
        loop {
            let message = self.connection.receive(self.deadline).map_err(ManagerError::Silent)?;
            if let Some(Err((name, text))) = message.answer_to(self.serial) {
                // Another container of the pod was before us.
                if let Some(body) = self.again.take_if(|_| name.ends_with(".UnitExists")) {
                    self.serial = self.connection.queue(&call(START, START_SIGNATURE, body));
                    self.connection.send().map_err(ManagerError::Silent)?;
                    continue;
                }
                let reason = if text.is_empty() { name } else { text };
                return Err(ManagerError::Refused { call: START, reason });
            }
            if !message.is_signal("JobRemoved") {
                continue;
            }
            let mut arguments = message.arguments();
            let (_id, _job) = (arguments.u32(), arguments.string());
            if arguments.string() == Some(self.unit.as_str()) {
                return match arguments.string() {
                    Some("done") => Ok(()),
                    result => {
                        let result = result.unwrap_or("a broken message").to_owned();
                        Err(ManagerError::Job { unit: self.unit, result })
                    }
                };
            }
        }
    }
}

/// Whether the manager leaves the cgroup of a unit of its own to the processes in it: `Delegate=`. No answer is no.
pub fn delegates(cgroup: &Path) -> bool {
    let Some(unit) = cgroup.file_name().and_then(|name| name.to_str()) else { return false };
    let kind = if unit.ends_with(".scope") { "Scope" } else { "Service" };
    let ask = || {
        let mut connection = connect().ok()?;
        connection.introduce(Instant::now() + PATIENCE).ok()?;
        let mut body = Body::default();
        body.string(&format!("org.freedesktop.systemd1.{kind}")).string("Delegate");
        let path = object_path(unit);
        let interface = "org.freedesktop.DBus.Properties";
        let serial = connection.queue(&Call { path: &path, interface, ..call("Get", "ss", body) });
        connection.send().ok()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = connection.receive(deadline).ok()?;
            if let Some(answer) = message.answer_to(serial) {
                answer.ok()?;
                return message.arguments().variant_boolean();
            }
        }
    };
    ask().unwrap_or(false)
}

/// The object of a unit: every byte that is no letter or digit is written `_xx`.
fn object_path(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (at, byte) in unit.bytes().enumerate() {
        match byte {
            b'0'..=b'9' if at > 0 => path.push(char::from(byte)),
            b'a'..=b'z' | b'A'..=b'Z' => path.push(char::from(byte)),
            _ => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

/// Has a process of ours moved into a cgroup below that of a unit, `/sub` in it.
///
/// # Errors
/// Any [`ManagerError`].
///
/// # Source
/// `AttachProcessesToUnit`, systemd 238.
pub fn attach(unit: &str, below: &str, pid: i32) -> Result<(), ManagerError> {
    let mut connection = connect()?;
    connection.introduce(Instant::now() + PATIENCE).map_err(ManagerError::Silent)?;
    let mut body = Body::default();
    body.string(unit).string(below).array(4, |pids| {
        pids.u32(pid as u32);
    });
    let serial = connection.queue(&call("AttachProcessesToUnit", "ssau", body));
    connection.send().map_err(ManagerError::Silent)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let message = connection.receive(deadline).map_err(ManagerError::Silent)?;
        match message.answer_to(serial) {
            Some(Ok(())) => return Ok(()),
            Some(Err((_, reason))) => return Err(ManagerError::Refused { call: "AttachProcessesToUnit", reason }),
            None => {}
        }
    }
}

/// Has a service stopped and started again, and waits until it is ready, for as long as that takes the manager.
///
/// # Errors
/// Any [`ManagerError`]; [`ManagerError::Job`] if the service has not become ready.
pub fn restart_unit(unit: &str) -> Result<(), ManagerError> {
    let mut connection = connect()?;
    connection.introduce(Instant::now() + PATIENCE).map_err(ManagerError::Silent)?;
    let mut body = Body::default();
    body.string(unit).string("replace");
    connection.queue_match(
        "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    );
    let serial = connection.queue(&call("RestartUnit", "ss", body));
    connection.send().map_err(ManagerError::Silent)?;
    let deadline = Instant::now() + LONGEST_START;
    let mut job = None;
    loop {
        let message = connection.receive(deadline).map_err(ManagerError::Silent)?;
        match message.answer_to(serial) {
            Some(Ok(())) => job = message.arguments().string().map(str::to_owned),
            Some(Err((name, text))) => {
                let reason = if text.is_empty() { name } else { text };
                return Err(ManagerError::Refused { call: "RestartUnit", reason });
            }
            None if job.is_some() && message.is_signal("JobRemoved") => {
                let mut arguments = message.arguments();
                let (_number, removed, _unit) =
                    (arguments.u32(), arguments.string().map(str::to_owned), arguments.string().map(str::to_owned));
                if removed == job {
                    return match arguments.string() {
                        Some("done") => Ok(()),
                        result => Err(ManagerError::Job {
                            unit: unit.to_owned(),
                            result: result.unwrap_or("a broken message").to_owned(),
                        }),
                    };
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_paths_as_objects() {
        assert_eq!(object_path("web-1.service"), "/org/freedesktop/systemd1/unit/web_2d1_2eservice");
    }

    #[test]
    fn the_manager_itself_is_asked_before_a_bus_whatever_su_left_in_the_environment() {
        let of_root = |name: &str| match name {
            "DBUS_SESSION_BUS_ADDRESS" => Some("unix:path=/run/user/0/bus".to_owned()),
            _ => None,
        };
        let bus = |path: &str| Address::Bus(bus::Socket::Path(path.into()));
        let direct = |path: &str| Address::Direct(Path::new(path).to_owned());
        assert_eq!(
            addresses(7, of_root),
            [direct("/run/user/7/systemd/private"), bus("/run/user/0/bus"), bus("/run/user/7/bus")]
        );
        let moved = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/tmp/run".to_owned());
        assert_eq!(
            addresses(7, moved),
            [
                direct("/tmp/run/systemd/private"),
                direct("/run/user/7/systemd/private"),
                bus("/tmp/run/bus"),
                bus("/run/user/7/bus")
            ]
        );
    }
}
