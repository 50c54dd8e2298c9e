//! `volume`: create, export, import, mount, rm, and the local driver's options.

use std::fs;

use crate::support::image::Layer;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(bind_volume_is_a_directory_of_the_host),
    test!(tmpfs_volume_is_in_memory),
    test!(volume_has_the_owner_it_was_created_with),
    test!(options_that_take_root_are_refused_with_a_way_out),
    test!(volume_travels_as_an_archive),
    test!(hostile_archive_stays_inside_the_volume),
    test!(exit_codes_are_podmans),
    test!(volume_in_use_is_named_with_its_users),
    test!(mount_tells_where_the_content_is),
];

fn bind_volume_is_a_directory_of_the_host(home: &Home) {
    home.write("dir/file", "host");
    let device = home.tmp().join("dir").display().to_string();
    assert_eq!(home.ok(&format!("volume create -o type=none -o o=bind -o device={device} v")), "v");
    assert_eq!(home.ok("run --rm -v v:/d busybox sh -c 'cat /d/file; echo x > /d/new'"), "host");
    assert_eq!(fs::read_to_string(home.tmp().join("dir/new")).unwrap(), "x\n");
    assert_eq!(home.ok("volume inspect --format {{.Options.device}} v"), device);
    home.ok("volume rm v");
    assert!(home.tmp().join("dir/file").is_file(), "the directory is not the volume's");
    home.fails(125, "volume create -o type=none -o o=bind -o device=/no/such/place v");
    home.run("volume exists v").exits(1);
}

fn tmpfs_volume_is_in_memory(home: &Home) {
    home.ok("volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,mode=700 v");
    let table = home.ok("run --rm -v v:/d busybox sh -c \"grep ' /d ' /proc/mounts; stat -c %a /d\"");
    assert!(table.starts_with("tmpfs /d tmpfs ") && table.contains("size=1024k") && table.ends_with("700"), "{table}");
}

fn volume_has_the_owner_it_was_created_with(home: &Home) {
    home.ok("volume create -o o=uid=33,gid=44 v");
    assert_eq!(home.ok("run --rm -v v:/empty:nocopy busybox stat -c %u:%g /empty"), "33:44");
}

fn options_that_take_root_are_refused_with_a_way_out(home: &Home) {
    for (options, part) in [
        ("-o type=nfs -o o=addr=10.0.0.1 -o device=:/x", "real root"),
        ("-o o=size=1g", "quotas"),
        ("-o colour=red", "unknown"),
        ("-d nosuch", "there is only local"),
    ] {
        let line = home.fails(125, &format!("volume create {options} v"));
        assert!(line.contains(part), "{line}");
        home.run("volume exists v").exits(1);
    }
}

fn volume_travels_as_an_archive(home: &Home) {
    home.ok("run --rm -v a:/d busybox sh -c 'mkdir /d/sub; echo x > /d/sub/f; chown 33:44 /d/sub/f; chmod 640 /d/sub/f; ln -s f /d/sub/l'");
    home.ok("volume export -o a.tar a");
    home.ok("volume create b");
    home.ok("volume import b a.tar");
    let look = "sh -c 'cat /d/sub/l; stat -c %u:%g:%a /d/sub/f'";
    assert_eq!(home.ok(&format!("run --rm -v b:/d busybox {look}")), "x\n33:44:640");
    // By a pipe, into what is there already.
    home.ok("volume create c");
    home.ok("run --rm -v c:/d busybox touch /d/kept");
    let archive = home.run("volume export a").out;
    home.coracle("volume import c -").stdin(&archive).run().ok();
    assert_eq!(home.ok("run --rm -v c:/d busybox ls /d"), "kept\nsub");
    home.fails(125, "volume import nosuch a.tar");
    home.fails(125, "volume export nosuch");
    home.fails(125, "volume import b nosuch.tar");
}

fn hostile_archive_stays_inside_the_volume(home: &Home) {
    let canary = home.write("canary/file", "safe");
    let outside = canary.parent().unwrap().display().to_string();
    home.ok("volume create v");
    for archive in [
        Layer::new().symlink("link", &outside).file("link/file", "broken").finish(),
        Layer::new().entry(tar::EntryType::Regular, b"../../../canary", b"", 0o644, b"x").finish(),
        Layer::new().symlink("f", canary.to_str().unwrap()).hardlink("g", "f").file("g", "broken").finish(),
    ] {
        // Refused or kept inside: in no case does anything else change.
        let finished = home.coracle("volume import v -").stdin(&archive).run();
        assert!([0, 125].contains(&finished.code()), "{}", finished.transcript());
        assert_eq!(fs::read_to_string(&canary).unwrap(), "safe");
    }
}

fn exit_codes_are_podmans(home: &Home) {
    home.run("volume rm nosuch").exits(1);
    home.run("volume rm -f nosuch").exits(0);
    home.run("volume exists nosuch").exits(1);
    home.fails(125, "volume inspect nosuch");
    home.ok("volume create v");
    home.fails(125, "volume create v");
    home.ok("volume create --ignore v");
    assert_eq!(home.ok("volume ls -q"), "v");
    home.ok("volume reload");
}

fn volume_in_use_is_named_with_its_users(home: &Home) {
    let id = home.ok("create --name c -v v:/d busybox true");
    let line = home.fails(2, "volume rm v");
    assert!(
        line.contains(&format!("volume v is being used by the following container(s): {id}: volume is being used")),
        "{line}"
    );
    assert_eq!(home.ok("volume rm -f v"), "v");
    home.run("container exists c").exits(1);
}

fn mount_tells_where_the_content_is(home: &Home) {
    home.ok("run --rm -v v:/d busybox sh -c 'echo x > /d/f'");
    let path = home.ok("volume mount v");
    assert_eq!(fs::read_to_string(format!("{path}/f")).unwrap(), "x\n");
    assert_eq!(home.ok("volume unmount v"), "v");
}
