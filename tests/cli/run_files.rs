//! `run`: volumes, binds, tmpfs, devices, and the files every container gets.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(bind_mount_is_the_hosts_directory),
    test!(bind_mount_is_read_only_on_demand),
    test!(relative_bind_source_is_from_the_current_directory),
    test!(bind_of_a_missing_source_is_refused),
    test!(bind_of_a_single_file),
    test!(directories_and_files_do_not_mix),
    test!(bind_source_with_special_characters),
    test!(nested_mounts_are_in_order_of_their_targets),
    test!(named_volume_keeps_its_content),
    test!(named_volume_takes_over_what_the_image_has_there),
    test!(volume_of_the_image_is_anonymous_and_goes_with_rm),
    test!(volumes_can_be_listed_inspected_and_removed),
    test!(mount_flag_knows_bind_volume_and_tmpfs),
    test!(malformed_mounts_are_one_line),
    test!(tmpfs_has_its_size_and_mode),
    test!(shm_has_its_size),
    test!(dev_is_the_standard_list),
    test!(devices_are_added).needs(&[Need::Fuse]),
    test!(missing_device_is_refused),
    test!(files_of_root_belong_to_the_user),
    test!(root_is_thrown_away_and_shared_with_nobody),
    test!(whiteouts_and_opaque_directories_hide),
    test!(setuid_bit_survives),
    test!(mount_target_through_a_symlink_stays_inside),
];

fn bind_mount_is_the_hosts_directory(home: &Home) {
    let dir = home.tmp().join("shared");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("in"), "from host").unwrap();
    let line =
        format!("run --rm -v {}:/data busybox sh -c 'cat /data/in; echo -n from container > /data/out'", dir.display());
    assert_eq!(home.ok(&line), "from host");
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "from container");
    assert_eq!(fs::metadata(dir.join("out")).unwrap().uid(), nix::unistd::getuid().as_raw());
}

fn bind_mount_is_read_only_on_demand(home: &Home) {
    let dir = home.tmp();
    for option in
        [format!("-v {}:/data:ro", dir.display()), format!("--mount type=bind,src={},dst=/data,ro", dir.display())]
    {
        let finished = home.run(&format!("run --rm {option} busybox touch /data/x"));
        assert!(finished.code() == 1 && finished.stderr().contains("Read-only"), "{}", finished.transcript());
    }
    // Not by way of a remount either.
    let line = format!("run --rm -v {}:/data:ro busybox mount -o remount,rw,bind /data", dir.display());
    assert_ne!(home.run(&line).code(), 0);
}

fn relative_bind_source_is_from_the_current_directory(home: &Home) {
    home.write("here/file", "found");
    assert_eq!(home.ok("run --rm -v ./here:/data busybox cat /data/file"), "found");
    assert_eq!(
        home.coracle("run --rm -v .:/data busybox cat /data/file").dir(&home.tmp().join("here")).run().ok(),
        "found"
    );
}

fn bind_of_a_missing_source_is_refused(home: &Home) {
    let line = home.fails(125, "run --rm -v /no/such/source:/data busybox true");
    assert!(line.contains("/no/such/source"), "{line}");
    home.fails(125, "run --rm --mount type=bind,src=/no/such/source,dst=/data busybox true");
}

fn bind_of_a_single_file(home: &Home) {
    let file = home.write("one", "1\n");
    assert_eq!(home.ok(&format!("run --rm -v {}:/new/place/one:ro busybox cat /new/place/one", file.display())), "1");
    assert_eq!(home.ok(&format!("run --rm -v {}:/etc/passwd:ro busybox cat /etc/passwd", file.display())), "1");
}

fn directories_and_files_do_not_mix(home: &Home) {
    fs::create_dir(home.tmp().join("dir")).unwrap();
    let (dir, file) = (home.tmp().join("dir"), home.write("file", "1"));
    for (option, source, words) in [
        (format!("-v {}:/etc/passwd", dir.display()), &*dir, "is a directory, but /etc/passwd in the container is not"),
        (format!("-v {}:/etc", file.display()), &*file, "is not a directory, but /etc in the container is one"),
        ("--tmpfs /etc/passwd".to_owned(), "tmpfs".as_ref(), "is a directory, but /etc/passwd in the container is not"),
    ] {
        let line = home.refuses(&format!("run --rm {option} busybox true"));
        assert!(line.contains(&format!("{} {words}", source.display())), "{line}");
    }
}

fn bind_source_with_special_characters(home: &Home) {
    let file = home.write("a b,c=d\\e/f\"g", "odd");
    let dir = file.parent().unwrap().display().to_string();
    let finished =
        home.coracle("run --rm -v").arg(format!("{dir}:/data")).arg("busybox").arg("cat").arg("/data/f\"g").run();
    assert_eq!(finished.ok(), "odd");
}

fn nested_mounts_are_in_order_of_their_targets(home: &Home) {
    home.write("outer/mark", "outer");
    home.write("inner/mark", "inner");
    assert_eq!(
        home.ok("run --rm -v ./inner:/m/sub -v ./outer:/m busybox sh -c 'cat /m/mark /m/sub/mark'"),
        "outerinner"
    );
}

fn named_volume_keeps_its_content(home: &Home) {
    home.ok("run --rm -v data:/data busybox sh -c 'echo kept > /data/file'");
    assert_eq!(home.ok("run --rm -v data:/other busybox cat /other/file"), "kept");
    home.run("run --rm -v data:/data:ro busybox touch /data/x").exits(1);
    home.ok("volume rm data");
}

fn named_volume_takes_over_what_the_image_has_there(home: &Home) {
    let layer = Layer::new().dir("srv").file("srv/from-image", "image").symlink("srv/link", "/etc/passwd");
    Image::busybox().layer(layer).load(home, "localhost/seed:latest");
    assert_eq!(
        home.ok("run --rm -v seeded:/srv seed sh -c 'cat /srv/from-image; readlink /srv/link'"),
        "image/etc/passwd"
    );
    home.ok("run --rm -v seeded:/srv seed sh -c 'echo -n changed > /srv/from-image'");
    assert_eq!(
        home.ok("run --rm -v seeded:/srv seed cat /srv/from-image"),
        "changed",
        "only an empty volume is filled"
    );
    home.ok("volume rm seeded");
}

fn volume_of_the_image_is_anonymous_and_goes_with_rm(home: &Home) {
    let image = Image::busybox().layer(Layer::new().dir("db").file("db/init", "x"));
    image.set("Volumes", json!({"/db": {}})).load(home, "localhost/db:latest");
    assert_eq!(home.ok("run --rm db sh -c 'cat /db/init; grep -c \" /db \" /proc/self/mountinfo'"), "x1");
    assert_eq!(home.ok("volume ls -q"), "", "--rm takes anonymous volumes along");
    home.ok("run --name keep db true");
    assert_eq!(home.ok("volume ls -q").lines().count(), 1);
    home.ok("rm -v keep");
    assert_eq!(home.ok("volume ls -q"), "");
}

fn volumes_can_be_listed_inspected_and_removed(home: &Home) {
    home.ok("volume create one");
    home.ok("run -d --name user -v two:/x busybox sleep 1000");
    assert_eq!(home.ok("volume ls -q"), "one\ntwo");
    let place = home.ok("volume inspect --format {{.Mountpoint}} one");
    assert!(std::path::Path::new(&place).is_dir(), "{place}");
    assert_ne!(home.run("volume rm two").code(), 0, "it is in use");
    home.ok("rm -f -t 0 user");
    home.ok("volume rm one two");
    assert_ne!(home.run("volume rm one").code(), 0);
}

fn mount_flag_knows_bind_volume_and_tmpfs(home: &Home) {
    home.write("src/f", "bound");
    let dir = home.tmp().join("src");
    let bind = format!("type=bind,source={},target=/b,readonly", dir.display());
    let line = format!(
        "run --rm --mount {bind} --mount type=tmpfs,destination=/t,tmpfs-size=1m --mount type=volume,src=v,dst=/v busybox sh -c 'cat /b/f; df -k /t | tail -n 1 | awk \"{{print \\$2}}\"; touch /v/x'"
    );
    assert_eq!(home.ok(&line), "bound1024");
    home.ok("volume rm v");
}

fn malformed_mounts_are_one_line(home: &Home) {
    for option in [
        "-v /tmp:relative",
        "-v /tmp:/a:nosuchoption",
        "-v /tmp:/a:ro:extra",
        "-v ''",
        "-v bad/name:/a",
        "--mount type=nosuch,dst=/a",
        "--mount type=bind,src=/tmp",
        "--mount type=bind,src=/tmp,dst=/a,nosuch=1",
        "--mount ''",
        "--tmpfs relative",
        "--tmpfs /a:nosuch=1",
        "-v /tmp:/",
    ] {
        home.refuses(&format!("run --rm {option} busybox true"));
    }
    home.refuses("run --rm -v a:/same -v b:/same busybox true");
}

fn tmpfs_has_its_size_and_mode(home: &Home) {
    let line = "run --rm --tmpfs /t:size=2m,mode=1777 busybox sh -c 'stat -c %a /t; df -k /t | tail -n 1 | awk \"{print \\$2}\"'";
    assert_eq!(home.ok(line), "1777\n2048");
    // One at a place that the image does not have, one over files of the image.
    let modes = home
        .ok("run --rm --tmpfs /new --tmpfs /bin2:mode=700 --tmpfs /etc:mode=711 busybox stat -c %a /new /bin2 /etc");
    assert_eq!(modes, "1777\n700\n711");
    let options = home.ok("run --rm --tmpfs /t busybox grep ' /t ' /proc/self/mountinfo");
    for option in ["nosuid", "nodev"] {
        assert!(options.contains(option), "{options}");
    }
}

fn shm_has_its_size(home: &Home) {
    let size = "df -k /dev/shm | tail -n 1 | awk '{print $2}'";
    // podman says 64000k, docker 64m.
    let default = home.coracle("run --rm busybox sh -c").arg(size).run().ok();
    assert!(["64000", "65536"].contains(&default.as_str()), "{default}");
    assert_eq!(home.coracle("run --rm --shm-size 2m busybox sh -c").arg(size).run().ok(), "2048");
    home.fails(125, "run --rm --shm-size much busybox true");
}

fn dev_is_the_standard_list(home: &Home) {
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(home.ok("run --rm busybox sh -c 'echo $(ls /dev)'"), expected);
    assert_eq!(home.ok("run --rm -t busybox sh -c 'echo $(ls /dev)'").trim(), format!("console {expected}"));
    home.ok("run --rm -u 1000 busybox sh -c 'echo x > /dev/null && head -c 4 /dev/urandom > /dev/zero'");
}

fn devices_are_added(home: &Home) {
    home.ok("run --rm --device /dev/fuse busybox sh -c 'test -c /dev/fuse && : <> /dev/fuse'");
    home.ok("run --rm --device /dev/fuse:/dev/other:r busybox test -c /dev/other");
}

fn missing_device_is_refused(home: &Home) {
    let line = home.fails(125, "run --rm --device /dev/no-such-device busybox true");
    assert!(line.contains("/dev/no-such-device"), "{line}");
}

fn files_of_root_belong_to_the_user(home: &Home) {
    let dir = home.tmp().join("d");
    fs::create_dir(&dir).unwrap();
    home.ok(&format!(
        "run --rm -v {}:/d busybox sh -c 'touch /d/root; touch /d/other; chown 5:6 /d/other'",
        dir.display()
    ));
    let own = nix::unistd::getuid().as_raw();
    assert_eq!(fs::metadata(dir.join("root")).unwrap().uid(), own);
    assert_ne!(fs::metadata(dir.join("other")).unwrap().uid(), own, "a subordinate id");
}

fn root_is_thrown_away_and_shared_with_nobody(home: &Home) {
    home.ok("run --name a busybox sh -c 'echo a > /file; rm /etc/passwd'");
    assert_eq!(home.ok("run --rm busybox sh -c 'ls /file /etc/passwd 2>/dev/null; true'"), "/etc/passwd");
    home.ok("start a");
    assert_eq!(home.ok("wait a"), "1", "a second rm of /etc/passwd fails: the root is kept over a restart");
}

fn whiteouts_and_opaque_directories_hide(home: &Home) {
    let below =
        Layer::new().dir("d").file("d/one", "1").file("d/two", "2").dir("o").file("o/old", "x").file("gone", "x");
    let above = Layer::new().whiteout("d/one").whiteout("gone").dir("o").opaque("o").file("o/new", "x");
    Image::busybox().layer(below).layer(above).load(home, "localhost/wh:latest");
    assert_eq!(home.ok("run --rm wh sh -c 'ls /d /o; test ! -e /gone'"), "/d:\ntwo\n\n/o:\nnew");
}

fn setuid_bit_survives(home: &Home) {
    let layer = Layer::new().entry(tar::EntryType::Regular, b"suid", b"", 0o4755, b"x");
    Image::busybox().layer(layer).load(home, "localhost/suid:latest");
    assert_eq!(home.ok("run --rm suid stat -c %a /suid"), "4755");
}

fn mount_target_through_a_symlink_stays_inside(home: &Home) {
    let layer = Layer::new().symlink("out", "/../../../../../..").symlink("abs", "/real").dir("real");
    Image::busybox().layer(layer).load(home, "localhost/links:latest");
    home.write("src/f", "x");
    assert_eq!(home.ok("run --rm -v ./src:/abs/in links cat /real/in/f"), "x");
    let name = "coracle-must-not-appear";
    assert_eq!(home.ok(&format!("run --rm -v ./src:/out/{name} links cat /{name}/f")), "x");
    assert!(!std::path::Path::new("/").join(name).exists());
}
