//! `run`: what volumes do beyond being there: owners, overlays, images, other containers' volumes.

use std::fs;

use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(anonymous_volume_lasts_over_restarts),
    test!(copy_up_keeps_owner_and_mode_in_every_mode),
    test!(volumes_from_shares_what_a_stopped_container_has),
    test!(volumes_from_replaces_what_the_image_declares),
    test!(volumes_from_several_containers_the_later_wins),
    test!(shared_anonymous_volume_outlives_its_first_container),
    test!(option_u_gives_everything_to_the_containers_user),
    test!(overlay_volume_leaves_the_source_alone),
    test!(overlay_volume_with_its_own_directories_keeps_what_is_written),
    test!(overlay_volume_begins_anew_at_each_start),
    test!(image_is_mounted_at_a_place),
    test!(mounted_image_cannot_be_removed),
    test!(glob_mounts_every_match),
    test!(ramfs_and_devpts_are_file_systems_of_their_own),
    test!(two_mounts_of_one_source),
    test!(subpath_shows_a_part_and_follows_no_link),
    test!(mounts_of_the_host_arrive_in_a_slave),
    test!(idmap_is_refused_with_a_way_out),
    test!(missing_source_is_made_for_v_and_refused_for_mount),
    test!(volumes_have_no_set_id_programs_or_devices_unless_asked),
];

fn anonymous_volume_lasts_over_restarts(home: &Home) {
    home.ok("create --name c -v /data busybox sh -c 'echo once >> /data/log; cat /data/log'");
    home.ok("start -a c");
    assert_eq!(home.ok("start -a c"), "once\nonce");
    assert_eq!(home.ok("volume ls -q").lines().count(), 1);
    let name = home.inspect("c", "{{(index .Mounts 0).Name}}");
    assert_eq!(home.ok("volume ls -q"), name);
    home.ok("rm -v c");
    assert_eq!(home.ok("volume ls -q"), "");
}

/// An image whose volume belongs to somebody.
fn owned_volume(home: &Home) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, mode, body) in
        [("srv/", tar::EntryType::Directory, 0o2770, &b""[..]), ("srv/file", tar::EntryType::Regular, 0o640, b"image")]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(33);
        header.set_gid(44);
        header.set_size(body.len() as u64);
        tar.append_data(&mut header, name, body).unwrap();
    }
    let mut image = Image::busybox();
    image.layers.push(tar.into_inner().unwrap());
    image.set("Volumes", json!({"/srv": {}})).load(home, "localhost/owned");
}

fn copy_up_keeps_owner_and_mode_in_every_mode(home: &Home) {
    owned_volume(home);
    let has_fuse = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    let drivers: &[&str] = if has_fuse { &["auto", "fuse"] } else { &["auto"] };
    for driver in drivers {
        for userns in ["", "--userns=keep-id -u 0", "--userns=single"] {
            let line = format!(
                "--storage-driver {driver} run --rm {userns} owned sh -c 'stat -c %u:%g:%a /srv /srv/file; cat /srv/file'"
            );
            assert_eq!(home.ok(&line), "33:44:2770\n33:44:640\nimage", "{line}");
        }
    }
}

fn volumes_from_shares_what_a_stopped_container_has(home: &Home) {
    home.write("here/file", "host");
    home.ok("run --name a -v /anonymous -v named:/named -v ./here:/host:ro --tmpfs /tmp busybox sh -c 'echo 1 > /anonymous/x; echo 2 > /named/x'");
    let read = "cat /anonymous/x /named/x /host/file";
    assert_eq!(home.ok(&format!("run --rm --volumes-from a busybox {read}")), "1\n2\nhost");
    assert_eq!(home.ok(&format!("run --rm --volumes-from a:z busybox {read}")), "1\n2\nhost");
    let finished = home.run("run --rm --volumes-from a:ro busybox touch /named/y");
    assert!(finished.code() == 1 && finished.stderr().contains("Read-only"), "{}", finished.transcript());
    // What was read-only stays so.
    home.run("run --rm --volumes-from a:rw busybox touch /host/y").exits(1);
    home.fails(125, "run --rm --volumes-from nobody busybox true");
    let line = home.fails(125, "run --rm --volumes-from a:sideways busybox true");
    assert!(line.contains("sideways"), "{line}");
}

fn volumes_from_replaces_what_the_image_declares(home: &Home) {
    owned_volume(home);
    home.ok("run --name a -v data:/srv busybox sh -c 'echo mine > /srv/x'");
    assert_eq!(home.ok("run --rm --volumes-from a owned cat /srv/x"), "mine");
    // What is asked for stays.
    assert_eq!(home.ok("run --rm --volumes-from a -v other:/srv owned ls /srv"), "file");
}

fn volumes_from_several_containers_the_later_wins(home: &Home) {
    for name in ["a", "b"] {
        home.ok(&format!(
            "run --name {name} -v {name}1:/same -v {name}2:/{name} busybox sh -c 'echo {name} > /same/x'"
        ));
    }
    assert_eq!(
        home.ok("run --rm --volumes-from a --volumes-from b busybox sh -c 'cat /same/x; ls -d /a /b'"),
        "b\n/a\n/b"
    );
}

fn shared_anonymous_volume_outlives_its_first_container(home: &Home) {
    home.ok("run -d --rm --name a -v /data busybox sh -c 'echo kept > /data/x; sleep 1000'");
    crate::support::home::wait_until("it is written", || home.run("exec a cat /data/x").stdout() == "kept\n");
    home.ok("create --name b --volumes-from a busybox cat /data/x");
    home.ok("stop -t 0 a");
    assert_eq!(home.ok("start -a b"), "kept");
    home.ok("rm b");
    let name = home.ok("volume ls -q");
    home.ok(&format!("volume rm {name}"));
}

fn option_u_gives_everything_to_the_containers_user(home: &Home) {
    for userns in ["", "--userns=keep-id", "--userns=single"] {
        home.ok("run --rm -v v:/d busybox sh -c 'mkdir -p /d/sub; touch /d/sub/f; ln -s /etc/passwd /d/l'");
        let line = format!(
            "run --rm {userns} -u 33:44 -v v:/d:U busybox sh -c 'touch /d/sub/new; stat -c %u:%g /d /d/sub /d/sub/f /d/sub/new'"
        );
        assert_eq!(home.ok(&line), "33:44\n33:44\n33:44\n33:44", "{line}");
        // The second time there is nothing to do, and it is still so; by the other flag as well.
        let line =
            format!("run --rm {userns} -u 33:44 --mount type=volume,src=v,dst=/d,U busybox stat -c %u:%g /d/sub/f");
        assert_eq!(home.ok(&line), "33:44", "{line}");
        assert_eq!(home.ok("run --rm busybox stat -c %u:%g /etc/passwd"), "0:0");
        home.ok("run --rm -v v:/d:U busybox true");
        home.ok("volume rm v");
        // A volume that is filled from the image first.
        let line = format!("run --rm {userns} -u 33:44 -v v:/etc:U busybox stat -c %u:%g /etc /etc/passwd");
        assert_eq!(home.ok(&line), "33:44\n33:44", "{line}");
        home.ok("volume rm v");
    }
    assert_eq!(home.ok("run --rm -u 33:44 --mount type=tmpfs,dst=/t,U busybox stat -c %u:%g /t"), "33:44");
}

fn overlay_volume_leaves_the_source_alone(home: &Home) {
    home.write("src/file", "host");
    for userns in ["", "--userns=keep-id", "--userns=single"] {
        let line = format!(
            "run --rm {userns} -v ./src:/d:O busybox sh -c 'cat /d/file; echo changed > /d/file; rm /d/file; touch /d/new; ls /d'"
        );
        assert_eq!(home.ok(&line), "hostnew", "{line}");
        assert_eq!(fs::read_to_string(home.tmp().join("src/file")).unwrap(), "host");
        assert!(!home.tmp().join("src/new").exists());
    }
    let line = home.refuses("run --rm -v ./src/file:/d:O busybox true");
    assert!(line.contains("not a directory"), "{line}");
}

fn overlay_volume_with_its_own_directories_keeps_what_is_written(home: &Home) {
    home.write("src/file", "host");
    for name in ["u", "w"] {
        fs::create_dir(home.tmp().join(name)).unwrap();
    }
    let option = "-v ./src:/d:O,upperdir=./u,workdir=./w";
    home.ok(&format!("run --rm {option} busybox sh -c 'echo more > /d/more'"));
    assert_eq!(home.ok(&format!("run --rm {option} busybox cat /d/file /d/more")), "hostmore");
    assert_eq!(fs::read_to_string(home.tmp().join("u/more")).unwrap(), "more\n");
    home.refuses("run --rm -v ./src:/d:O,upperdir=./u,workdir=./missing busybox true");
}

fn overlay_volume_begins_anew_at_each_start(home: &Home) {
    home.ok("create --name c -v v:/d:O busybox sh -c 'ls /d; touch /d/left'");
    assert_eq!(home.ok("start -a c"), "");
    assert_eq!(home.ok("start -a c"), "");
    assert_eq!(home.inspect("c", "{{range .HostConfig.Binds}}{{.}}{{end}}"), "v:/d:rw,rprivate,O,rbind");
}

fn image_is_mounted_at_a_place(home: &Home) {
    Image::scratch()
        .layer(Layer::new().dir("a").file("a/one", "1").dir("gone").file("gone/x", ""))
        .layer(Layer::new().dir("a").file("a/two", "2").whiteout("gone"))
        .load(home, "localhost/data");
    for userns in ["", "--userns=single"] {
        let line =
            format!("run --rm {userns} --mount type=image,src=data,dst=/i busybox sh -c 'ls /i /i/a; touch /i/x'");
        let finished = home.run(&line);
        assert!(finished.code() == 1 && finished.stderr().contains("Read-only"), "{}", finished.transcript());
        assert_eq!(finished.stdout(), "/i:\na\n\n/i/a:\none\ntwo\n", "{line}");
        let line = format!(
            "run --rm {userns} --mount type=image,src=data,dst=/i,subpath=/a,rw=true busybox sh -c 'touch /i/x; ls /i'"
        );
        assert_eq!(home.ok(&line), "one\ntwo\nx", "{line}");
    }
    let line = home.refuses("run --rm --mount type=image,src=data,dst=/i,subpath=gone busybox true");
    assert!(line.contains("no directory /gone"), "{line}");
    home.fails(125, "run --rm --pull never --mount type=image,src=localhost/missing,dst=/i busybox true");
    // No path of the host shows in it.
    let table = home.ok("run --rm --mount type=image,src=data,dst=/i busybox grep ' /i ' /proc/self/mountinfo");
    assert!(!table.contains(&home.path().display().to_string()), "{table}");
}

fn mounted_image_cannot_be_removed(home: &Home) {
    Image::scratch().layer(Layer::new().file("x", "1")).load(home, "localhost/data");
    home.ok("create --name c --mount type=image,src=data,dst=/i busybox cat /i/x");
    home.run("rmi data").exits(2);
    home.ok("image prune -af");
    assert_eq!(home.ok("start -a c"), "1");
}

fn glob_mounts_every_match(home: &Home) {
    for name in ["a1", "a2", "b"] {
        home.write(&format!("g/{name}"), name);
    }
    let said = home.ok("run --rm --mount type=glob,src=./g/a*,dst=/in,ro busybox sh -c 'cd /in; echo *; cat *'");
    assert_eq!(said, "a1 a2\na1a2");
    let line = home.fails(125, "run --rm --mount type=glob,src=./g/z*,dst=/in busybox true");
    assert!(line.contains("no file paths matching glob"), "{line}");
}

fn ramfs_and_devpts_are_file_systems_of_their_own(home: &Home) {
    let kind =
        |option: &str| home.ok(&format!("run --rm --mount {option},dst=/m busybox sh -c \"grep ' /m ' /proc/mounts\""));
    assert!(kind("type=ramfs").starts_with("ramfs /m ramfs"));
    assert!(kind("type=devpts").starts_with("devpts /m devpts"));
}

fn two_mounts_of_one_source(home: &Home) {
    for userns in ["", "--userns=keep-id", "--userns=single"] {
        let line = format!("run --rm {userns} -v v:/a -v v:/b:ro busybox sh -c 'echo x > /a/f; cat /b/f'");
        let finished = home.run(&line);
        if userns == "--userns=keep-id" {
            // The volume's own owner decides whether it may be written.
            assert!(finished.code() <= 1, "{}", finished.transcript());
        } else {
            assert_eq!(finished.ok(), "x");
        }
    }
}

fn mounts_of_the_host_arrive_in_a_slave(home: &Home) {
    let optional = |option: &str| {
        let line = format!("run --rm -v /:/host:{option} busybox sh -c \"grep ' /host ' /proc/self/mountinfo\"");
        home.ok(&line)
    };
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if table.lines().any(|line| line.contains(" / / ") && line.contains(" shared:")) {
        assert!(optional("ro,rslave").contains(" master:"), "it hears of the host's mounts");
    }
    assert!(!optional("ro,rprivate").contains(" master:"));
    assert!(optional("ro,rshared").contains(" shared:"));
}

fn idmap_is_refused_with_a_way_out(home: &Home) {
    let line = home.fails(125, "run --rm -v v:/d:idmap busybox true");
    assert!(line.contains("real root") && line.contains("keep-id"), "{line}");
}

fn missing_source_is_made_for_v_and_refused_for_mount(home: &Home) {
    home.ok("run --rm -v ./new/deep:/d busybox touch /d/x");
    assert!(home.tmp().join("new/deep/x").is_file());
    let line = home.fails(125, "run --rm --mount type=bind,src=./other,dst=/d busybox true");
    assert!(line.contains("no such file or directory"), "{line}");
    assert!(!home.tmp().join("other").exists());
}

fn subpath_shows_a_part_and_follows_no_link(home: &Home) {
    let canary = home.write("canary/file", "safe");
    let outside = canary.parent().unwrap().display().to_string();
    home.ok("run --rm -v v:/d busybox sh -c 'mkdir -p /d/a/b; echo x > /d/a/b/f'");
    home.ok(&format!("run --rm -v v:/d busybox ln -s {outside} /d/link"));
    for userns in ["", "--userns=keep-id -u 0", "--userns=single"] {
        let line = format!("run --rm {userns} --mount type=volume,src=v,dst=/m,subpath=a/b busybox cat /m/f");
        assert_eq!(home.ok(&line), "x", "{line}");
        home.refuses(&format!("run --rm {userns} --mount type=volume,src=v,dst=/m,subpath=link busybox true"));
        home.refuses(&format!("run --rm {userns} --mount type=volume,src=v,dst=/m,subpath=nosuch busybox true"));
    }
    let line = "run --rm -u 33:44 --mount type=volume,src=v,dst=/m,subpath=a/b,U busybox stat -c %u:%g /m/f";
    assert_eq!(home.ok(line), "33:44");
    assert_eq!(home.ok("run --rm -v v:/d busybox stat -c %u:%g /d/a"), "0:0");
    home.ok("create --name c --mount type=volume,src=v,dst=/m,subpath=a/b busybox true");
    home.ok("cp c:/m/f out");
    assert_eq!(fs::read_to_string(home.tmp().join("out")).unwrap(), "x\n");
}

fn volumes_have_no_set_id_programs_or_devices_unless_asked(home: &Home) {
    let source = home.tmp();
    let flags = |option: &str| {
        let line = home.ok(&format!("run --rm --network none {option} busybox grep ' /m ' /proc/mounts"));
        let options = line.split(' ').nth(3).unwrap().split(',').map(str::to_owned).collect::<Vec<_>>();
        ["ro", "nosuid", "nodev", "noexec"]
            .into_iter()
            .filter(|flag| options.iter().any(|has| has == flag))
            .collect::<Vec<_>>()
    };
    assert_eq!(flags("-v vol:/m"), ["nosuid", "nodev"]);
    assert_eq!(flags("-v vol:/m:ro,noexec"), ["ro", "nosuid", "nodev", "noexec"]);
    assert_eq!(flags("-v /m"), ["nosuid", "nodev"]);
    assert_eq!(flags("--mount type=volume,src=vol,dst=/m"), ["nosuid", "nodev"]);
    assert!(flags("-v vol:/m:suid,exec,dev").is_empty());
    // What the host has there stays as the host has it.
    let bound = flags(&format!("-v {}:/m:ro", source.display()));
    assert!(bound.first() == Some(&"ro"), "{bound:?}");
}
