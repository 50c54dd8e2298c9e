//! Steps, their cache, and their end.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::home::{entries, wait_for_process};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(steps_change_files_and_configuration).limit_secs(120),
    test!(what_was_built_is_not_built_again),
    test!(changed_file_is_noticed_and_changed_time_is_not),
    test!(only_needed_stages_are_built),
    test!(stages_that_come_to_the_same_are_the_same),
    test!(failed_step_has_its_status_and_leaves_nothing),
    test!(malformed_files_are_one_line_with_their_place),
    test!(secrets_are_in_no_layer_and_no_key),
    test!(caches_of_steps_survive_and_are_pruned),
    test!(the_same_time_gives_the_same_digest),
    test!(interrupted_build_leaves_nothing),
    test!(killed_build_leaves_what_the_next_one_sweeps),
    test!(context_is_what_the_ignore_file_leaves),
    test!(context_may_come_from_stdin),
    test!(options_change_the_image),
    test!(stages_are_built_side_by_side),
    test!(docker_sees_its_own_lines),
    test!(what_cannot_be_done_is_refused),
];

/// A context with these files; the Dockerfile begins with `FROM busybox`.
fn context(home: &Home, name: &str, steps: &str, files: &[(&str, &str)]) -> PathBuf {
    for (file, text) in files {
        home.write(&format!("{name}/{file}"), text);
    }
    let text = if steps.starts_with("FROM") { steps.to_owned() } else { format!("FROM busybox\n{steps}") };
    home.write(&format!("{name}/Dockerfile"), text).parent().expect("a file of a directory").to_owned()
}

#[track_caller]
fn build(home: &Home, options: &str, context: &std::path::Path) -> String {
    home.coracle(&format!("build --network none {options}")).arg(context).limit_secs(60).run().ok()
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

fn steps_change_files_and_configuration(home: &Home) {
    let steps = "RUN echo a > /a; ln -s a /l; rm /bin/vi; mkdir -m 700 /d; chown 5:6 /d\n\
        COPY --chown=7:8 --chmod=4755 f /d/\nWORKDIR /w/x\nENV A=1 B=$UNSET.\nUSER 9:10\n\
        FROM busybox\nCOPY --from=0 /d /dd\nCOPY --from=0 /a /l /w /to/\nRUN rm /to/a\nCMD [\"cat\", \"/dd/f\"]\n";
    let context = context(home, "c", steps, &[("f", "text\n")]);
    for driver in ["overlay", "fuse"] {
        let image = format!("made:{driver}");
        home.coracle(&format!("--storage-driver {driver} build --no-cache --network none -t {image}"))
            .arg(&context)
            .limit_secs(60)
            .run()
            .ok();
        assert_eq!(home.ok(&format!("run --rm --network none {image}")), "text");
        let script = "stat -c '%n %F %a %u:%g' /dd /dd/f /to/l /to/x; ls /to /bin/vi";
        let seen = home.coracle(&format!("run --rm --network none {image} sh -c")).arg(script).run().ok();
        let expected = "/dd directory 755 0:0\n/dd/f regular file 4755 7:8\n/to/l regular file 644 0:0\n\
            /to/x directory 755 0:0\n/bin/vi\n\n/to:\nl\nx";
        assert_eq!(seen, expected, "{driver}");
    }
}

fn what_was_built_is_not_built_again(home: &Home) {
    let context = context(home, "c", "RUN date +%N > /x\nENV A=1\nCOPY Dockerfile /y\nRUN date +%N > /z\n", &[]);
    let first = build(home, "-t one", &context);
    let second = build(home, "-t two", &context);
    assert_eq!(last_line(&first), last_line(&second), "the same steps are the same image");
    assert_eq!(second.matches("--> Using cache ").count(), 4);
    assert!(!first.contains("Using cache"));
    let third = build(home, "--no-cache -t three", &context);
    assert_ne!(last_line(&first), last_line(&third));
    assert!(!third.contains("Using cache"));
    // What an image has is not lost with it as long as another has it, and is built again when it is.
    home.ok("rmi one two three");
    let fourth = build(home, "-t four", &context);
    assert_eq!(home.ok("image inspect --format {{.Id}} four"), last_line(&fourth));
}

fn changed_file_is_noticed_and_changed_time_is_not(home: &Home) {
    let context = context(home, "c", "RUN true\nCOPY d /d\nRUN cat /d/f\n", &[("d/f", "one"), ("other", "x")]);
    build(home, "", &context);
    home.write("c/other", "y");
    let file = fs::File::options().append(true).open(context.join("d/f")).expect("it was just made");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("it is ours");
    assert_eq!(build(home, "", &context).matches("Using cache").count(), 3, "neither is copied or counts");
    home.write("c/d/f", "two");
    assert_eq!(build(home, "", &context).matches("Using cache").count(), 1);
    crate::support::home::set_mode(&context.join("d/f"), 0o600);
    assert_eq!(build(home, "", &context).matches("Using cache").count(), 1);
}

fn only_needed_stages_are_built(home: &Home) {
    let steps = "FROM busybox AS broken\nRUN exit 1\nFROM busybox AS tools\nRUN echo t > /t\n\
        FROM tools AS target\nRUN cat /t\nFROM broken\n";
    let context = context(home, "c", steps, &[]);
    let out = build(home, "--target target", &context);
    assert!(out.starts_with("[1/2] STEP 1/2: FROM busybox AS tools\n"), "{out}");
    let failed = home.coracle("build --network none").arg(&context).run();
    assert_eq!(failed.code(), 1, "{}", failed.transcript());
    let line = home.coracle("build --target nosuch").arg(&context).run().fails(125);
    assert!(line.contains("target stage \"nosuch\" could not be found"), "{line}");
}

/// What a stage did before does not count, what is taken from it does.
fn stages_that_come_to_the_same_are_the_same(home: &Home) {
    let text = |what: &str| {
        format!(
            "FROM busybox AS made\nRUN {what}\nFROM busybox\nCOPY --from=made /out /out\n\
             RUN --mount=type=bind,from=made,source=/out,target=/m cat /m/f > /copy\n"
        )
    };
    build(home, "", &context(home, "c", &text("mkdir /out; echo one > /out/f"), &[]));
    let same = build(home, "", &context(home, "c", &text("mkdir /out; echo one > /out/f; echo more > /else"), &[]));
    assert_eq!(same.matches("Using cache").count(), 2, "{same}");
    for other in ["mkdir /out; echo two > /out/f", "mkdir /out; echo one > /out/f; chmod 600 /out/f"] {
        let other = build(home, "", &context(home, "c", &text(other), &[]));
        assert_eq!(other.matches("Using cache").count(), 0, "{other}");
    }
}

fn failed_step_has_its_status_and_leaves_nothing(home: &Home) {
    let context = context(home, "c", "RUN echo kept\nRUN echo said; exit 7\n", &[]);
    let failed = home.coracle("build --network none").arg(&context).run();
    assert_eq!(failed.code(), 7);
    assert!(failed.stdout().ends_with("said\n"), "{}", failed.transcript());
    let expected = "Error: building at STEP \"RUN echo said; exit 7\": while running runtime: exit status 7\n\
        Hint: the step is in line 3 of Dockerfile\n";
    assert_eq!(failed.stderr(), expected);
    // What was done before is not done again.
    let again = home.coracle("build --network none").arg(&context).run();
    assert_eq!(again.stdout().matches("Using cache").count(), 1);
    assert_eq!(home.ok("images -q --filter dangling=true"), "");
    home.write("c/Dockerfile", "FROM busybox\nRUN [\"no-such-program\"]\n");
    assert_eq!(home.coracle("build --network none").arg(&context).run().code(), 1);
    let quiet = home.coracle("build -q --network none").arg(&context).run();
    assert!(quiet.stdout().is_empty() && !quiet.stderr().is_empty());
}

fn malformed_files_are_one_line_with_their_place(home: &Home) {
    for (text, place, why) in [
        ("FROM busybox\nFOO bar\n", "Dockerfile:2:1", "unknown instruction: FOO"),
        ("FROM busybox\nCOPY a\n", "Dockerfile:2:", "COPY"),
        ("RUN x\n", "Dockerfile:1:", "FROM"),
    ] {
        let file = home.write("Dockerfile", text);
        let finished = home.coracle("build").arg(file.parent().expect("a directory")).run();
        assert_eq!(finished.code(), 125);
        let error = finished.stderr();
        assert!(error.contains(place) && error.contains(why), "{error}");
    }
    let line = home.coracle("build").arg(home.tmp().join("h")).run().fails(125);
    assert!(line.contains("context must be a directory"), "{line}");
}

fn secrets_are_in_no_layer_and_no_key(home: &Home) {
    let secret = home.write("token", "very-secret");
    let steps = "RUN --mount=type=secret,id=t wc -c < /run/secrets/t > /len\n\
        RUN --mount=type=secret,id=t,env=TOKEN echo ${#TOKEN} >> /len\nRUN ls -d /run/secrets || cat /len\n";
    let context = context(home, "c", steps, &[]);
    let options = format!("-t s --secret id=t,src={}", secret.display());
    let out = build(home, &options, &context);
    assert!(out.contains("\n11\n11\n"), "{out}");
    // Another secret is no reason to build again.
    fs::write(&secret, "other").expect("it is ours");
    assert_eq!(build(home, &options, &context).matches("Using cache").count(), 3);
    let archive = home.tmp().join("s.tar");
    home.coracle("save -o").arg(&archive).arg("s").run().ok();
    let bytes = fs::read(archive).expect("it was just written");
    assert!(!bytes.windows(11).any(|window| window == b"very-secret"));
    let steps = "FROM busybox\nRUN --mount=type=secret,id=missing,required=true true\n";
    fs::write(context.join("Dockerfile"), steps).expect("it is ours");
    let failed = home.coracle("build").arg(&context).run();
    assert!(failed.stderr().contains("secret missing: not given and required"), "{}", failed.transcript());
}

fn caches_of_steps_survive_and_are_pruned(home: &Home) {
    let steps = "ARG N\nRUN --mount=type=cache,target=/var/cache/x echo $N >> /var/cache/x/f; cat /var/cache/x/f\n\
        RUN ls -d /var/cache/x || true\n";
    let context = context(home, "c", steps, &[]);
    build(home, "--build-arg N=1", &context);
    let out = build(home, "--build-arg N=2", &context);
    assert!(out.contains("\n1\n2\n"), "{out}");
    assert!(!out.contains("\n/var/cache/x\n"), "it is in no layer: {out}");
    assert!(home.ok("system df").contains("Build Cache"));
    home.ok("builder prune -a -f");
    assert!(!home.ok("system df").contains("Build Cache"));
    let out = build(home, "--build-arg N=3", &context);
    assert!(out.contains("\n3\n") && !out.contains("\n2\n"), "{out}");
}

fn the_same_time_gives_the_same_digest(home: &Home) {
    let steps = "RUN mkdir /d; date +%s > /dev/null; echo a > /d/a\nCOPY f /f\nCOPY <<E /h\ntext\nE\nWORKDIR /w\n";
    let context = context(home, "c", steps, &[("f", "text")]);
    let digest = |options: &str| {
        let id = build(home, &format!("-q --no-cache {options}"), &context);
        home.ok(&format!("image inspect --format {{{{.Digest}}}} {id}"))
    };
    let first = digest("--timestamp 1000000000");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(digest("--timestamp 1000000000"), first);
    assert_ne!(digest("--timestamp 1000000001"), first);
}

fn interrupted_build_leaves_nothing(home: &Home) {
    let context = context(home, "c", "RUN sleep 1234\n", &[]);
    let running = home.coracle("build --network none").arg(&context).spawn();
    wait_for_process("sleep 1234");
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait().code(), 130);
    let trees = entries(&home.data().join("build/trees"));
    assert!(trees.is_empty(), "{trees:?}");
    home.assert_nothing_left();
}

fn killed_build_leaves_what_the_next_one_sweeps(home: &Home) {
    let context = context(home, "c", "RUN sleep 1235\n", &[]);
    let running = home.coracle("build --network none").arg(&context).spawn();
    wait_for_process("sleep 1235");
    running.signal(Signal::SIGKILL);
    running.wait();
    home.write("c/Dockerfile", "FROM busybox\nRUN true\n");
    build(home, "", &context);
    let names = entries(&home.data().join("build/trees"));
    let is_half = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    assert!(!names.iter().any(is_half), "{names:?}");
}

fn context_is_what_the_ignore_file_leaves(home: &Home) {
    let files =
        [(".dockerignore", "*.log\nsub\n!sub/keep\n"), ("a", ""), ("b.log", ""), ("sub/keep", ""), ("sub/drop", "")];
    let context = context(home, "c", "COPY . /c\nRUN cd /c; find . | sort\n", &files);
    let out = build(home, "", &context);
    assert!(out.contains("\n.\n./.dockerignore\n./Dockerfile\n./a\n./sub\n./sub/keep\n"), "{out}");
    home.write("c/Dockerfile", "FROM busybox\nCOPY b.log /\n");
    let failed = home.coracle("build").arg(&context).run();
    assert!(failed.stderr().contains("left out of the build context"), "{}", failed.transcript());
    home.write("c/Dockerfile", "FROM busybox\nCOPY ../../../../etc/passwd /p\n");
    assert_eq!(home.coracle("build").arg(&context).run().code(), 125, "nothing above the context is seen");
    std::os::unix::fs::symlink("/etc/passwd", context.join("out")).expect("it is ours");
    home.write("c/Dockerfile", "FROM busybox\nCOPY out /p\n");
    assert_eq!(home.coracle("build").arg(&context).run().code(), 125, "nor through a link");
}

fn context_may_come_from_stdin(home: &Home) {
    let out = home.coracle("build --network none -").stdin("FROM busybox\nRUN echo from stdin\n").run().ok();
    assert!(out.contains("\nfrom stdin\n"), "{out}");
    let files = [("Dockerfile", b"FROM busybox\nCOPY f /f\nRUN cat /f\n".as_slice()), ("f", b"in the archive\n")];
    let archive = crate::support::image::plain_tar(files.into_iter());
    let out = home.coracle("build --network none -").stdin(archive).run().ok();
    assert!(out.contains("\nin the archive\n"), "{out}");
    let context = context(home, "c", "RUN false\n", &[("f", "of the directory\n")]);
    let file = "FROM busybox\nCOPY f /f\nRUN cat /f\n";
    let out = home.coracle("build --network none -f -").arg(&context).stdin(file).run().ok();
    assert!(out.contains("\nof the directory\n"), "{out}");
}

fn options_change_the_image(home: &Home) {
    let steps = "ARG V=none\nENV A=1 GONE=1\nLABEL gone=1 kept=$V\nRUN echo a > /a\nRUN rm /a; echo b > /b\n";
    let context = context(home, "c", steps, &[]);
    let (id, meta) = (home.tmp().join("id"), home.tmp().join("meta"));
    let options = format!(
        "-t x:1 -t x:2 --build-arg V=given --label l=v --env A=2 --unsetenv GONE --unsetlabel gone --squash-all \
         --format docker --iidfile {} --metadata-file {}",
        id.display(),
        meta.display()
    );
    let out = build(home, &options, &context);
    assert!(out.contains("Successfully tagged localhost/x:1\nSuccessfully tagged localhost/x:2\n"), "{out}");
    assert_eq!(fs::read_to_string(id).expect("it was asked for"), format!("sha256:{}", last_line(&out)));
    assert!(fs::read_to_string(meta).expect("it was asked for").contains("containerimage.digest"));
    let inspect = |format: &str| home.coracle("image inspect --format").arg(format).arg("x:2").run().ok();
    assert_eq!(inspect("{{json .Config.Labels}}"), "{\"kept\":\"given\",\"l\":\"v\"}");
    assert!(inspect("{{json .Config.Env}}").ends_with(",\"A=2\"]"));
    assert_eq!(inspect("{{len .RootFS.Layers}}"), "1");
    assert!(inspect("{{.ManifestType}}").contains("docker"));
    assert_eq!(home.ok("run --rm --network none x:1 sh -c 'ls -d /a; cat /b'"), "b");
}

fn stages_are_built_side_by_side(home: &Home) {
    // Each waits for the other: one after the other they would wait for ever.
    let wait = "while ! ls /c/OTHER; do sleep 0.01; done";
    let stage = |name: &str, other: &str| {
        let wait = wait.replace("OTHER", other);
        format!("FROM busybox AS {name}\nRUN --mount=type=cache,target=/c touch /c/{name}; {wait}; touch /{name}\n")
    };
    let steps =
        stage("one", "two") + &stage("two", "one") + "FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\n";
    let context = context(home, "c", &steps, &[]);
    build(home, "--jobs 2 -t both", &context);
    assert_eq!(home.ok("run --rm --network none both ls /one /two"), "/one\n/two");
}

fn docker_sees_its_own_lines(home: &Home) {
    let docker = home.tmp().join("docker");
    std::os::unix::fs::symlink(crate::support::command::binary(), &docker).expect("tmp is ours");
    let context = context(home, "c", "RUN echo said\nCMD [\"x\"]\n", &[]);
    let command = home.coracle("build --network none -t d").arg(&context).to_command();
    let mut typed = std::process::Command::new(&docker);
    typed.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            typed.env(name, value);
        }
    }
    let output = typed.output().expect("it is there");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout.is_empty(), "{text}");
    assert!(text.contains("#2 [2/3] RUN echo said\n#2 0.") && text.contains(" said\n#2 DONE "), "{text}");
    assert!(text.contains("writing image sha256:") && text.contains("naming to "), "{text}");
}

fn what_cannot_be_done_is_refused(home: &Home) {
    let context = context(home, "c", "RUN --security=insecure true\n", &[]);
    let failed = home.coracle("build").arg(&context).run();
    assert!(failed.code() == 125 && failed.stderr().contains("always confined"), "{}", failed.transcript());
    for option in ["--sbom true", "--userns keep-id", "--cw x=y"] {
        home.coracle(&format!("build {option}")).arg(&context).run().fails(125);
    }
}
