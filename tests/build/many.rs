//! Several platforms, layers that become one, caches of other machines, and the picture on a terminal.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::command::Finished;
use crate::support::prelude::*;
use crate::support::pty::Terminal;
use crate::support::registry::Registry;

pub(crate) const TESTS: &[Test] = &[
    test!(several_platforms_make_one_list).limit_secs(120),
    test!(all_platforms_are_those_of_the_base_images).limit_secs(120),
    test!(lists_are_pushed_with_all_of_their_images).needs(&[Need::Registry]).limit_secs(120),
    test!(images_join_manifest_lists),
    test!(new_layers_become_one_that_hides_the_same).limit_secs(120),
    test!(steps_built_elsewhere_are_not_built_again).limit_secs(120),
    test!(caches_travel_through_registries).needs(&[Need::Registry]).limit_secs(120),
    test!(terminals_show_the_picture_of_buildkit),
    test!(failed_step_can_be_looked_into),
    test!(programs_for_other_machines_are_told_from_other_failures),
];

fn context(home: &Home, text: &str) -> PathBuf {
    home.write("c/f", "file\n");
    home.write("c/Dockerfile", text).parent().expect("a file of a directory").to_owned()
}

fn build(home: &Home, options: &str, text: &str) -> Finished {
    home.coracle(&format!("build {options}")).arg(context(home, text)).limit_secs(60).run()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The architectures of a list.
fn architectures(home: &Home, list: &str) -> Vec<String> {
    let list = json(&home.ok(&format!("manifest inspect {list}")));
    let entries = list["manifests"].as_array().expect("it is a list").iter();
    entries.map(|entry| entry["platform"]["architecture"].as_str().unwrap_or_default().to_owned()).collect()
}

fn all_platforms_are_those_of_the_base_images(home: &Home) {
    build(home, "-q --platform linux/riscv64,linux/s390x,linux/arm64/v8 -t three:1", FOR_TWO).ok();
    build(home, "-q --platform linux/arm64,linux/s390x -t two:1", FOR_TWO).ok();
    build(home, "-q --all-platforms -t all:1", "FROM three:1\nCOPY f /g\n").ok();
    assert_eq!(architectures(home, "all:1"), ["riscv64", "s390x", "arm64"]);
    let text = "FROM two:1 AS other\nFROM three:1\nCOPY --from=other /f /other\n";
    build(home, "-q --all-platforms -t both:1", text).ok();
    assert_eq!(architectures(home, "both:1"), ["arm64", "s390x"], "what all of them are there for");
    let refused = build(home, "--all-platforms", "FROM scratch\nCOPY f /f\n").fails(125);
    assert!(refused.contains("no stage begins with an image"), "{refused}");
    let refused = build(home, "--all-platforms", "FROM busybox AS other\nFROM two:1\nCOPY --from=other /etc /e\n");
    assert!(refused.fails(125).contains("no platform in common"));
    build(home, "--all-platforms --platform linux/arm64", FOR_TWO).fails(125);
}

const FOR_TWO: &str = "FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\nCOPY f /f\n";

fn several_platforms_make_one_list(home: &Home) {
    let out = build(home, "--platform linux/riscv64,linux/s390x -t two:1", FOR_TWO).ok();
    assert!(out.contains("[linux/riscv64] STEP 1/4: FROM scratch\n") && out.contains("[linux/s390x] STEP"), "{out}");
    assert_eq!(architectures(home, "two:1"), ["riscv64", "s390x"]);
    // One name, one image to see; each platform begins with its own.
    assert_eq!(home.ok("images -q --filter dangling=true"), "");
    assert_eq!(home.ok("images --noheading two").lines().count(), 1);
    let next = build(home, "-q --platform linux/s390x -t next", "FROM two:1\nCOPY f /g\n");
    next.ok();
    assert_eq!(home.ok("image inspect -f '{{.Architecture}} {{index .Config.Env 1}}' next"), "s390x A=s390x");
    let next = build(home, "-q --platform linux/riscv64 --pull=never -t next", "FROM two:1\nCOPY f /g\n");
    next.ok();
    assert_eq!(home.ok("image inspect -f '{{.Architecture}}' next"), "riscv64");
    // Two flags are as one with a comma.
    let (layout, files) = (home.tmp().join("layout"), home.tmp().join("files"));
    let options = "-q --platform linux/riscv64 --platform linux/s390x -t two:2";
    home.coracle(&format!("build {options} -o type=oci,tar=false,dest={}", layout.display()))
        .arg(context(home, FOR_TWO))
        .run()
        .ok();
    let index = json(&fs::read_to_string(layout.join("index.json")).expect("a layout has it"));
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1), "{index}");
    let digest = index["manifests"][0]["digest"].as_str().expect("it has one").replace(':', "/");
    let list = json(&fs::read_to_string(layout.join("blobs").join(digest)).expect("it is there"));
    assert_eq!(list["manifests"].as_array().map(Vec::len), Some(2), "{list}");
    home.coracle(&format!("build {options} -o")).arg(&files).arg(context(home, FOR_TWO)).run().ok();
    for platform in ["linux_riscv64", "linux_s390x"] {
        assert_eq!(fs::read_to_string(files.join(platform).join("f")).expect("it was written"), "file\n");
    }
    let refused = build(home, "--platform linux/s390x,linux/amd64 -o type=docker,dest=x.tar", FOR_TWO).fails(125);
    assert!(refused.contains("room for one platform"), "{refused}");
    home.ok("rmi two:1");
    assert_eq!(home.run("manifest exists two:1").code(), 1);
}

fn lists_are_pushed_with_all_of_their_images(home: &Home) {
    let registry = Registry::start(home);
    let name = format!("{}/two:1", registry.host());
    build(home, &format!("-q --push --platform linux/riscv64,linux/s390x -t {name}"), FOR_TWO).ok();
    home.ok(&format!("rmi {name}"));
    assert_eq!(architectures(home, &name), ["riscv64", "s390x"]);
    home.ok(&format!("pull -q --platform linux/s390x {name}"));
    assert_eq!(home.ok(&format!("image inspect -f '{{{{index .Config.Env 1}}}}' {name}")), "A=s390x");
    // By its name alone, too.
    build(home, &format!("-q --platform linux/arm64,linux/s390x -t {name}"), FOR_TWO).ok();
    home.ok(&format!("push -q {name}"));
    home.ok(&format!("rmi {name}"));
    assert_eq!(architectures(home, &name), ["arm64", "s390x"]);
}

fn images_join_manifest_lists(home: &Home) {
    for arch in ["riscv64", "s390x"] {
        build(home, &format!("-q --manifest all --platform linux/{arch}"), FOR_TWO).ok();
    }
    assert_eq!(architectures(home, "all"), ["riscv64", "s390x"]);
    let refused = build(home, "--manifest same --tag same", FOR_TWO).fails(125);
    assert!(refused.contains("the same name"), "{refused}");
}

fn new_layers_become_one_that_hides_the_same(home: &Home) {
    let steps = "FROM busybox\nRUN mkdir -p /d/e /x && echo 1 > /d/e/1 && echo 2 > /d/2 && ln /d/2 /hard && rm /bin/vi\n\
        RUN rm -r /d && mkdir /d && echo 3 > /d/3 && rm -rf /var && echo file > /var\n\
        COPY f /x/\nENV A=1\nRUN rm /x/f /hard && rm /bin/wc && chown 5:6 /d/3 && rm /var && mkdir /var && touch /var/new\n";
    for (name, options) in [("plain", ""), ("squashed", "--squash"), ("one", "--squash-all")] {
        build(home, &format!("-q --network none --timestamp 1000 -t {name} {options}"), steps).ok();
    }
    let layers = |name: &str| {
        let layers = home.ok(&format!("image inspect -f '{{{{json .RootFS.Layers}}}}' {name}"));
        json(&layers).as_array().expect("a list").iter().map(|one| one.to_string()).collect::<Vec<_>>()
    };
    let base = layers("busybox");
    assert_eq!(
        (layers("plain").len(), layers("squashed").len(), layers("one").len()),
        (base.len() + 4, base.len() + 1, 1)
    );
    assert_eq!(layers("squashed")[..base.len()], base);
    let tar = |name: &str| {
        home.ok(&format!("create --name c{name} {name} x"));
        let archive = home.tmp().join(name);
        home.ok(&format!("export -o {} c{name}", archive.display()));
        let listed = std::process::Command::new("tar").arg("--numeric-owner").arg("-tvf").arg(&archive).output();
        let text = String::from_utf8_lossy(&listed.expect("tar is there").stdout).into_owned();
        // Places of every container, whose times are now.
        let is_ours = |line: &&str| !["dev", "proc", "sys", "run", "etc/"].iter().any(|place| line.contains(place));
        let mut lines: Vec<String> = text.lines().filter(is_ours).map(str::to_owned).collect();
        lines.sort();
        assert!(lines.iter().any(|line| line.contains("5/6") && line.ends_with("d/3")), "{text}");
        lines
    };
    let plain = tar("plain");
    assert_eq!(tar("squashed"), plain);
    assert_eq!(tar("one"), plain);
    let history = json(&home.ok("image inspect -f '{{json .History}}' squashed"));
    let with_layer = history.as_array().expect("a list").iter().filter(|step| step["empty_layer"] != true).count();
    assert_eq!(with_layer, base.len() + 1);
}

const STAGES: &str = "FROM busybox AS made\nCOPY f /f\nRUN tr a-z A-Z < /f > /g\n\
    FROM busybox\nENV A=1\nCOPY --from=made /g /g\nRUN cat /g\n";

/// As on a machine that has built nothing, but has the base image.
fn forget(home: &Home) {
    home.run("rmi -f built");
    home.ok("builder prune -a -f");
    home.ok("image prune -f");
    home.ok("trash empty");
}

fn exchanged(home: &Home, to: &str, from: &str) {
    let id = build(home, &format!("-q --network none -t built --cache-to {to}"), STAGES).ok();
    forget(home);
    let found = build(home, &format!("--network none -t built --cache-from {from}"), STAGES);
    let out = found.ok();
    assert_eq!(out.matches("Using cache").count(), 5, "{out}");
    assert!(out.ends_with(id.trim_start_matches("sha256:")) || !out.contains("FILE\n"), "{out}");
    assert_eq!(home.ok("run --rm --network none built cat /g"), "FILE");
    // What comes after it is built upon what came.
    let out = build(home, &format!("--network none --cache-from {from}"), &format!("{STAGES}RUN cat /g > /h\n")).ok();
    assert_eq!(out.matches("Using cache").count(), 5, "{out}");
    assert!(home.ok("images -q").lines().count() >= 2);
}

fn steps_built_elsewhere_are_not_built_again(home: &Home) {
    let directory = home.tmp().join("cache");
    let directory = directory.display();
    exchanged(home, &format!("type=local,mode=max,dest={directory}"), &format!("type=local,src={directory}"));
    forget(home);
    // Without the stages that the image is not made of.
    let small = home.tmp().join("small");
    build(home, &format!("-q --network none --cache-to type=local,dest={}", small.display()), STAGES).ok();
    forget(home);
    let out = build(home, &format!("--network none --cache-from type=local,src={}", small.display()), STAGES).ok();
    assert!(out.contains("Using cache"), "{out}");
    // What is no cache is told of, and nothing else.
    let odd = build(home, "--network none --cache-from type=local,src=/nowhere", STAGES);
    odd.ok();
    assert!(odd.stderr().contains("Warning: --cache-from /nowhere: "), "{}", odd.stderr());
    let refused = build(home, "--cache-to type=gha", STAGES).fails(125);
    assert!(refused.contains("expected registry or local"), "{refused}");
}

fn caches_travel_through_registries(home: &Home) {
    let registry = Registry::start(home);
    let repository = format!("{}/cache/app", registry.host());
    let none = build(home, &format!("--network none --cache-from {repository}"), STAGES);
    none.ok();
    assert!(none.stderr().contains("there is none yet"), "{}", none.stderr());
    forget(home);
    exchanged(home, &repository, &repository);
    forget(home);
    let spelled = format!("type=registry,mode=max,ref={repository}:other");
    exchanged(home, &spelled, &spelled);
    forget(home);
    // An image that tells which steps its layers are: those of other stages are built again.
    let image = format!("{}/app:1", registry.host());
    build(home, &format!("-q --network none -t {image} --push --cache-to type=inline"), STAGES).ok();
    home.ok(&format!("rmi -f {image}"));
    forget(home);
    let out = build(home, &format!("--network none --cache-from type=registry,ref={image}"), STAGES).ok();
    assert_eq!(out.matches("Using cache").count(), 2, "{out}");
    let refused = build(home, "--cache-from type=inline", STAGES).fails(125);
    assert!(refused.contains("which image carries it"), "{refused}");
}

fn terminals_show_the_picture_of_buildkit(home: &Home) {
    let context = context(home, "FROM busybox\nRUN echo first; read -r x < /dev/zero\n");
    home.write("c/Dockerfile", "FROM busybox\nCOPY f /f\nRUN echo said; cat /f; exit 3\n");
    let mut terminal = Terminal::start(home.coracle("build --network none -t x").arg(&context));
    terminal.resize(24, 70);
    for text in
        ["[+] Building", "=> [1/3] FROM busybox", "=> [2/3] COPY f /f", "ERROR [3/3] RUN echo said", "> [3/3] RUN"]
    {
        terminal.expect(text);
    }
    for text in ["said\r\nfile\r\n", "Dockerfile:3", ">>> RUN echo said", "exit status 3"] {
        terminal.expect(text);
    }
    assert_eq!(terminal.wait(), 3);
    let mut plain = Terminal::start(home.coracle("build --progress plain --network none").arg(&context));
    plain.expect("STEP 3/3: RUN echo said");
    assert_eq!(plain.wait(), 3);
    // Where nobody looks, lines.
    assert!(home.coracle("build --network none").arg(&context).run().stdout().contains("STEP 3/3: RUN"));
}

fn programs_for_other_machines_are_told_from_other_failures(home: &Home) {
    // An ELF header of a machine that nobody has an emulator for.
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x16, 0, 1, 0, 0, 0];
    elf.resize(64, 0);
    home.write("c/program", elf);
    let text = "FROM scratch\nCOPY --chmod=755 program /program\nRUN [\"/program\"]\n";
    let failed = build(home, "--network none --platform linux/s390x", text);
    assert_ne!(failed.code(), 0);
    assert!(failed.stderr().contains("linux/s390x") && failed.stderr().contains("emulator"), "{}", failed.transcript());
}

fn failed_step_can_be_looked_into(home: &Home) {
    let text = "FROM busybox\nARG WORD=seen\nRUN mkdir /w\nWORKDIR /w\nRUN echo half > done; exit 4\n";
    let looked = home
        .coracle("build --debug --network none")
        .arg(context(home, text))
        .stdin("pwd; cat done; echo $WORD; touch new; exit 9\n")
        .run();
    looked.exits(4);
    assert!(looked.stdout().ends_with("/w\nhalf\nseen\n"), "{}", looked.transcript());
    // Neither the step nor what was done in the shell is taken for built.
    let again = build(home, "--network none", text);
    again.exits(4);
    home.assert_nothing_left();
}
