//! Images whose file system or configuration is a trap for the one who starts them (SECURITY: rootfs traps, working
//! directory and descriptors, host files read for image logic).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::home::{entries, set_mode};
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(fifo_as_passwd_does_not_hang),
    test!(device_and_directory_as_passwd),
    test!(huge_and_binary_passwd),
    test!(passwd_as_link_out_of_the_image),
    test!(dev_as_symlink_to_the_host),
    test!(proc_and_sys_as_symlinks_to_the_host),
    test!(etc_as_symlink_to_the_host),
    test!(single_entries_of_etc_and_dev_as_symlinks),
    test!(workdir_in_proc_self_fd_is_refused),
    test!(workdir_through_symlinks_stays_inside),
    test!(workdir_that_is_a_file),
    test!(volume_through_a_symlink_stays_inside),
    test!(interpreter_that_is_ourselves),
    test!(masked_path_that_is_a_symlink),
    test!(configuration_with_odd_values),
    test!(control_characters_do_not_reach_the_terminal),
    test!(environment_of_the_image_does_not_reach_coracle),
    test!(entrypoint_with_a_loader_of_the_image),
];

/// A directory of the host with a file in it, which must stay as it is.
struct Canary {
    dir: PathBuf,
}

impl Canary {
    fn new(home: &Home) -> Self {
        let dir = home.write("canary/alive", "yes").parent().expect("it has one").to_owned();
        set_mode(&dir, 0o777);
        Self { dir }
    }

    fn path(&self) -> &str {
        self.dir.to_str().expect("the runner's paths are plain")
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(entries(&self.dir), [self.dir.join("alive")], "the host's directory was changed");
        assert_eq!(fs::read_to_string(self.dir.join("alive")).unwrap(), "yes");
    }
}

/// busybox without some of its entries, and with this layer above.
fn trap(remove: &[&str], layer: Layer) -> Image {
    let holes = remove.iter().fold(Layer::new(), |layer, name| layer.whiteout(name));
    Image::busybox().layer(holes).layer(layer)
}

/// It runs or it is refused with one line; it does not hang and does not crash.
#[track_caller]
fn survives(home: &Home, line: &str) {
    let finished = home.coracle(line).limit_secs(15).run();
    let stderr = finished.stderr();
    assert!(!stderr.contains("panicked"), "{}", finished.transcript());
    assert!(finished.took < Duration::from_secs(10), "{:?}", finished.took);
    if finished.code() != 0 {
        assert!([125, 126, 127].contains(&finished.code()), "{}", finished.transcript());
        finished.fails(finished.code());
    }
}

fn fifo_as_passwd_does_not_hang(home: &Home) {
    let layer = Layer::new().fifo("etc/passwd").fifo("etc/group");
    trap(&["etc/passwd", "etc/group"], layer).load(home, "localhost/trap:latest");
    survives(home, "run --rm trap true");
    survives(home, "run --rm -u www-data trap true");
    survives(home, "run --rm -u 5:6 trap true");
    // Not `id`: it would read the FIFO itself.
    assert_eq!(home.ok("run --rm -u 5:6 trap sh -c 'stat -c %u /proc/$$'"), "5", "numbers need no file");
}

fn device_and_directory_as_passwd(home: &Home) {
    trap(&["etc/passwd", "etc/group"], Layer::new().dir("etc/passwd").dir("etc/group"))
        .load(home, "localhost/dir:latest");
    survives(home, "run --rm dir true");
    survives(home, "run --rm -u root dir true");
}

fn huge_and_binary_passwd(home: &Home) {
    let huge = vec![b'x'; 50 * 1024 * 1024];
    trap(&["etc/passwd"], Layer::new().file("etc/passwd", huge)).load(home, "localhost/huge:latest");
    survives(home, "run --rm -u www-data huge true");
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    trap(&["etc/passwd"], Layer::new().file("etc/passwd", binary)).load(home, "localhost/binary:latest");
    survives(home, "run --rm -u www-data binary true");
    let odd = "root:x:99999999999:0::/:/bin/sh\nme:x:-1:0::/:\nyou:x:1\n::::::\nwww-data:x:44:44::/x:/bin/sh\n";
    trap(&["etc/passwd"], Layer::new().file("etc/passwd", odd)).load(home, "localhost/odd:latest");
    assert_eq!(home.ok("run --rm -u www-data odd id -u"), "44");
    survives(home, "run --rm -u me odd true");
    survives(home, "run --rm -u you odd true");
}

fn passwd_as_link_out_of_the_image(home: &Home) {
    let canary = Canary::new(home);
    let secret = home.write("secret", "evil:x:4242:4242::/:/bin/sh\n");
    for target in [secret.to_str().unwrap(), "../../../../../../../../../../../../dev/zero", "/proc/self/environ"] {
        trap(&["etc/passwd"], Layer::new().symlink("etc/passwd", target)).load(home, "localhost/link:latest");
        let finished = home.coracle("run --rm -u evil link id -u").limit_secs(15).run();
        assert_ne!(finished.code(), 0, "the host's file was read: {}", finished.transcript());
    }
    canary.is_untouched();
}

fn dev_as_symlink_to_the_host(home: &Home) {
    // CVE-2026-41579
    let canary = Canary::new(home);
    for target in [canary.path(), "/tmp", "../../../../../../../../../../../../tmp", "/proc/1/root", "/etc"] {
        trap(&["dev"], Layer::new().symlink("dev", target)).load(home, "localhost/dev:latest");
        survives(home, "run --rm dev sh -c 'echo x > /dev/null'");
        survives(home, "run --rm -t dev true");
        survives(home, "run --rm --privileged dev true");
        canary.is_untouched();
    }
    assert!(fs::metadata("/dev/null").is_ok());
}

fn proc_and_sys_as_symlinks_to_the_host(home: &Home) {
    // CVE-2025-31133, CVE-2025-52565
    let canary = Canary::new(home);
    for name in ["proc", "sys"] {
        for target in [canary.path(), "/tmp", "/dev", "/"] {
            trap(&[name], Layer::new().symlink(name, target)).load(home, "localhost/procsys:latest");
            survives(home, "run --rm procsys true");
            canary.is_untouched();
        }
        trap(&[name], Layer::new().file(name, "a file")).load(home, "localhost/procsys:latest");
        survives(home, "run --rm procsys true");
    }
}

fn etc_as_symlink_to_the_host(home: &Home) {
    let canary = Canary::new(home);
    for target in [canary.path(), "/tmp", "../../../../../../../../../../tmp", "/proc/self/cwd", "/does/not/exist"] {
        trap(&["etc"], Layer::new().symlink("etc", target)).load(home, "localhost/etc:latest");
        survives(home, "run --rm etc true");
        survives(home, "run --rm -u 5:5 --add-host a:1.2.3.4 etc true");
        canary.is_untouched();
    }
}

fn single_entries_of_etc_and_dev_as_symlinks(home: &Home) {
    let canary = Canary::new(home);
    for name in [
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/mtab",
        "dev/null",
        "dev/shm",
        "dev/pts",
        "dev/console",
        "run",
        "tmp",
    ] {
        let target = format!("{}/made-by-{}", canary.path(), name.replace('/', "-"));
        let layer = Layer::new().symlink(name, &target);
        trap(&[name], layer).load(home, "localhost/entry:latest");
        survives(home, "run --rm entry true");
        survives(home, "run --rm -t --read-only entry true");
        canary.is_untouched();
    }
}

fn workdir_in_proc_self_fd_is_refused(home: &Home) {
    // CVE-2024-21626
    for number in 0..20 {
        let dir = format!("/proc/self/fd/{number}");
        Image::busybox().set("WorkingDir", json!(dir)).load(home, "localhost/fd:latest");
        let script = "run --rm fd sh -c 'cat ../../../../../../etc/hostname; pwd'";
        let finished = home.coracle(script).run();
        let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
        assert!(host.trim().is_empty() || !finished.stdout().contains(host.trim()), "{}", finished.transcript());
        assert!(!finished.stdout().contains("unreachable"), "{}", finished.transcript());
        let finished = home.run(&format!("run --rm -w {dir}/../../.. busybox ls -d /proc/self/cwd/h"));
        assert_ne!(finished.code(), 0, "{}", finished.transcript());
    }
    home.ok("run -d --name c busybox sleep 1000");
    for number in 3..12 {
        let finished = home.run(&format!("exec -w /proc/self/fd/{number} c cat ../../../../../../etc/hostname"));
        let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
        assert!(host.trim().is_empty() || !finished.stdout().contains(host.trim()), "{}", finished.transcript());
    }
}

fn workdir_through_symlinks_stays_inside(home: &Home) {
    let canary = Canary::new(home);
    let layer =
        Layer::new().symlink("link", canary.path()).symlink("up", "../../../../../../../..").symlink("loop", "loop");
    let inside = format!("/up{}/made", canary.path());
    for dir in ["/link/made", "/up/made/deep", inside.as_str(), "/loop/made", "/../../../../made"] {
        trap(&[], Layer::new()).layer(Layer::new()).set("WorkingDir", json!(dir)).load(home, "localhost/wd:latest");
        survives(home, "run --rm wd true");
        canary.is_untouched();
    }
    Image::busybox().layer(layer).set("WorkingDir", json!("/link/made")).load(home, "localhost/wd:latest");
    survives(home, "run --rm wd true");
    survives(home, "run --rm -w /up/tmp/from-the-image wd true");
    survives(home, "run --rm -w /loop/x wd true");
    canary.is_untouched();
    assert!(!fs::exists("/tmp/from-the-image").unwrap());
}

fn workdir_that_is_a_file(home: &Home) {
    Image::busybox().set("WorkingDir", json!("/etc/passwd")).load(home, "localhost/wd:latest");
    survives(home, "run --rm wd true");
    Image::busybox().set("WorkingDir", json!("relative/dir")).load(home, "localhost/wd:latest");
    survives(home, "run --rm wd true");
    Image::busybox().set("WorkingDir", json!("a\nb\u{1b}[31m")).load(home, "localhost/wd:latest");
    survives(home, "run --rm wd true");
}

fn volume_through_a_symlink_stays_inside(home: &Home) {
    let canary = Canary::new(home);
    let layer = Layer::new().symlink("data", canary.path());
    let image = Image::busybox().layer(layer).set("Volumes", json!({"/data": {}, "/data/sub": {}, "/../../x": {}}));
    image.load(home, "localhost/vol:latest");
    survives(home, "run --rm vol sh -c 'touch /data/x'");
    survives(home, "run --rm -v named:/data vol sh -c 'touch /data/x'");
    survives(home, "run --rm --tmpfs /data/t vol true");
    canary.is_untouched();
    home.run("volume rm -a -f");
    home.run("volume prune -f");
}

fn interpreter_that_is_ourselves(home: &Home) {
    // CVE-2019-5736
    let binary = crate::support::command::binary();
    let before = fs::read(&binary).unwrap();
    let overwrite = "#!/bin/sh\nsleep 0.1\necho overwritten > /proc/$PPID/exe\nfor p in /proc/[0-9]*; do echo x > $p/exe; done 2>/dev/null\n";
    let layer = Layer::new().executable("evil", "#!/proc/self/exe\n").executable("over", overwrite);
    Image::busybox().layer(layer).load(home, "localhost/self:latest");
    for line in [
        "run --rm self /evil",
        "run --rm self /proc/self/exe --version",
        "run --rm --privileged self /over",
        "run --rm --pid host self /over",
    ] {
        home.coracle(line).limit_secs(15).run();
    }
    home.ok("run -d --name c self sleep 1000");
    for line in ["exec c /evil", "exec c /proc/self/exe version", "exec --privileged c /over"] {
        home.coracle(line).limit_secs(15).run();
    }
    assert!(fs::read(&binary).unwrap() == before, "a container wrote to the binary");
}

fn masked_path_that_is_a_symlink(home: &Home) {
    if !fs::exists("/proc/kcore").unwrap_or(false) {
        return;
    }
    let seen = home.ok("run --rm busybox sh -c 'ls -ld /proc/kcore | cut -c1; cat /proc/kcore | wc -c'");
    assert_eq!(seen, "c\n0", "masked by the null device");
}

fn configuration_with_odd_values(home: &Home) {
    for (field, value) in [
        ("User", json!("nosuchuser")),
        ("User", json!("1:2:3")),
        ("Env", json!(["NOEQUALS", "=x", "A=\u{0}b", "OK=1"])),
        ("Cmd", json!([])),
        ("Cmd", json!([""])),
        ("Cmd", json!("a string")),
        ("Entrypoint", json!([null])),
        ("ExposedPorts", json!({"nonsense": {}, "99999/tcp": {}})),
        ("StopSignal", json!("NOSUCH")),
        ("Labels", json!({"\u{1b}[31m": "\n"})),
        ("Volumes", json!({"relative": {}, "": {}, "/": {}})),
    ] {
        let image = Image::busybox().set(field, value);
        let file = home.write("odd.tar", image.docker_archive("localhost/odd:latest"));
        let loaded = home.coracle("load -q -i").arg(file).run();
        assert!(!loaded.stderr().contains("panicked"), "{}", loaded.transcript());
        if loaded.code() == 0 {
            survives(home, "run --rm odd true");
            survives(home, "run --rm odd");
        }
    }
}

fn control_characters_do_not_reach_the_terminal(home: &Home) {
    let image = Image::busybox().set("Labels", json!({"a\u{1b}[31mb": "c\u{1b}]0;title\u{7}"}));
    image.set("Cmd", json!(["sh", "-c", "sleep 1000 # \u{1b}[2J"])).load(home, "localhost/esc:latest");
    home.ok("run -d --name e esc");
    for line in ["ps --no-trunc", "images", "history esc", "inspect esc", "inspect e", "top e", "info"] {
        let finished = home.run(line);
        assert!(!finished.out.contains(&0x1b) && !finished.err.contains(&0x1b), "{line}: {:?}", finished.stdout());
    }
    let finished = home.run("run --rm busybox 'no\u{1b}[31msuch'");
    assert!(!finished.err.contains(&0x1b), "{:?}", finished.stderr());
}

fn environment_of_the_image_does_not_reach_coracle(home: &Home) {
    let canary = Canary::new(home);
    let env = [
        format!("HOME={}", canary.path()),
        format!("TMPDIR={}", canary.path()),
        "LD_PRELOAD=/evil.so".to_owned(),
        "PATH=/nowhere".to_owned(),
    ];
    Image::busybox().set("Env", json!(env)).load(home, "localhost/env:latest");
    survives(home, "run --rm env /bin/true");
    assert_eq!(home.run("run --rm env true").code(), 127, "the PATH of the image is the one that is searched");
    canary.is_untouched();
}

fn entrypoint_with_a_loader_of_the_image(home: &Home) {
    // A dynamic program whose loader is missing is "not found", not a crash.
    let program = fs::read("/bin/ls").unwrap();
    Image::busybox().layer(Layer::new().executable("dynamic", program)).load(home, "localhost/dyn:latest");
    home.fails(127, "run --rm dyn /dynamic");
    Image::busybox()
        .layer(Layer::new().executable("garbage", "\u{7f}ELFgarbage"))
        .load(home, "localhost/garbage:latest");
    home.fails(126, "run --rm garbage /garbage");
}
