//! The storage drivers: each gives the same container, and each can go on where another has stopped.
//!
//! With `CORACLE_TEST_DRIVER=fuse` in the environment every other test runs on that driver too.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::home::wait_until;
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use crate::support::reaper::{descendants, is_alive};

pub(crate) const TESTS: &[Test] = &[
    test!(every_driver_shows_and_changes_the_same_files).needs(&[Need::Fuse]),
    test!(drivers_take_turns_on_one_container).needs(&[Need::Fuse]),
    test!(driver_is_recorded_and_inspected).needs(&[Need::Fuse]),
    test!(unknown_driver_is_refused),
    test!(environment_names_the_driver).needs(&[Need::Fuse]),
    test!(fuse_takes_over_where_the_overlay_is_refused).needs(&[Need::Fuse]),
    test!(everything_refused_says_why).needs(&[Need::Fuse]),
    test!(killed_server_ends_the_container_and_is_named).needs(&[Need::Fuse]),
    test!(server_ends_with_the_container_and_with_the_supervisor).needs(&[Need::Fuse]),
    test!(stopped_server_keeps_no_container_alive).needs(&[Need::Fuse]).limit_secs(120),
    test!(server_has_few_privileges_and_no_other_files).needs(&[Need::Fuse]),
    test!(what_a_server_cannot_tell_is_in_its_log).needs(&[Need::Fuse]),
    test!(shifted_ids_need_no_second_tree).needs(&[Need::Fuse]),
    test!(shifted_ids_on_every_driver).needs(&[Need::Fuse]),
    test!(users_of_a_running_container_are_known_on_every_driver).needs(&[Need::Fuse]),
    test!(mount_works_on_every_driver).needs(&[Need::Fuse]),
    test!(image_mount_works_on_every_driver).needs(&[Need::Fuse]),
    test!(info_and_doctor_name_the_drivers),
    test!(many_layers_fit_into_few_descriptors).needs(&[Need::Fuse]),
];

const DRIVERS: [&str; 3] = ["overlay", "overlay-fuse", "fuse"];

/// Deletes, hides, links, renames, writes over, and shows what came of it.
const SCRIPT: &str = r#"
set -e
ls -a /data /data/sub | sort
cat /data/plain /data/over
rm /data/plain; mkdir /data/plain; ls -a /data/plain
rm -r /data/sub; mkdir /data/sub; ls -A /data/sub
echo more >>/data/over; cat /data/over
mv /data/over /data/moved; cat /data/moved
echo new >/data/new; ln /data/new /data/linked; stat -c %h /data/new
ln -s moved /data/soft; cat /data/soft
mkfifo /data/fifo; test -p /data/fifo
chmod 4750 /data/moved; chown 5:6 /data/moved; stat -c '%a %u %g %s' /data/moved
: >/data/empty; dd if=/dev/zero of=/data/hole bs=1 count=1 seek=100000 2>/dev/null; stat -c %s /data/hole
for n in 1 2 3 4 5 6 7 8 9; do echo $n >/data/many.$n; done; rm /data/many.[2468]; ls /data | sort
( cd /data && tar c . | tar t | sort )
"#;

fn layered(home: &Home) {
    let below = Layer::new().dir("data").dir("data/sub").file("data/plain", "plain\n").file("data/over", "below\n");
    let below =
        below.file("data/sub/hidden", "x").file("data/deleted", "x").dir("data/opaque").file("data/opaque/old", "x");
    let above = Layer::new().dir("data").file("data/over", "above\n").whiteout("data/deleted");
    let above =
        above.dir("data/opaque").opaque("data/opaque").file("data/opaque/new", "y").hardlink("data/hard", "data/over");
    Image::busybox().layer(below).layer(above).load(home, "localhost/layered:latest");
}

fn every_driver_shows_and_changes_the_same_files(home: &Home) {
    layered(home);
    let run = |driver: &str, script: &str| {
        home.coracle(&format!("--storage-driver {driver} run --rm --network none layered sh -c")).arg(script).run().ok()
    };
    let expected = run("overlay", SCRIPT);
    assert!(expected.contains("above"), "{expected}");
    for driver in &DRIVERS[1..] {
        assert_eq!(run(driver, SCRIPT), expected, "{driver}");
    }
    let kind = "grep ' / / ' /proc/self/mountinfo | sed 's/.* - //' | cut -d' ' -f1";
    assert_eq!(DRIVERS.map(|driver| run(driver, kind)), ["overlay", "overlay", "fuse.coracle"]);
    for driver in DRIVERS {
        let mounts = run(driver, "cat /proc/self/mountinfo");
        assert!(!mounts.contains(&home.path().display().to_string()), "{driver} shows the host's paths: {mounts}");
    }
}

fn drivers_take_turns_on_one_container(home: &Home) {
    layered(home);
    let step = "ls /data | sort | tr '\\n' ' '; n=$(ls /turns 2>/dev/null | wc -l); mkdir -p /turns; echo $n >/turns/$n; \
                rm -rf /data/turn; mkdir /data/turn; echo $n >/data/turn/n; rm -f /data/plain; cat /turns/* | tr '\\n' ' '";
    home.coracle("create --name c --network none layered sh -c").arg(step).run().ok();
    let mut seen = String::new();
    for (turn, driver) in ["fuse", "overlay", "overlay-fuse", "fuse", "overlay"].iter().enumerate() {
        let out = home.ok(&format!("--storage-driver {driver} start -a c"));
        seen.push_str(&format!("{turn} "));
        let files = if turn == 0 { "hard opaque over plain sub " } else { "hard opaque over sub turn " };
        assert_eq!(out.trim_end(), format!("{files}{}", seen.trim_end()), "turn {turn}, {driver}");
        assert_eq!(home.inspect("c", "{{.Driver}}"), *driver);
    }
}

fn driver_is_recorded_and_inspected(home: &Home) {
    home.ok("--storage-driver fuse run -d --name c --network none busybox sleep 1000");
    assert_eq!(home.inspect("c", "{{.Driver}} {{.GraphDriver.Name}}"), "fuse fuse");
    home.ok("stop -t 0 c");
    // It is tried first, as long as nothing else is asked for.
    home.ok("start c");
    assert_eq!(home.ok("exec c sh -c \"grep -c fuse.coracle /proc/self/mountinfo\""), "1");
    home.coracle("create --name d busybox").env("STORAGE_DRIVER", "").run().ok();
    assert_eq!(home.inspect("d", "{{.Driver}}"), "overlay");
}

fn unknown_driver_is_refused(home: &Home) {
    let message = home.fails(125, "--storage-driver vfs run --rm busybox true");
    assert!(message.contains("vfs"), "{message}");
}

fn environment_names_the_driver(home: &Home) {
    let run = |line: &str| home.coracle(line).env("STORAGE_DRIVER", "fuse").run().ok();
    assert_eq!(run("run --rm --network none busybox grep -c fuse.coracle /proc/self/mountinfo"), "1");
    let flag =
        "--storage-driver overlay run --rm --network none busybox grep -c 'overlay overlay' /proc/self/mountinfo";
    assert_eq!(run(flag), "1", "the flag counts");
}

/// Runs a script as root of a user namespace in which the store lies on an overlay, on which the kernel makes no other.
fn on_an_overlay(home: &Home, script: &str) -> String {
    let dir = home.tmp();
    for name in ["lower", "upper", "work", "store"] {
        fs::create_dir(dir.join(name)).expect("the test's own directory");
    }
    let script = format!(
        "set -e; mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work overlay store; \
         cp -a {data} store/data; b=$1; c() {{ \"$b\" --root store/data --runroot {dir}/r \"$@\"; }}; {script}",
        data = home.data().display(),
        dir = dir.display(),
    );
    let file = home.write("script.sh", script);
    let line = format!("unshare --user --map-root-user --map-auto --mount bash {}", file.display());
    home.coracle("").under(&line).env("STORAGE_DRIVER", "").run().ok()
}

fn fuse_takes_over_where_the_overlay_is_refused(home: &Home) {
    let out = on_an_overlay(
        home,
        "c run --name c --network none busybox sh -c 'grep -c fuse.coracle /proc/self/mountinfo; echo x >/x; cat /x'; \
         c inspect --format '{{.Driver}}' c; c start -a c; c rm c",
    );
    assert_eq!(out, "1\nx\nfuse\n1\nx\nc");
}

fn everything_refused_says_why(home: &Home) {
    let out = on_an_overlay(
        home,
        "c --storage-driver overlay run --rm --network none busybox true 2>&1 && exit 1; \
         mount --bind /dev/null /dev/fuse; c run --rm --network none busybox true 2>&1 && exit 1; true",
    );
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("overlay"), "{out}");
    assert!(lines[1].contains("overlay:") && lines[1].contains("; fuse:"), "{out}");
}

/// The union servers below this test.
fn servers() -> Vec<u32> {
    let is_server =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "coracle-union");
    descendants(std::os::unix::process::parent_id()).into_iter().filter(is_server).collect()
}

fn kill(pid: u32) {
    signal(pid, Signal::SIGKILL);
}

fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).expect("it is a process of ours");
}

fn killed_server_ends_the_container_and_is_named(home: &Home) {
    for driver in &DRIVERS[1..] {
        home.ok(&format!("--storage-driver {driver} run -d --name c --network none busybox sleep 1000"));
        let [server] = servers()[..] else { panic!("one server: {:?}", servers()) };
        kill(server);
        home.wait_for_status("c", "exited");
        let error = home.inspect("c", "{{.State.Error}}");
        assert!(error.contains("union file system"), "{driver}: {error:?}");
        // By the supervisor's SIGKILL, or by the SIGBUS of a page that is not to be had any more.
        let code = home.inspect("c", "{{.State.ExitCode}}");
        assert!(["135", "137"].contains(&code.as_str()), "{driver}: {code}");
        // What it had written is whole, and it starts again.
        home.ok("start c");
        assert_eq!(home.inspect("c", "{{.State.Status}} {{.State.Error}}"), "running ");
        home.ok("rm -f -t 0 c");
    }
}

fn server_ends_with_the_container_and_with_the_supervisor(home: &Home) {
    for driver in &DRIVERS[1..] {
        home.ok(&format!("--storage-driver {driver} run -d --name c --network none busybox sleep 1000"));
        let [server] = servers()[..] else { panic!("one server: {:?}", servers()) };
        home.ok("kill c");
        wait_until("its server is gone", || !is_alive(server));
        home.ok("start c");
        let [server] = servers()[..] else { panic!("one server: {:?}", servers()) };
        let supervisor = home.inspect("c", "{{.State.ConmonPid}}");
        kill(supervisor.parse().expect("a pid"));
        wait_until("its server is gone with its supervisor", || !is_alive(server));
        home.wait_for_status("c", "exited");
        assert_eq!(home.ok("ps -q"), "");
        home.ok("rm c");
    }
}

/// Runs something that always waits for a file, and stops its server.
fn run_with_stopped_server(home: &Home, driver: &str, options: &str) {
    let script =
        "for n in 1 2 3 4; do (while :; do echo $n >/f$n; cat /f$n /bin/busybox >/dev/null; done) & done; wait";
    let line = format!("--storage-driver {driver} run -d --name c --network none {options} busybox sh -c");
    home.coracle(&line).arg(script).run().ok();
    home.ok("exec c sh -c 'until test -s /f4; do :; done'");
    let [server] = servers()[..] else { panic!("one server: {:?}", servers()) };
    signal(server, Signal::SIGSTOP);
}

fn stopped_server_keeps_no_container_alive(home: &Home) {
    let lines: [&[&str]; 2] = [&["stop -t 1 c"], &["kill c", "stop -t 0 c", "rm -f -t 0 c", "restart -t 0 c"]];
    for (driver, lines) in DRIVERS[1..].iter().zip(lines) {
        for line in lines {
            run_with_stopped_server(home, driver, "");
            home.ok(line);
            if line.starts_with("kill") {
                home.wait_for_status("c", "exited");
            }
            assert_eq!(home.ok("ps -q").is_empty(), !line.starts_with("restart"), "{driver} {line}");
            home.ok("rm -f -t 0 -i c");
            wait_until("no server stays", || servers().is_empty());
        }
    }
    run_with_stopped_server(home, "fuse", "--timeout 1");
    home.wait_for_status("c", "exited");
    home.ok("rm c");
}

fn server_has_few_privileges_and_no_other_files(home: &Home) {
    home.ok("--storage-driver fuse run -d --name c --network none busybox sleep 1000");
    let [server] = servers()[..] else { panic!("one server: {:?}", servers()) };
    let status = fs::read_to_string(format!("/proc/{server}/status")).expect("it runs");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP.
    let kept = format!("{:016x}", 0b1_1011 | 1_u64 << 31);
    for set in ["CapEff:", "CapPrm:"] {
        assert_eq!(field(set), Some(kept.as_str()), "{status}");
    }
    if home.run("doctor").stdout().contains("is confined to their directories") {
        assert_eq!(field("NoNewPrivs:"), Some("1"), "{status}");
    }
    // It is enough for what a container's root may do.
    let script = "cp /bin/busybox /tmp/x && chown 5:6 /tmp/x && chmod 6755 /tmp/x && stat -c %u:%g:%a /tmp/x && \
                  mv /bin /tmp/bin && mkdir /bin && /tmp/bin/busybox ls -A /bin";
    assert_eq!(home.coracle("exec c sh -c").arg(script).run().ok(), "5:6:6755");
}

fn what_a_server_cannot_tell_is_in_its_log(home: &Home) {
    let layer = Layer::new().dir("data").file("data/file", "x");
    Image::busybox().layer(layer).load(home, "localhost/damaged:latest");
    home.ok("--storage-driver fuse run -d --name c --network none damaged sleep 1000");
    let trees = layers(home).into_iter().map(|name| home.data().join("layers").join(name).join("diff/data/file"));
    let file = trees.into_iter().find(|file| file.exists()).expect("the layer is unpacked");
    fs::remove_file(file).expect("our own store");
    let finished = home.run("exec c cat /data/file");
    assert!(finished.stderr().to_lowercase().contains("input/output error"), "{}", finished.transcript());
    let log = home.inspect("c", "{{.GraphDriver.Data.ServerLog}}");
    let text = fs::read_to_string(log).expect("inspect names the log");
    assert!(text.contains(r#"i/o error ("/data/file")"#), "{text}");
}

fn layers(home: &Home) -> Vec<String> {
    let names = crate::support::home::entries(&home.data().join("layers"));
    names.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}

fn shifted_ids_need_no_second_tree(home: &Home) {
    let before = layers(home);
    for userns in ["keep-id", "keep-id:uid=7,gid=8", "auto", "auto:size=2000"] {
        home.ok(&format!("run --rm --network none --userns {userns} busybox true"));
    }
    assert_eq!(layers(home), before);
    // What an older coracle left is taken away by prune.
    let copy = home.data().join("layers").join(format!("{}-0123456789ab", before[0]));
    fs::create_dir_all(copy.join("diff")).expect("our own store");
    home.ok("run --rm --network none --userns keep-id busybox true");
    home.ok("image prune -f");
    assert_eq!(layers(home), before);
}

fn shifted_ids_on_every_driver(home: &Home) {
    let layer = Layer::new().dir("data").file("data/root", "x").dir("data/sub").file("data/sub/file", "y");
    Image::busybox().layer(layer).load(home, "localhost/owned:latest");
    let script = "stat -c '%u:%g' / /bin /bin/busybox /data/sub /data/root; echo z >>/data/root; chown 3:4 /data/sub/file; \
                  mkdir /data/sub/new; stat -c '%u:%g' /data/root /data/sub/file /data/sub/new; ls -n /data | wc -l";
    let expected = "0:0\n0:0\n0:0\n0:0\n0:0\n0:0\n3:4\n0:0\n3";
    for driver in DRIVERS {
        for userns in ["host", "keep-id", "auto"] {
            let line = format!("--storage-driver {driver} run --rm --network none -u 0 --userns {userns} owned sh -c");
            assert_eq!(home.coracle(&line).arg(script).run().ok(), expected, "{driver} {userns}");
        }
    }
    // A container keeps its files, whichever driver it meets next.
    home.coracle("create --name c --network none -u 0 --userns auto owned sh -c")
        .arg(
            "stat -c %u /data/root /x; echo a >>/x; \
        echo b >>/data/root; stat -c %u /x; cat /x | wc -l",
        )
        .run()
        .ok();
    for (turn, driver) in DRIVERS.iter().cycle().take(5).enumerate() {
        let out = home.run(&format!("--storage-driver {driver} start -a c")).stdout();
        let old = if turn == 0 { "" } else { "0\n" };
        assert_eq!(out, format!("0\n{old}0\n{}\n", turn + 1), "{driver}");
    }
}

fn users_of_a_running_container_are_known_on_every_driver(home: &Home) {
    for driver in DRIVERS {
        for userns in ["host", "keep-id", "auto"] {
            home.ok(&format!(
                "--storage-driver {driver} run -d --name c --network none --userns {userns} busybox sleep 1000"
            ));
            home.ok("exec -u 0 c sh -c 'echo added:x:77:78::/home:/bin/sh >>/etc/passwd'");
            assert_eq!(
                home.ok("exec -u added c sh -c 'id -u; id -g; echo $HOME'"),
                "77\n78\n/home",
                "{driver} {userns}"
            );
            home.ok("exec -d -u added c sleep 1000");
            let shown = home.ok("top c user,args");
            assert!(shown.lines().any(|line| line.starts_with("added")), "{driver} {userns}: {shown}");
            home.ok("rm -f -t 0 c");
        }
    }
}

fn mount_works_on_every_driver(home: &Home) {
    home.ok("create --name c busybox true");
    home.ok("create --name k --userns keep-id busybox true");
    for driver in DRIVERS {
        for name in ["c", "k"] {
            let script = format!(
                "dir=$(\"$0\" --storage-driver {driver} mount {name}) && test -x $dir/bin/busybox && echo {driver} >$dir/by && \
                 cat $dir/by && stat -c %u $dir/bin && \"$0\" unmount {name} >/dev/null && ! test -e $dir/bin"
            );
            let binary = crate::support::command::binary();
            let out = home.coracle("unshare sh -c").arg(&script).arg(binary).run().ok();
            let owner = if name == "k" { "1" } else { "0" };
            assert_eq!(out, format!("{driver}\n{owner}"), "{name}");
        }
    }
    wait_until("no server stays", || servers().is_empty());
    // Without an unmount it goes with the last process inside.
    let binary = crate::support::command::binary();
    let script = "\"$0\" --storage-driver fuse mount c && \"$0\" --storage-driver fuse mount k";
    home.coracle("unshare sh -c").arg(script).arg(binary).run().ok();
    wait_until("no server stays", || servers().is_empty());
    assert_eq!(home.ok("start -a c"), "");
}

fn image_mount_works_on_every_driver(home: &Home) {
    let layer = Layer::new().file("etc/motd", "hello").whiteout("bin/busybox");
    Image::busybox().layer(layer).load(home, "localhost/other");
    home.ok("create --name c busybox true");
    let binary = crate::support::command::binary();
    for driver in DRIVERS {
        // A second server must not keep the first one's mount.
        let script = format!(
            "c() {{ \"$0\" --storage-driver {driver} \"$@\"; }}; dir=$(c image mount other); c mount c >/dev/null; \
             cat $dir/etc/motd; test -e $dir/bin/busybox || echo hidden; touch $dir/new || stat -c %u:%g $dir/bin; \
             c image mount other >/dev/null; c image umount other >/dev/null; cat $dir/etc/motd; c image umount other >/dev/null; \
             ls -A $dir; c image mount other >/dev/null; grep -c . $dir/etc/motd"
        );
        let out = home.coracle("unshare sh -c").arg(&script).arg(&binary).run().ok();
        assert_eq!(out, "hellohidden\n0:0\nhello1", "{driver}");
        wait_until("no server stays", || servers().is_empty());
    }
}

fn info_and_doctor_name_the_drivers(home: &Home) {
    let info: serde_json::Value = serde_json::from_str(&home.ok("info --format json")).expect("JSON");
    let status = &info["store"]["graphStatus"];
    for name in ["Backing Filesystem", "Native Overlay", "FUSE"] {
        assert!(status[name].is_string(), "{status}");
    }
    let driver = info["store"]["graphDriverName"].as_str().expect("a name");
    assert!(DRIVERS.contains(&driver), "{driver}");
    let doctor = home.run("doctor").stdout();
    assert!(doctor.contains("FUSE"), "{doctor}");
}

fn many_layers_fit_into_few_descriptors(home: &Home) {
    let mut image = Image::busybox();
    for number in 0..100 {
        image = image.layer(Layer::new().dir("data").file(&format!("data/{number}"), number.to_string()));
    }
    image.load(home, "localhost/tall:latest");
    for driver in DRIVERS {
        let line = format!(
            "--storage-driver {driver} run --rm --network none tall sh -c 'ls /data | wc -l; cat /data/0 /data/99'"
        );
        assert_eq!(home.coracle(&line).under("prlimit --nofile=64:1024").run().ok(), "100\n099", "{driver}");
    }
}
