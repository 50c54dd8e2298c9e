//! Many `kill -9`, each of one process of a command, any of them, at any moment of it. Afterwards: no broken image, no
//! name that stays taken, no process without a container, no byte that `prune` does not take.
//!
//! After each strike at a command that deals with images, `system check` finds nothing, and the image that was there before
//! still is. `CORACLE_TEST_STRIKES=1000 contrib/test.sh crash::series` strikes each command a thousand
//! times; without it the series end after some seconds.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::kill::{image, processes};
use crate::support::home::{entries, wait_until};
use crate::support::http::Server;
use crate::support::image::Packing;
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::sink::Sink;

pub(crate) const TESTS: &[Test] = &[
    test!(series_of_pull).without_image().limit_secs(LIMIT_SECS),
    test!(series_of_load).limit_secs(LIMIT_SECS),
    test!(series_of_save).limit_secs(LIMIT_SECS),
    test!(series_of_push).limit_secs(LIMIT_SECS),
    test!(series_of_rmi).limit_secs(LIMIT_SECS),
    test!(series_of_prune).limit_secs(LIMIT_SECS),
    test!(series_of_run).limit_secs(LIMIT_SECS),
    test!(series_of_rm).limit_secs(LIMIT_SECS),
    test!(series_of_build).limit_secs(LIMIT_SECS),
    test!(interrupts_of_build).limit_secs(LIMIT_SECS),
];

/// For the long form on a slow machine.
const LIMIT_SECS: u64 = 3 * 3600;

/// How long a series takes when nobody asks for a number of strikes.
const SHORT: Duration = Duration::from_secs(8);

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// One of `0..below`.
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }
}

/// Strikes `line` again and again: `prepare` makes what it needs, `check` looks at what is left.
fn series(home: &Home, line: &dyn Fn(u64) -> String, prepare: &dyn Fn(), check: &dyn Fn(u64)) {
    let wanted = std::env::var("CORACLE_TEST_STRIKES").ok().and_then(|text| text.parse::<u64>().ok());
    let mut random = Random(line(0).len() as u64);
    // How long it takes when nothing happens, which another build or machine changes.
    prepare();
    let begin = Instant::now();
    home.run(&line(0));
    let mut span = u64::try_from(begin.elapsed().as_micros()).expect("a command takes less than an age") * 6 / 5;
    check(0);
    let (begin, mut hit) = (Instant::now(), 0);
    let mut number = 0;
    while wanted.map_or(begin.elapsed() < SHORT, |wanted| hit < wanted) {
        number += 1;
        prepare();
        let before = processes();
        let running = home.coracle(&line(number)).spawn();
        thread::sleep(Duration::from_micros(random.below(span)));
        // The command itself, or a process that it started.
        let victims: Vec<u32> = processes().into_iter().filter(|pid| !before.contains(pid)).collect();
        let victim = usize::try_from(random.below(victims.len() as u64)).expect("few processes");
        if let Some(pid) = victims.get(victim) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            hit += 1;
            span += span / 8;
        } else {
            // The command was over: the first one was slower than they are now.
            span -= span / 8;
        }
        running.wait();
        check(number);
    }
    assert!(hit * 4 > number, "{hit} of {number} strikes hit anything");
    eprintln!("{hit} strikes in {:?}", begin.elapsed());
    wait_until("no process goes on alone", || processes().is_empty());
    home.run("rmi -a -f");
    home.ok("system prune -a -f --volumes --now");
    home.assert_nothing_left();
    let left: Vec<_> = ["images/blobs/sha256", "layers", "containers", "names", "undo", "trash", "volumes"]
        .iter()
        .flat_map(|dir| entries(&home.data().join(dir)))
        .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
        // A volume that was not finished is given a moment, for somebody may be at it; a later sweep takes it.
        .filter(|path| !path.to_string_lossy().contains("/volumes/.tmp-"))
        .collect();
    assert!(left.is_empty(), "prune left {left:#?}");
}

/// No image is lost and none broken: the store is whole, and these are in it.
#[track_caller]
fn assert_whole(home: &Home, images: &[&str], number: u64) {
    // Contents are read in every fourth check only: what is damaged then stays so.
    let checked = home.run(if number.is_multiple_of(4) { "system check" } else { "system check --quick" });
    assert!(checked.code() == 0, "after strike {number}\n{}", checked.transcript());
    for image in images {
        assert_eq!(home.run(&format!("image exists {image}")).code(), 0, "{image} is lost after strike {number}");
    }
}

/// What the image must hold: the digests of its files, and how they are asked for.
const DIGESTS: &str = "sha256sum /noise0 /noise1 /noise2 /noise3";

fn series_of_pull(home: &Home) {
    let mut blobs = Blobs::default();
    blobs.add("1", &image(), Packing::Gzip, Schema::Oci);
    let server = Server::honest(blobs);
    let reference = server.reference("1");
    let pull = format!("pull -q --tls-verify=false {reference}");
    home.ok(&pull);
    let whole = home.ok(&format!("run --rm --network none {reference} {DIGESTS}"));
    let prepare = || {
        home.run(&format!("rmi -f {reference}"));
    };
    let check = |number| {
        assert_whole(home, &[], number);
        if home.run(&format!("image inspect {reference}")).code() == 0 {
            let found = home.ok(&format!("run --rm --network none --pull never {reference} {DIGESTS}"));
            assert_eq!(found, whole, "after strike {number}");
        }
    };
    series(home, &|_| pull.clone(), &prepare, &check);
    home.ok(&pull);
}

fn series_of_load(home: &Home) {
    let file = home.write("image.tar", image().docker_archive("localhost/loaded:1"));
    let load = format!("load -q -i {}", file.display());
    home.ok(&load);
    let whole = home.ok(&format!("run --rm --network none loaded:1 {DIGESTS}"));
    let prepare = || {
        home.run("rmi -f loaded:1");
    };
    let check = |number| {
        assert_whole(home, &["busybox"], number);
        if home.run("image inspect loaded:1").code() == 0 {
            let found = home.ok(&format!("run --rm --network none loaded:1 {DIGESTS}"));
            assert_eq!(found, whole, "after strike {number}");
        }
    };
    series(home, &|_| load.clone(), &prepare, &check);
    home.ok(&load);
}

fn series_of_save(home: &Home) {
    image().load(home, "localhost/loaded:1");
    let file = home.tmp().join("saved.tar");
    let line = |number: u64| match number % 3 {
        0 => format!("save -q -o {} loaded:1", file.display()),
        1 => format!("save -q --format oci-archive -o {} loaded:1", file.display()),
        _ => format!("save -q -m -o {} loaded:1 busybox", file.display()),
    };
    let prepare = || drop(fs::remove_file(&file));
    series(home, &line, &prepare, &|number| assert_whole(home, &["busybox", "loaded:1"], number));
}

fn series_of_push(home: &Home) {
    image().load(home, "localhost/loaded:1");
    let sink = Sink::honest();
    // Another repository each time, so that nothing is there already.
    let line = |number| format!("push -q loaded:1 {}/a{number}/b:1", sink.host());
    series(home, &line, &|| {}, &|number| {
        assert_whole(home, &["busybox", "loaded:1"], number);
        // What has a name there is whole.
        sink.look(|held| {
            if let Some((_, manifest)) = held.manifests.get(&format!("a{number}/b:1")) {
                let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
                for layer in manifest["layers"].as_array().unwrap() {
                    let name = format!("a{number}/b@{}", layer["digest"].as_str().unwrap());
                    assert!(held.blobs.contains_key(&name), "{name}");
                }
            }
        });
    });
}

fn series_of_rmi(home: &Home) {
    let file = home.write("image.tar", image().docker_archive("localhost/loaded:1"));
    let prepare = || {
        home.coracle("load -q -i").arg(&file).run().ok();
    };
    series(home, &|_| "rmi -f loaded:1".to_owned(), &prepare, &|number| {
        assert_whole(home, &["busybox"], number);
        if home.run("image inspect loaded:1").code() == 0 {
            home.ok("run --rm --network none loaded:1 true");
        }
    });
}

fn series_of_prune(home: &Home) {
    let file = home.write("image.tar", image().docker_archive("localhost/loaded:1"));
    home.ok("create --name keeper busybox true");
    let prepare = || {
        home.coracle("load -q -i").arg(&file).run().ok();
        home.ok("volume create --ignore v");
    };
    let line = |number: u64| match number % 3 {
        0 => "image prune -a -f --now".to_owned(),
        1 => "image prune -a -f".to_owned(),
        _ => "system prune -a -f --volumes --now --filter until=1h".to_owned(),
    };
    series(home, &line, &prepare, &|number| assert_whole(home, &["busybox"], number));
}

fn series_of_run(home: &Home) {
    let line = |number| match number % 3 {
        0 => "run --name c --network none busybox touch /file".to_owned(),
        1 => "run -d --name c busybox sleep 1000".to_owned(),
        _ => "run --rm --name c --network none -v data:/data busybox touch /data/file".to_owned(),
    };
    let check = |number| {
        // A supervisor that survived its command may create the container only now.
        wait_until("nothing runs without a container", || {
            home.ok("rm -f -t 0 c");
            processes().is_empty()
        });
        assert_eq!(home.ok("ps -aq"), "", "after strike {number}");
        // The name is free.
        home.ok("create --name c busybox true");
        home.ok("rm c");
    };
    series(home, &line, &|| {}, &check);
}

fn series_of_rm(home: &Home) {
    let prepare = || {
        home.ok("run --name stopped --network none -v /anonymous busybox sh -c 'mkdir /d && cd /d && touch 1 2 3 4 5'");
        home.ok("run -d --name running --network none busybox sleep 1000");
    };
    let line = |number| match number % 2 {
        0 => "rm -v stopped".to_owned(),
        _ => "rm -f -t 0 running stopped".to_owned(),
    };
    let check = |number| {
        home.ok("rm -f -v -t 0 running stopped");
        wait_until("nothing runs without a container", || processes().is_empty());
        assert_eq!(home.ok("ps -aq"), "", "after strike {number}");
        assert!(fs::read_dir(home.data().join("names")).is_ok());
    };
    series(home, &line, &prepare, &check);
}

/// A build with stages side by side, files from the context and from other stages, a cache and programs.
const STAGES: &str = "FROM busybox AS one\nCOPY f /f\nRUN --mount=type=cache,target=/c cp /f /c/f && cp /c/f /g\n\
    FROM busybox AS two\nWORKDIR /w/x\nRUN for i in 1 2 3 4 5; do echo $i > $i; done\n\
    FROM busybox\nCOPY --from=one /g /g\nCOPY --from=two /w /w\nRUN cat /g /w/x/* > /sum && rm /g\n";

fn build_line(home: &Home, number: u64) -> String {
    let context = home.write("context/Dockerfile", STAGES).parent().expect("a file of a directory").to_owned();
    // Each is another build, or what is left of the last one is found.
    if !number.is_multiple_of(3) {
        home.write("context/f", format!("{}\n", number / 3));
    }
    let options =
        ["", "--no-cache --jobs 0", "--squash --jobs 2", "--jobs 0"][usize::try_from(number % 4).unwrap_or(0)];
    format!("build -q --network none -t built:1 {options} {}", context.display())
}

/// What is left of a build that prune does not take.
fn half_built(home: &Home) -> Vec<std::path::PathBuf> {
    let dirs = ["build/steps", "build/trees", "build/mounts", "containers", "trash"];
    let left = dirs.iter().flat_map(|dir| entries(&home.data().join(dir)));
    left.filter(|path| path.extension().is_none_or(|extension| extension != "lock")).collect()
}

fn series_of_build(home: &Home) {
    home.write("context/f", "0\n");
    let check = |number| {
        wait_until("nothing of a build goes on alone", || processes().is_empty());
        assert_eq!(home.ok("ps -aq"), "", "after strike {number}");
        if home.run("image inspect built:1").code() == 0 {
            let sum = home.ok("run --rm --network none built:1 cat /sum");
            assert_eq!(sum.lines().skip(1).collect::<String>(), "12345", "after strike {number}");
        }
    };
    series(home, &|number| build_line(home, number), &|| {}, &check);
    home.ok("builder prune -a -f");
    home.ok("trash empty");
    assert!(half_built(home).is_empty(), "prune left {:#?}", half_built(home));
    home.import_busybox();
    home.ok(&build_line(home, 1));
    assert_eq!(home.ok("run --rm --network none built:1 cat /sum"), "0\n1\n2\n3\n4\n5");
}

/// SIGINT instead: when the command has ended nothing of it runs any more, and nothing has to be swept by anybody.
fn interrupts_of_build(home: &Home) {
    home.write("context/f", "0\n");
    let wanted = std::env::var("CORACLE_TEST_STRIKES").ok().and_then(|text| text.parse::<u64>().ok());
    let mut random = Random(7);
    home.ok(&build_line(home, 0));
    let (begin, mut number, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    let mut span = 400_000;
    while wanted.map_or(begin.elapsed() < SHORT, |wanted| number < wanted) {
        number += 1;
        let running = home.coracle(&build_line(home, number)).spawn();
        thread::sleep(Duration::from_micros(random.below(span)));
        let struck = Instant::now();
        running.signal(Signal::SIGINT);
        let ended = running.wait();
        if ended.code() == 0 {
            span -= span / 16;
        } else {
            slowest = slowest.max(struck.elapsed());
            span += span / 16;
        }
        assert!(matches!(ended.code(), 0 | 130), "{}", ended.transcript());
        assert!(processes().is_empty(), "after interrupt {number}");
        let left = entries(&home.data().join("build/trees")).into_iter();
        let is_half =
            |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        let half: Vec<_> = left.filter(is_half).collect();
        assert!(half.is_empty() && entries(&home.data().join("containers")).is_empty(), "{number}: {half:#?}");
    }
    eprintln!("{number} interrupts, the slowest end after {slowest:?}");
    home.assert_nothing_left();
}
