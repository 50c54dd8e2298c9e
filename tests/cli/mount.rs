//! `mount`, `unmount`, `image mount`, `image unmount`: inside of `unshare`, as podman has them.

use crate::support::image::{Image, Layer};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(outside_of_unshare_there_are_no_mounts),
    test!(containers_are_mounted_listed_and_unmounted),
    test!(images_are_mounted_read_only_listed_and_unmounted),
    test!(image_of_any_number_of_layers_is_mounted),
    test!(mounts_are_counted),
    test!(what_is_mounted_cannot_lose_its_layers),
    test!(removing_an_image_elsewhere_takes_its_mounts_away),
    test!(a_running_container_has_its_mount_to_itself),
];

/// Runs a script inside of `coracle unshare`; `c` is coracle.
fn inside(home: &Home, script: &str) -> crate::support::command::Finished {
    let script = format!("c() {{ \"$0\" \"$@\"; }}; {script}");
    home.coracle("unshare sh -c").arg(script).arg(crate::support::command::binary()).run()
}

fn outside_of_unshare_there_are_no_mounts(home: &Home) {
    home.ok("create --name c busybox");
    for line in [
        "mount",
        "mount c",
        "mount -a",
        "unmount c",
        "umount -a",
        "container mount c",
        "container umount c",
        "image mount",
        "image mount busybox",
        "image unmount busybox",
        "image umount -a",
    ] {
        let message = home.fails(125, line);
        assert!(message.contains("coracle unshare"), "{line}: {message}");
    }
    for (line, expected) in [
        ("unmount", "you must provide at least one name or id"),
        ("image unmount", "image name or ID must be specified"),
    ] {
        assert!(home.fails(125, line).contains(expected), "{line}");
    }
}

fn containers_are_mounted_listed_and_unmounted(home: &Home) {
    let first = home.ok("create --name first busybox");
    let second = home.ok("create --name second busybox");
    let place = |id: &str| home.data().join("containers").join(id).join("merged").display().to_string();
    let out = inside(
        home,
        "set -e; c mount; c mount --format json; echo =; c mount first; c mount second first; echo =; c mount; \
         c container mount --no-trunc; echo =; c unmount second; c umount second; c umount -a; c unmount first; c mount -a; c container umount -af; \
         c mount",
    );
    let out = out.ok();
    let parts: Vec<&str> = out.split("=\n").collect();
    let (one, two) = (place(&first), place(&second));
    assert_eq!(parts[0], "[]\n");
    assert_eq!(parts[1], format!("{one}\n{two}\n{one}\n"));
    // Rows in the order in which they were created.
    let row = |id: &str, place: &str| format!("{id}  {place}\n");
    assert_eq!(
        parts[2],
        row(&first[..12], &one) + &row(&second[..12], &two) + &row(&first, &one) + &row(&second, &two)
    );
    assert_eq!(parts[3], format!("second\nsecond\n{first}\nfirst\n{one}\n{two}\n{first}\n{second}"));

    let json = inside(home, "c mount first >/dev/null; c mount --format json; c mount --format json second").ok();
    let mut lists = serde_json::Deserializer::from_str(&json).into_iter::<serde_json::Value>();
    let expected = serde_json::json!([{"id": first, "Names": ["first"], "mountpoint": one}]);
    assert_eq!(lists.next().unwrap().unwrap(), expected);
    assert_eq!(lists.next().unwrap().unwrap()[0]["mountpoint"], two.as_str());

    // One that is unknown keeps all from being mounted.
    let out =
        inside(home, "c mount first nosuch second; echo $?; c mount; c unmount -a first; echo $?; c mount --format x");
    assert!(out.stdout().starts_with("125\n125\n"), "{}", out.stdout());
    for expected in ["no container with name or ID \"nosuch\"", "--all", "unknown --format argument: \"x\""] {
        assert!(out.stderr().contains(expected), "{expected}: {}", out.stderr());
    }
}

fn images_are_mounted_read_only_listed_and_unmounted(home: &Home) {
    let image = Image::busybox().layer(Layer::new().file("etc/motd", "hello"));
    image.load(home, "localhost/other:1");
    let id = home.ok("images -q --no-trunc localhost/other").trim_start_matches("sha256:").to_owned();
    let place = home.data().join("mounts").join(&id).join("merged").display().to_string();
    let out = inside(
        home,
        "set -e; c image mount; c image mount other:1; echo =; cat $(c image mount other:1)/etc/motd; echo; c image mount; \
         d=$(c image mount other:1); ! touch $d/x 2>/dev/null; ! rm $d/etc/motd 2>/dev/null; cat $d/etc/motd; echo =; \
         c image unmount busybox; c image umount -f other:1 busybox; c image mount; c image unmount other:1; \
         c image mount busybox other:1; echo =; c image unmount --all; c image mount",
    )
    .ok();
    let parts: Vec<&str> = out.split("=\n").collect();
    assert_eq!(parts[0], format!("{place}\n"));
    assert_eq!(parts[1], format!("hello\nlocalhost/other:1  {place}\nhello"));
    let rows: Vec<&str> = parts[2].lines().collect();
    assert_eq!(rows[0], id);
    assert!(rows[1].starts_with("localhost/busybox:latest  /"), "{rows:?}");
    assert_eq!(rows[2], format!("localhost/other:1         {place}"));
    assert_eq!(parts[3].lines().count(), 2, "{out}");

    let json = inside(home, "c image mount --format json other:1").ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["id"], &json[0]["mountpoint"]), (&id.as_str().into(), &place.as_str().into()));
    assert_eq!(json[0]["Repositories"], serde_json::json!(["localhost/other:1"]));
    assert!(json[0]["Names"][0].as_str().unwrap().starts_with("sha256:"));

    let out = inside(
        home,
        "c image mount busybox nosuch; echo $?; c image unmount nosuch; echo $?; c image mount; c image mount -a x",
    );
    assert_eq!(out.stdout(), "125\n125\n");
    assert!(out.stderr().contains("nosuch: image not known"), "{}", out.stderr());
    assert!(home.mounts().is_empty());
}

fn image_of_any_number_of_layers_is_mounted(home: &Home) {
    let layer =
        |number: usize| Layer::new().file(&format!("file{number}"), "x").whiteout(&format!("file{}", number + 1));
    for count in [0, 1, 2, 40] {
        let image = (0..count).fold(Image::scratch(), |image, number| image.layer(layer(number)));
        image.load(home, "localhost/layers");
        let out = inside(home, "ls $(c image mount layers) | wc -l").ok();
        assert_eq!(out, count.to_string());
        home.ok("rmi layers");
    }
    assert_eq!(home.run(&format!("unshare ls {}", home.data().join("mounts").display())).ok(), "");
}

fn mounts_are_counted(home: &Home) {
    home.ok("create --name c busybox");
    let lines = "grep -c /merged /proc/self/mountinfo";
    let out = inside(
        home,
        &format!(
            "d=$(c mount c); c mount c >/dev/null; c mount c >/dev/null; echo x >$d/x; c unmount c; cat $d/x; {lines}; \
             c unmount c; cat $d/x; c mount | wc -l; c unmount c; test -e $d/x || echo gone; c mount | wc -l; \
             c mount c >/dev/null; c mount c >/dev/null; c unmount --force c; {lines}; \
             c image mount busybox >/dev/null; c image mount busybox >/dev/null; c image unmount busybox >/dev/null; {lines}; \
             c image unmount -f busybox >/dev/null; {lines}"
        ),
    );
    assert_eq!(out.stdout(), "c\nx\n2\nc\nx\n1\nc\ngone\n0\nc\n0\n1\n0\n");
}

fn what_is_mounted_cannot_lose_its_layers(home: &Home) {
    home.ok("create --name c busybox");
    Image::busybox().layer(Layer::new().file("etc/motd", "hello")).load(home, "localhost/other");
    let out = inside(
        home,
        "d=$(c image mount other); c rmi other; echo $?; c image prune -af >/dev/null; cat $d/etc/motd; echo; c image unmount other >/dev/null; \
         c rmi other >/dev/null; echo $?; d=$(c mount c); c rm c; test -e $d || echo gone; c mount | wc -l",
    );
    assert_eq!(out.stdout(), "125\nhello\n0\nc\ngone\n0\n", "{}", out.stderr());
    assert!(out.stderr().contains("is mounted at") && out.stderr().contains("image unmount"), "{}", out.stderr());
}

fn removing_an_image_elsewhere_takes_its_mounts_away(home: &Home) {
    Image::busybox().layer(Layer::new().file("etc/motd", "hello")).load(home, "localhost/other");
    let script = "d=$(\"$0\" image mount other); echo mounted; read line; grep -c /merged /proc/self/mountinfo";
    let mut child = home
        .coracle("unshare sh -c")
        .arg(script)
        .arg(crate::support::command::binary())
        .to_command()
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "mounted\n");
    home.ok("rmi other");
    drop(child.stdin.take());
    line.clear();
    std::io::Read::read_to_string(&mut out, &mut line).unwrap();
    child.wait().unwrap();
    assert_eq!(line, "0\n");
    assert!(!home.data().join("mounts").read_dir().unwrap().any(|_| true));
}

fn a_running_container_has_its_mount_to_itself(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    let out = inside(home, "c mount c; echo $?; c mount; c unmount c; echo $?");
    assert_eq!(out.stdout(), "125\nc\n0\n");
    assert!(out.stderr().contains("container c is running"), "{}", out.stderr());
}
