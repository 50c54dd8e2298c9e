//! The distribution registry of Debian, `docker-registry`, on a free port of loopback: plain, with passwords, with TLS.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::home::{Home, wait_until};
use super::needs::find_program;

/// A registry that runs until it is dropped.
pub(crate) struct Registry {
    child: Child,
    port: u16,
    password: bool,
    ca: Option<PathBuf>,
}

/// What is asked of the registry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// Only the user `me` with the password `secret`.
    pub(crate) password: bool,
    /// HTTPS, by a certificate authority of its own.
    pub(crate) tls: bool,
    /// The certificate is signed by itself, as `openssl req -x509` makes it.
    pub(crate) self_signed: bool,
}

impl Registry {
    pub(crate) fn start(home: &Home) -> Self {
        Self::start_with(home, Setup::default())
    }

    pub(crate) fn start_with(home: &Home, setup: Setup) -> Self {
        let port = free_port();
        let dir = home.tmp().join(format!("registry-{port}"));
        fs::create_dir_all(&dir).expect("the test's own directory");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\n  \
             delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n  secret: test\n",
            dir.display()
        );
        let mut ca = None;
        if setup.tls {
            let authority = if setup.self_signed { make_own_certificate(&dir) } else { make_certificates(&dir) };
            let files = format!("  tls:\n    certificate: {0}/server.crt\n    key: {0}/server.key\n", dir.display());
            config.push_str(&files);
            ca = Some(authority);
        }
        if setup.password {
            let users = run_program(Command::new(tool("htpasswd")).args(["-Bbn", "me", "secret"]));
            fs::write(dir.join("users"), users).expect("the test's own directory");
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}/users\n", dir.display()));
        }
        let file = dir.join("config.yml");
        fs::write(&file, config).expect("the test's own directory");
        let log = fs::File::create(dir.join("log")).expect("the test's own directory");
        let mut command = Command::new(tool("docker-registry"));
        command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("docker-registry is there");
        let registry = Self { child, port, password: setup.password, ca };
        wait_until("the registry listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        registry
    }

    /// `localhost:port`: the name in the certificate.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The certificate of the authority that signed the registry's.
    pub(crate) fn ca(&self) -> &Path {
        self.ca.as_deref().expect("only a registry with TLS has one")
    }

    /// Uploads an image with skopeo.
    #[track_caller]
    pub(crate) fn push(&self, source: &str, name: &str) {
        self.push_with(source, name, &[]);
    }

    /// Uploads with further options of `skopeo copy`.
    #[track_caller]
    pub(crate) fn push_with(&self, source: &str, name: &str, options: &[&str]) {
        let mut command = Command::new(tool("skopeo"));
        command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]).args(options);
        if self.password {
            command.args(["--dest-creds", "me:secret"]);
        }
        run_program(command.arg(source).arg(format!("docker://{}/{name}", self.host())));
    }

    /// The process of the registry, for tests that take it away.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    listener.local_addr().expect("it is bound").port()
}

/// Runs a program of the system that must succeed; returns its stdout.
#[track_caller]
pub(crate) fn run_program(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The path of a program that the test's needs promised.
pub(crate) fn tool(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| PathBuf::from(name))
}

/// A certificate for `localhost` as the manual of registries has it made; whoever trusts it needs the file that is returned.
fn make_own_certificate(dir: &Path) -> PathBuf {
    let line = "req -newkey rsa:2048 -nodes -sha256 -keyout server.key -addext subjectAltName=DNS:localhost -subj \
                /CN=registry -x509 -days 30 -out server.crt";
    run_program(Command::new(tool("openssl")).current_dir(dir).args(line.split_whitespace()));
    dir.join("server.crt")
}

/// An authority and a server certificate for `localhost`; returns the authority's file.
fn make_certificates(dir: &Path) -> PathBuf {
    let openssl = |line: &str| {
        run_program(Command::new(tool("openssl")).current_dir(dir).args(line.split_whitespace()));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=test-authority");
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("the test's own directory");
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.crt",
    );
    dir.join("ca.crt")
}
