//! `--userns=single`: who processes are, and whose files.

use crate::support::image::{Image, Layer};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(there_is_one_id_and_many_users),
    test!(owners_of_the_image_are_what_the_layer_says),
    test!(user_options_mean_emulated_users),
    test!(programs_switch_users),
    test!(chown_is_seen_by_everyone_and_lasts),
    test!(files_belong_to_the_user_that_makes_them),
    test!(tmpfs_has_the_owner_that_was_asked_for),
    test!(volumes_keep_owners),
    test!(another_user_has_no_capabilities),
    test!(no_new_privileges_holds),
    test!(the_normal_mode_has_no_part_of_it),
    test!(a_user_without_a_range_needs_no_option),
    test!(layers_are_unpacked_again_when_the_range_comes_or_goes),
];

fn there_is_one_id_and_many_users(home: &Home) {
    let map = home.ok("run --rm --userns=single busybox cat /proc/self/uid_map");
    assert_eq!(map.split_whitespace().last(), Some("1"), "{map}");
    assert_eq!(home.ok("run --rm --userns=single busybox id -u"), "0");
    assert_eq!(
        home.ok("run --rm --userns=single -u 1234:5678 busybox sh -c 'id -u; id -g; id -G'"),
        "1234\n5678\n5678"
    );
}

/// An image with files of several owners.
fn many_owners(home: &Home) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, mode, uid, gid) in [
        ("srv/", tar::EntryType::Directory, 0o2750, 33, 44),
        ("srv/secret", tar::EntryType::Regular, 0o400, 70, 71),
        ("srv/shared", tar::EntryType::Regular, 0o664, 0, 44),
        ("srv/high", tar::EntryType::Regular, 0o644, 60_000, 65_534),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(0);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let mut image = Image::busybox();
    image.layers.push(tar.into_inner().unwrap());
    image.layer(Layer::new().file("etc/motd", "hello")).load(home, "localhost/owners");
}

const LIST: &str = "stat -c '%u:%g %a %n' /srv /srv/secret /srv/shared /srv/high /etc/motd";

fn owners_of_the_image_are_what_the_layer_says(home: &Home) {
    many_owners(home);
    let normal = home.ok(&format!("run --rm owners {LIST}"));
    let single = home.ok(&format!("run --rm --userns=single owners {LIST}"));
    let owners = |text: &str| text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(owners(&single), ["33:44", "70:71", "0:44", "60000:65534", "0:0"]);
    assert_eq!(owners(&single), owners(&normal));
    let status =
        home.ok("run --rm --userns=single -u 33:44 owners sh -c 'stat -c %u:%g /srv; stat -L -c %u /srv/high'");
    assert_eq!(status, "33:44\n60000");
}

fn user_options_mean_emulated_users(home: &Home) {
    home.ok("run -d --name c --userns=single -u nobody --group-add 44 busybox sleep 1000");
    let id = "sh -c 'echo $(id -u):$(id -g):$(id -G)'";
    let nobody = home.ok(&format!("exec c {id}"));
    assert!(nobody.starts_with("65534:") && nobody.ends_with("44") || nobody.contains(":44 "), "{nobody}");
    assert_eq!(home.ok(&format!("exec -u 0 c {id}")), "0:0:0");
    assert_eq!(home.ok(&format!("exec -u 7:8 c {id}")), "7:8:8");
    assert_eq!(home.ok(&format!("exec --user root c {id}")), "0:0:0");
    assert_eq!(home.inspect("c", "{{.HostConfig.UsernsMode}}"), "single");
}

fn programs_switch_users(home: &Home) {
    let script = "su -s /bin/sh nobody -c 'id -u; id -un; test -O /tmp/mine || { touch /tmp/mine; test -O /tmp/mine && echo mine; }'";
    let said = home.coracle("run --rm --userns=single busybox sh -c").arg(script).run().ok();
    let uid = said.lines().next().unwrap_or_default().to_owned();
    assert_eq!(said, format!("{uid}\nnobody\nmine"));
    assert_ne!(uid, "0");
    // There is no way back.
    let script = "su -s /bin/sh nobody -c 'chown 0 /tmp/x' 2>&1; su -s /bin/sh nobody -c 'su root -c true' </dev/null 2>&1 | wc -l";
    let said = home
        .coracle("run --rm --userns=single busybox sh -c")
        .arg(format!("touch /tmp/x; chown nobody /tmp/x; {script}"))
        .run()
        .ok();
    assert!(said.contains("not permitted"), "{said}");
}

fn chown_is_seen_by_everyone_and_lasts(home: &Home) {
    home.ok(
        "run --name c --userns=single busybox sh -c 'mkdir /d; touch /d/f; chown -R 33:44 /d; chown 5 /etc/passwd'",
    );
    home.ok("start c");
    home.ok("wait c");
    home.ok("rm c");
    home.ok("run -d --name c --userns=single busybox sh -c 'mkdir -p /d; touch /d/f; chown -R 33:44 /d; chown 5 /etc/passwd; sleep 1000'");
    crate::support::home::wait_until("it is done", || home.ok("exec c stat -c %u /etc/passwd") == "5");
    assert_eq!(home.ok("exec c stat -c %u:%g /d /d/f /etc/passwd"), "33:44\n33:44\n5:0");
    home.ok("stop -t 0 c");
    home.ok("start c");
    assert_eq!(home.ok("exec c stat -c %u:%g /d /d/f /etc/passwd"), "33:44\n33:44\n5:0");
}

fn files_belong_to_the_user_that_makes_them(home: &Home) {
    let script = "umask 027; cd /tmp; touch f; mkdir d; echo x > d/g; ls -ln f d/g | cut -d' ' -f1 | tr '\\n' ' '; stat -c %u:%g f d d/g";
    let said = home.coracle("run --rm --userns=single -u 33:44 busybox sh -c").arg(script).run().ok();
    assert_eq!(said, "-rw-r----- -rw-r----- 33:44\n33:44\n33:44");
}

fn tmpfs_has_the_owner_that_was_asked_for(home: &Home) {
    let said = home.ok("run --rm --userns=single --tmpfs /t:uid=33,gid=44,mode=750 busybox stat -c '%u:%g %a' /t");
    assert_eq!(said, "33:44 750");
}

fn volumes_keep_owners(home: &Home) {
    home.ok("run --rm --userns=single -v data:/data busybox sh -c 'touch /data/f; chown 33:44 /data/f; chown 7 /data'");
    let said = home.ok("run --rm --userns=single -v data:/data busybox stat -c %u:%g /data /data/f");
    assert_eq!(said, "7:0\n33:44");
    many_owners(home);
    let said = home.ok("run --rm --userns=single -v new:/srv owners stat -c %u:%g /srv /srv/secret");
    assert_eq!(said, "33:44\n70:71");
    home.ok("volume rm data new");
}

fn another_user_has_no_capabilities(home: &Home) {
    let effective = |option: &str| {
        let status = home.ok(&format!("run --rm --userns=single {option} busybox grep CapEff /proc/self/status"));
        u64::from_str_radix(status.split_whitespace().last().unwrap(), 16).unwrap()
    };
    assert_eq!(effective("-u 33"), 0);
    assert_ne!(effective(""), 0);
    assert_eq!(effective("--cap-drop ALL"), 0);
}

fn no_new_privileges_holds(home: &Home) {
    // busybox's su tells whether it was executed with the bit in effect.
    let script = "cp /bin/busybox /tmp/su; chmod 4755 /tmp/su; su -s /bin/sh nobody -c '/tmp/su x </dev/null 2>&1'";
    let said = |option: &str| {
        let line = format!("run --rm --userns=single {option} busybox sh -c");
        home.coracle(&line).arg(script).run().stdout()
    };
    assert!(!said("").contains("must be suid"), "{}", said(""));
    let refused = said("--security-opt no-new-privileges");
    assert!(refused.contains("must be suid"), "{refused}");
}

fn the_normal_mode_has_no_part_of_it(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    assert_eq!(home.ok("exec c sh -c 'grep Seccomp_filters /proc/1/status | cut -f2'"), "1");
    assert!(
        !crate::support::home::entries(&home.runtime_dir().join("coracle"))
            .iter()
            .any(|dir| dir.join("ids.sock").exists())
    );
    assert_eq!(home.inspect("c", "{{.HostConfig.UsernsMode}}"), "");
}

/// Puts a command where, in a user namespace of its own, `/etc/subuid` and `/etc/subgid` are empty.
const WITHOUT_RANGES: &str = "unshare --user --map-root-user --mount sh -c 'mount --bind /dev/null /etc/subuid && \
    mount --bind /dev/null /etc/subgid && exec unshare --user --map-user=1000 --map-group=1000 -- \"$@\"' sh";

fn a_user_without_a_range_needs_no_option(home: &Home) {
    let run = |line: &str| home.coracle(line).under(WITHOUT_RANGES).run();
    assert_eq!(run("info --format {{.Host.Security.Ids}}").ok(), "single");
    let finished = run("run --rm -u 33 busybox sh -c 'id -u; touch /tmp/x; stat -c %u /tmp/x'");
    assert_eq!((finished.ok().as_str(), finished.stderr().as_str()), ("33\n33", ""));
    let id = run("run -d busybox sleep 1000").ok();
    assert_eq!(home.inspect(&id, "{{.HostConfig.UsernsMode}}"), "single");
    assert!(run("run --rm --userns=keep-id busybox true").fails(125).contains("needs subordinate ids"));
    home.ok(&format!("rm -f -t 0 {id}"));
    let archive = crate::support::image::busybox_archive().unwrap();
    run(&format!("import -q {} localhost/other", archive.display())).ok();
    run("rmi localhost/other").ok();
    run("image prune -af").ok();
    assert_eq!(run("unshare id -u").ok(), "0");
    // Also inside of that namespace there is one id, and all commands know.
    let script = "\"$0\" info --format {{.Host.Security.Ids}}; \"$0\" import -q \"$1\" localhost/third >/dev/null; \
                  ls $(\"$0\" image mount third)/bin/busybox";
    let binary = crate::support::command::binary();
    let out = home.coracle("unshare sh -c").arg(script).arg(binary).arg(archive).under(WITHOUT_RANGES).run().ok();
    assert!(out.starts_with("single\n"), "{out}");
}

fn layers_are_unpacked_again_when_the_range_comes_or_goes(home: &Home) {
    let without = |line: &str| home.coracle(line).under(WITHOUT_RANGES).run().ok();
    let owners = |text: String| text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    let expected = ["33:44", "70:71", "0:44", "60000:65534", "0:0"];
    let own = "--network none owners sh -c";
    // A container reads what only its owner may.
    let read = format!("{LIST} && cat /srv/secret");
    many_owners(home);
    let run = |line: &str| home.coracle(line).arg(&read).run().ok();
    let run_without = |line: &str| home.coracle(line).arg(&read).under(WITHOUT_RANGES).run().ok();
    assert_eq!(owners(run(&format!("run --name mapped {own}"))), expected);
    // The range goes.
    assert_eq!(owners(run_without(&format!("run --name single {own}"))), expected);
    let of_image = |text: String| text.contains("-single/diff");
    assert!(of_image(without("image inspect owners")) && !of_image(home.ok("image inspect owners")));
    assert!(of_image(without("inspect single")) && !of_image(home.ok("inspect single")));
    // And comes; the other way round too, with an image that was unpacked without.
    home.ok("rm mapped");
    for (driver, name) in [("auto", "a"), ("overlay", "o"), ("auto", "b")] {
        assert_eq!(owners(run(&format!("--storage-driver {driver} run --name {name} {own}"))), expected, "{driver}");
    }
    assert_eq!(owners(home.ok("start -a single")), expected);
    home.ok("rm -a");
    home.ok("rmi -f owners");
    assert!(!home.run("images -q owners").stdout().contains(char::is_alphanumeric));
    let image = Image::busybox().layer(Layer::new().entry(tar::EntryType::Regular, b"srv/mine", b"", 0o400, b"x"));
    let archive = home.write("image.tar", image.docker_archive("localhost/other:latest"));
    without(&format!("load -q -i {}", archive.display()));
    let script = ["run --rm --network none other stat -c '%u:%g %a' /srv/mine", "image prune -f"];
    assert_eq!(without(script[0]), "0:0 400");
    assert_eq!(home.ok(script[0]), "0:0 400");
    // Both trees are the image's, and go with it.
    let layers = || crate::support::home::entries(&home.data().join("layers")).len();
    let before = layers();
    home.ok(script[1]);
    assert_eq!(layers(), before);
    home.ok("rmi -f other busybox");
    home.ok("trash empty -f");
    assert_eq!(layers(), 0);
}
