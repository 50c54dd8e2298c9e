//! What does not come from a directory of this machine, what does not go to the store, and several builds at once.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::command::binary;
use crate::support::image::Layer;
use crate::support::prelude::*;
use crate::support::registry::Registry;

pub(crate) const TESTS: &[Test] = &[
    test!(url_is_added_as_a_private_file_of_its_time),
    test!(url_that_has_not_changed_is_not_fetched_again),
    test!(contexts_come_from_servers),
    test!(archives_are_packed_with_xz_and_bzip2_too),
    test!(repositories_are_contexts_and_sources),
    test!(links_of_a_repository_choose_no_file_of_ours),
    test!(results_go_where_they_are_asked_for),
    test!(images_are_pushed_to_all_of_their_names).needs(&[Need::Registry]),
    test!(check_tells_what_is_hardly_meant),
    test!(bake_builds_what_targets_need),
    test!(bake_reads_hcl_and_compose_files),
    test!(plugin_of_docker_is_asked_as_docker_asks),
];

/// Serves the files of a directory, each with the same date, for as long as the test runs.
fn serve(directory: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    let directory = directory.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let directory = directory.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("it is open")).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
                let path = first.split(' ').nth(1).unwrap_or_default();
                let path = path.split('?').next().unwrap_or_default().trim_start_matches('/').replace("%20", " ");
                let head = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\nContent-Length";
                let _ = match fs::read(directory.join(path)) {
                    Ok(body) => stream
                        .write_all(format!("HTTP/1.1 200 OK\r\n{head}: {}\r\n\r\n", body.len()).as_bytes())
                        .and_then(|()| stream.write_all(&body)),
                    Err(_) => stream.write_all(format!("HTTP/1.1 404 Not Found\r\n{head}: 0\r\n\r\n").as_bytes()),
                };
            });
        }
    });
    format!("http://{address}")
}

/// A Dockerfile alone in a context.
fn context(home: &Home, text: &str) -> PathBuf {
    home.write("c/Dockerfile", text).parent().expect("a file of a directory").to_owned()
}

fn build_to(home: &Home, options: &str, context: impl AsRef<std::ffi::OsStr>) -> PathBuf {
    let to = home.tmp().join("out");
    let _ = fs::remove_dir_all(&to);
    home.coracle(&format!("build -q {options} -o")).arg(&to).arg(context).limit_secs(60).run().ok();
    to
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A server of one file: its body may be changed, what came is counted.
struct Changing {
    url: String,
    state: Arc<Mutex<(String, Vec<&'static str>)>>,
}

impl Changing {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let state: Arc<Mutex<(String, Vec<&'static str>)>> = Arc::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let lines = BufReader::new(stream.try_clone().expect("it is open")).lines();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let mut state = shared.lock().expect("nobody panics with it");
                let tag = format!("\"{}\"", state.0);
                let is_known = head.iter().any(|line| {
                    line.split_once(": ")
                        .is_some_and(|(name, value)| name.eq_ignore_ascii_case("if-none-match") && value == tag)
                });
                let answer = match is_known {
                    true => format!("HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\nConnection: close\r\n\r\n"),
                    false => format!(
                        "HTTP/1.1 200 OK\r\nETag: {tag}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
                        state.0.len(),
                        state.0
                    ),
                };
                state.1.push(if is_known { "304" } else { "200" });
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Changing { url: format!("http://{address}/file"), state }
    }

    fn set(&self, body: &str) {
        self.state.lock().expect("nobody panics with it").0 = body.to_owned();
    }

    /// How the requests since the last question were answered.
    fn answers(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state.lock().expect("nobody panics with it").1)
    }
}

fn url_that_has_not_changed_is_not_fetched_again(home: &Home) {
    let server = Changing::start();
    server.set("one");
    let text = |first: &str, options: &str| {
        let url = &server.url;
        format!("FROM busybox\nENV A={first}\nADD {options} {url} /f\nRUN cat /f && echo \" $A\"\n")
    };
    let build = |first: &str, options: &str, checksum: &str| {
        let line = format!("build --network none {options}");
        home.coracle(&line).arg(context(home, &text(first, checksum))).limit_secs(60).run()
    };
    assert!(build("1", "", "").ok().contains("one 1"));
    assert_eq!(server.answers(), ["200"]);
    assert_eq!(build("1", "", "").ok().matches("Using cache").count(), 3);
    assert_eq!(server.answers(), ["304"], "it is asked whether it has changed");
    // The step is another one, and needs the file.
    assert!(build("2", "", "").ok().contains("one 2"));
    assert_eq!(server.answers(), ["304", "200"]);
    server.set("two");
    let out = build("1", "", "").ok();
    assert!(out.contains("two 1") && out.matches("Using cache").count() == 1, "{out}");
    assert_eq!(server.answers(), ["200"]);
    assert!(build("1", "--no-cache", "").ok().contains("two 1"));
    assert_eq!(server.answers(), ["200"]);
    // What is known by its digest is not even asked for.
    let sum = "--checksum=sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";
    assert!(build("1", "", sum).ok().matches("Using cache").count() == 3);
    assert_eq!(server.answers(), Vec::<&str>::new());
    server.set("three");
    let refused = build("3", "", sum).fails(125);
    assert!(refused.contains("--checksum=sha256:3fc4"), "{refused}");
}

fn url_is_added_as_a_private_file_of_its_time(home: &Home) {
    home.write("web/a file.txt", "text");
    home.write("web/a.tar", Layer::new().file("in/f", "inner").finish());
    let base = serve(&home.tmp().join("web"));
    let sum = "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
    let text = format!(
        "FROM scratch\nADD {base}/a%20file.txt?x=1 /d/\nADD --chmod=644 --checksum={sum} {base}/a%20file.txt /e\n\
         ADD {base}/a.tar Dockerfile /f/\nADD --unpack {base}/a.tar /g\n"
    );
    let out = build_to(home, "", context(home, &text));
    let file = fs::metadata(out.join("d/a file.txt")).expect("it was added");
    assert_eq!((file.mode() & 0o7777, file.mtime(), file.len()), (0o600, 784_111_777, 4));
    assert_eq!(fs::metadata(out.join("e")).expect("it was added").mode() & 0o7777, 0o644);
    assert!(out.join("f/a.tar").is_file() && out.join("f/Dockerfile").is_file());
    assert_eq!(read(&out.join("g/in/f")), "inner");
    for (line, wanted) in [
        (format!("ADD --checksum=sha256:{} {base}/a.tar /", "0".repeat(64)), "sha256:"),
        (format!("ADD {base}/none /"), "404 Not Found"),
        ("ADD --checksum=sha256:1 Dockerfile /".to_owned(), "--checksum"),
    ] {
        let context = context(home, &format!("FROM scratch\n{line}\n"));
        let run = home.coracle("build").arg(context).run();
        assert!(run.code() != 0 && run.stderr().contains(wanted), "{}", run.transcript());
    }
}

fn contexts_come_from_servers(home: &Home) {
    let archive = Layer::new().file("Dockerfile", "FROM scratch\nCOPY a /\n").file("a", "1").finish();
    home.write("web/c.tar", archive);
    home.write("web/Dockerfile", "FROM scratch\nCOPY --from=named a /named\n");
    let base = serve(&home.tmp().join("web"));
    assert_eq!(read(&build_to(home, "", format!("{base}/c.tar")).join("a")), "1");
    let options = format!("--build-context named={base}/c.tar");
    assert_eq!(read(&build_to(home, &options, format!("{base}/Dockerfile")).join("named")), "1");
    let failed = home.fails(125, &format!("build {base}/none"));
    assert!(failed.contains("404 Not Found"), "{failed}");
}

/// A bare repository with a tag `v1` and a branch `next`, as a server of files offers it; `None` without git.
fn repository(home: &Home) -> Option<PathBuf> {
    let web = home.path().join("web");
    fs::create_dir_all(&web).expect("home is ours");
    let script = "git init -q w && cd w && git config user.email a@b && git config user.name a && mkdir sub \
        && printf 'FROM scratch\\nCOPY . /\\n' > Dockerfile && cp Dockerfile sub && echo one > sub/f \
        && ln -s /etc/passwd link && git add . && git commit -qm 1 && git tag v1 \
        && git checkout -qb next && echo two > sub/f && git commit -qam 2 && git checkout -q - && cd .. \
        && git clone -q --bare w r.git && cd r.git && git update-server-info";
    let made = Command::new("sh").arg("-c").arg(script).current_dir(&web).env("HOME", home.path()).status();
    made.is_ok_and(|status| status.success()).then_some(web)
}

fn repositories_are_contexts_and_sources(home: &Home) {
    let Some(web) = repository(home) else { return };
    let base = serve(&web);
    let out = build_to(home, "", format!("{base}/r.git"));
    assert_eq!(read(&out.join("sub/f")), "one\n");
    assert!(!out.join(".git").exists(), "the history is not part of the context");
    assert_eq!(read(&build_to(home, "", format!("{base}/r.git#next:sub")).join("f")), "two\n");
    assert_eq!(read(&build_to(home, "", format!("{base}/r.git?tag=v1&subdir=sub")).join("f")), "one\n");
    let text = format!("FROM scratch\nADD {base}/r.git#v1 /r/\nADD --keep-git-dir {base}/r.git#next:sub /s\n");
    let out = build_to(home, "", context(home, &text));
    assert_eq!((read(&out.join("r/sub/f")), read(&out.join("s/f"))), ("one\n".to_owned(), "two\n".to_owned()));
    for (reference, wanted) in
        [("#nosuch", "nosuch"), ("?commit=0123456", "0123456"), ("#:nosuch", "nosuch"), ("#:..", "outside")]
    {
        let failed = home.coracle("build").arg(format!("{base}/r.git{reference}")).run().fails(125);
        assert!(failed.contains(wanted), "{failed}");
    }
}

fn links_of_a_repository_choose_no_file_of_ours(home: &Home) {
    let Some(web) = repository(home) else { return };
    let base = serve(&web);
    let failed = home.coracle("build -f link").arg(format!("{base}/r.git")).run().fails(125);
    assert!(failed.contains("outside of the context") && !failed.contains("root:"), "{failed}");
}

fn results_go_where_they_are_asked_for(home: &Home) {
    let text =
        "FROM busybox\nRUN rm -r /bin && mkdir -m 700 /d && echo x > /d/f && chown 3:4 /d/f\nCOPY Dockerfile /\n";
    let context = context(home, text);
    let out = build_to(home, "--network none", &context);
    assert_eq!(read(&out.join("Dockerfile")), text);
    assert!(!out.join("bin").exists(), "what a step removed is not there");
    assert_eq!(fs::metadata(out.join("d")).expect("it was made").mode() & 0o7777, 0o700);

    let archive = home.tmp().join("root.tar");
    let file = fs::File::create(&archive).expect("tmp is ours");
    let build = home.coracle("build --network none -o -").arg(&context);
    assert!(build.to_command().stdout(file).status().expect("it runs").success());
    let mut archive = tar::Archive::new(fs::File::open(&archive).expect("it was made"));
    let entries = archive.entries().expect("a tar").map(|entry| entry.expect("an entry"));
    let owners: Vec<_> = entries
        .filter(|entry| entry.path_bytes().ends_with(b"d/f"))
        .map(|entry| (entry.header().uid().expect("a number"), entry.header().gid().expect("a number")))
        .collect();
    assert_eq!(owners, [(3, 4)]);

    let (oci, docker, layout) = (home.tmp().join("oci.tar"), home.tmp().join("docker.tar"), home.tmp().join("layout"));
    let options = format!(
        "build -q --network none -t made:1 -o type=oci,dest={} -o type=docker,dest={} -o type=oci,tar=false,dest={}",
        oci.display(),
        docker.display(),
        layout.display()
    );
    let id = home.coracle(&options).arg(&context).run().ok();
    assert!(layout.join("index.json").is_file());
    home.ok("rmi made:1");
    for archive in [oci, docker] {
        home.coracle("load -q -i").arg(archive).run().ok();
        assert_eq!(home.ok("image inspect --format {{.Id}} made:1"), id);
        home.ok("rmi -f made:1");
    }
    for (value, wanted) in [
        ("type=zip,dest=x", "unknown type"),
        ("type=tar", "expected dest=PATH"),
        ("type=registry", "no name that says where to"),
    ] {
        let failed = home.coracle("build -o").arg(value).arg(&context).run().fails(125);
        assert!(failed.contains(wanted), "{failed}");
    }
}

fn images_are_pushed_to_all_of_their_names(home: &Home) {
    let registry = Registry::start(home);
    let context = context(home, "FROM busybox\nRUN echo made > /file\n");
    let host = registry.host();
    let build = |options: &str| home.coracle(&format!("build {options}")).arg(&context).limit_secs(60).run();
    build(&format!("-q --push -t {host}/a:1 -t {host}/b:2")).ok();
    build(&format!("-q -o type=registry,name={host}/c:3")).ok();
    for name in ["a:1", "b:2", "c:3"] {
        home.ok(&format!("rmi {host}/{name}"));
        assert_eq!(home.ok(&format!("run --rm {host}/{name} cat /file")), "made");
    }
    assert!(build("-q --push").fails(125).contains("no name that says where to"));
}

fn check_tells_what_is_hardly_meant(home: &Home) {
    let found = home.coracle("build --check").arg(context(home, "FROM scratch AS a\nCMD echo\nFROM a AS a\n")).run();
    found.exits(1);
    let out = found.stdout();
    assert!(out.starts_with("Check complete, 2 warnings have been found!\n"), "{out}");
    assert!(out.contains("WARNING: JSONArgsRecommended - https://") && out.contains("   2 | >>> CMD echo\n"), "{out}");
    let clean =
        home.coracle("build --check").arg(context(home, "# check=skip=JSONArgsRecommended\nFROM scratch\nCMD echo\n"));
    assert_eq!(clean.run().ok(), "Check complete, no warnings found.");
    let strict = context(home, "# check=error=true\nFROM scratch\nCMD echo\n");
    let failed = home.coracle("build").arg(strict).run();
    failed.exits(125);
    assert!(failed.stderr().contains("asks for no warnings"), "{}", failed.transcript());
    assert_eq!(home.ok("images -aq"), home.ok("images -q"), "nothing was built");
}

/// Archives of `d/f`, which says hello.
const XZ: &str = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Cf/AFxdADILyMAOUCcI/OcFvm95X2eW+59qzUYUifr/ePyybQILRjYb7oadAaqJC6xs\
    ryd5EhIt3/hHl8kA3gAfLQYEVF3pIKpB4GOnkdwUh4vPk9qzPfTqQie6RbglUHUAABinjugEqlGFAAF4gFAAAABB5M9escRn+wIA\
    AAAABFla";
const BZIP2: &str = "QlpoOTFBWSZTWW8OJzgAAG57gMmQAARAAM0AAAJnRJ4ACAggAFQyppk0aZMBHqegkimjRoaGRoH1JDoQRghCNLNEnLHBAhgs5WcB\
    XMI4chj6iDJtcUr7dfkCKq9kkDQu5IpwoSDeHE5w";

fn archives_are_packed_with_xz_and_bzip2_too(home: &Home) {
    use base64::Engine;
    for (name, packed) in [("a.tar.xz", XZ), ("a.tar.bz2", BZIP2)] {
        let bytes = base64::engine::general_purpose::STANDARD.decode(packed).expect("base64");
        home.write(&format!("c/{name}"), &bytes);
        let out = build_to(home, "", context(home, &format!("FROM scratch\nADD {name} /x/\n")));
        assert_eq!(read(&out.join("x/d/f")), "hello\n", "{name}");
        let home_of = home.write("stdin/archive", &bytes);
        let file = home.write("stdin.Dockerfile", "FROM scratch\nCOPY d/f /f\n");
        let output = home.tmp().join(format!("from-{name}"));
        let command = home.coracle("build -q --output").arg(&output).arg("-f").arg(&file).arg("-");
        command.stdin(fs::read(home_of).expect("it was written")).run().ok();
        assert_eq!(read(&output.join("f")), "hello\n", "{name} as a context");
    }
}

fn bake_builds_what_targets_need(home: &Home) {
    let directory = context(home, "FROM scratch\nCOPY Dockerfile /\n");
    let bake = r#"{"group": {"default": {"targets": ["web"]}},
        "variable": {"TAG": {"default": "1"}},
        "target": {
            "base": {"context": "c", "dockerfile-inline": "FROM scratch\nCOPY Dockerfile /base\n"},
            "web": {"context": "c", "contexts": {"base": "target:base"}, "args": {"A": "b"}, "tags": ["web:${TAG}"],
                    "dockerfile-inline": "FROM base\nARG A\nLABEL a=$A\nCOPY --from=base /base /again\n", "output": ["type=docker"]}}}"#;
    let metadata = home.tmp().join("metadata.json");
    let run = home.coracle("buildx bake --file - --progress rawjson --allow fs.read=/ --metadata-file").arg(&metadata);
    run.stdin(bake).dir(&home.tmp()).env("TAG", "2").limit_secs(60).run().ok();
    assert_eq!(home.ok("image inspect --format {{.Config.Labels.a}} web:2"), "b");
    let metadata: Value = serde_json::from_str(&read(&metadata)).expect("JSON");
    let digest = home.ok("image inspect --format {{.Id}} web:2");
    assert_eq!(
        metadata["web"]["containerimage.config.digest"],
        format!("sha256:{}", digest.trim_start_matches("sha256:"))
    );
    assert!(metadata["base"]["containerimage.digest"].is_string());
    let printed = home.coracle("buildx bake --print --set web.args.A=c -f -").stdin(bake).dir(&directory).run().ok();
    let printed: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(
        (&printed["target"]["web"]["args"]["A"], &printed["target"]["web"]["tags"][0]),
        (&"c".into(), &"web:1".into())
    );
    let failed = home.coracle("buildx bake -f - nosuch").stdin(bake).run().fails(125);
    assert!(failed.contains("there is no target \"nosuch\""), "{failed}");
}

fn bake_reads_hcl_and_compose_files(home: &Home) {
    let hcl = r#"
        variable "TAG" { default = "1" }
        function "name" {
          params = [part]
          result = "${part}:${TAG}"
        }
        group "default" { targets = ["base", "app"] }
        target "base" {
          dockerfile-inline = "FROM scratch\nCOPY d /base\n"
        }
        target "app" {
          name = "app-${mode}"
          matrix = { mode = ["debug", "release"] }
          contexts = { base = "target:base" }
          dockerfile-inline = <<EOT
FROM base
ARG MODE
LABEL mode=$MODE
EOT
          args = { MODE = upper(mode) }
          tags = [name("app-${mode}")]
        }
    "#;
    let directory = home.write("bake/docker-bake.hcl", hcl).parent().expect("a directory").to_owned();
    home.write("bake/d", "text");
    home.coracle("buildx bake").dir(&directory).env("TAG", "7").limit_secs(60).run().ok();
    for (name, label) in [("app-debug:7", "DEBUG"), ("app-release:7", "RELEASE")] {
        assert_eq!(home.ok(&format!("image inspect --format {{{{.Config.Labels.mode}}}} {name}")), label);
    }
    home.write("bake/docker-bake.hcl", "target \"a\" {\n  tags = [\n");
    let failed = home.coracle("buildx bake a").dir(&directory).run().fails(125);
    assert!(failed.contains("docker-bake.hcl:"), "{failed}");
    let compose = "services:\n  web:\n    image: composed:${TAG:-none}\n    build:\n      context: .\n      \
        dockerfile_inline: |\n        FROM scratch\n        COPY d /d\n  db: {image: postgres}\n";
    home.write("compose/compose.yaml", compose);
    let directory = home.write("compose/d", "text").parent().expect("a directory").to_owned();
    home.coracle("buildx bake").dir(&directory).limit_secs(60).run().ok();
    assert!(home.ok("images").contains("composed"), "{}", home.ok("images"));
}

fn plugin_of_docker_is_asked_as_docker_asks(home: &Home) {
    let plugin = home.tmp().join("docker-buildx");
    symlink(binary(), &plugin).expect("tmp is ours");
    let ask = |words: &[&str]| {
        let command = home.coracle("version").to_command();
        let mut plugin = Command::new(&plugin);
        plugin.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).args(words);
        let output = plugin.output().expect("it runs");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let metadata: Value = serde_json::from_str(&ask(&["docker-cli-plugin-metadata"])).expect("JSON");
    assert_eq!(
        (&metadata["SchemaVersion"], metadata["Version"].as_str().map(|v| v.starts_with('v'))),
        (&"0.1.0".into(), Some(true))
    );
    assert!(ask(&["buildx", "version"]).starts_with("github.com/docker/buildx v"));
    let context = context(home, "FROM scratch\nCOPY Dockerfile /\n");
    let context = context.to_str().expect("text");
    assert_eq!(ask(&["buildx", "build", "-q", "-t", "x:1", context]), ask(&["build", "-q", context]));
    assert!(ask(&["ls"]).contains("default*"));
    assert!(ask(&["create", "--name", "ci", "--driver", "docker-container", "--use"]).contains("ci"));
    assert!(ask(&["inspect", "--bootstrap"]).contains("Status:"));
}
