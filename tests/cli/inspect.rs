//! `inspect`, `top`, `port`, `version`, `info`, `unshare`

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(inspect_prints_an_array_of_dockers_fields),
    test!(inspect_templates),
    test!(inspect_knows_images_and_containers),
    test!(inspect_of_something_unknown),
    test!(ids_may_be_shortened_while_unique),
    test!(top_lists_the_processes),
    test!(version_and_info),
    test!(unshare_is_root_of_the_users_ids),
    test!(mount_shows_the_root_inside_of_unshare),
    test!(bundle_is_a_real_one).needs(&[Need::Crun]),
    test!(bundle_is_what_oci_run_takes),
    test!(bundle_holds_the_specification),
];

fn inspect_prints_an_array_of_dockers_fields(home: &Home) {
    let id = home.ok("run -d --name i -e A=b -w /tmp --label l=1 -p 127.0.0.1::80 busybox sleep 1000");
    let value: serde_json::Value = serde_json::from_str(&home.ok("inspect i")).unwrap();
    let container = &value[0];
    assert_eq!(container["Id"], id);
    assert_eq!(container["Name"].as_str().unwrap().trim_start_matches('/'), "i");
    assert_eq!(container["State"]["Status"], "running");
    assert_eq!(container["State"]["Running"], true);
    assert!(container["State"]["Pid"].as_u64().unwrap() > 1);
    assert_eq!(container["Config"]["WorkingDir"], "/tmp");
    assert_eq!(container["Config"]["Labels"]["l"], "1");
    assert!(container["Config"]["Env"].as_array().unwrap().contains(&"A=b".into()));
    assert_eq!(container["Config"]["Cmd"], serde_json::json!(["sleep", "1000"]));
    assert!(container["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"].is_string());
    for field in ["Created", "Path", "Args", "Image", "HostConfig", "Mounts"] {
        assert!(!container[field].is_null(), "{field}");
    }
}

fn inspect_templates(home: &Home) {
    home.ok("run -d --name i -e A=b busybox sleep 1000");
    for (template, expected) in [
        ("{{.Name}}", "i"),
        ("{{.State.Status}}:{{.State.Running}}", "running:true"),
        ("{{json .Config.Cmd}}", "[\"sleep\",\"1000\"]"),
        ("{{range .Config.Cmd}}<{{.}}>{{end}}", "<sleep><1000>"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{len .Config.Cmd}}", "2"),
        ("{{index .Config.Cmd 1}}", "1000"),
    ] {
        assert_eq!(home.inspect("i", template).trim_start_matches('/'), expected, "{template}");
    }
}

fn inspect_knows_images_and_containers(home: &Home) {
    home.ok("create --name busy busybox");
    let image = home.ok("inspect --type image --format {{.Id}} busybox");
    assert_eq!(image.trim_start_matches("sha256:").len(), 64);
    assert_eq!(home.ok("image inspect --format '{{json .Config.Cmd}}' busybox"), "[\"/bin/sh\"]");
    assert_eq!(home.ok("container inspect --format {{.State.Status}} busy"), "created");
    let value: serde_json::Value = serde_json::from_str(&home.ok("inspect busy busybox")).unwrap();
    assert_eq!(value.as_array().unwrap().len(), 2);
}

fn inspect_of_something_unknown(home: &Home) {
    let finished = home.run("inspect no-such-thing");
    finished.exits(125);
    assert!(finished.stderr().contains("no-such-thing"), "{}", finished.transcript());
    // What is known is printed all the same.
    home.ok("create --name known busybox");
    let finished = home.run("inspect --format {{.Name}} known no-such-thing");
    finished.exits(125);
    assert!(finished.stdout().contains("known"), "{}", finished.transcript());
}

fn ids_may_be_shortened_while_unique(home: &Home) {
    let id = home.ok("create --name a busybox");
    assert_eq!(home.inspect(&id[..8], "{{.Id}}"), id);
    for number in 0..17 {
        home.ok(&format!("create --name n{number} busybox"));
    }
    // Among eighteen ids two begin with the same digit.
    let ids = home.ok("ps -aq --no-trunc");
    let ambiguous =
        ('0'..='9').chain('a'..='f').find(|digit| ids.lines().filter(|id| id.starts_with(*digit)).count() > 1);
    home.run(&format!("inspect {}", ambiguous.unwrap())).exits(125);
    home.run("inspect ''").exits(125);
}

fn top_lists_the_processes(home: &Home) {
    home.ok("run -d --name t busybox sh -c 'sleep 1000 & sleep 2000'");
    crate::support::home::wait_until("both run", || {
        let listed = home.ok("top t");
        listed.contains("sleep 1000") && listed.contains("sleep 2000")
    });
    assert!(home.ok("top t").lines().next().unwrap().contains("PID"));
    home.ok("stop -t 0 t");
    home.fails(125, "top t");
}

fn version_and_info(home: &Home) {
    assert!(home.ok("--version").starts_with("coracle version "), "{}", home.ok("--version"));
    assert!(home.ok("version").contains("Version"));
    let info: serde_json::Value = serde_json::from_str(&home.ok("info --format json")).unwrap();
    assert!(info.is_object());
    assert!(home.ok("info").len() > 100);
}

fn mount_shows_the_root_inside_of_unshare(home: &Home) {
    home.ok("create --name c busybox sh -c 'cat /from-outside'");
    home.fails(125, "mount c");
    let coracle = crate::support::command::binary().display().to_string();
    let script = format!(
        "d=$({coracle} mount c) && ls $d/bin/busybox && echo hello > $d/from-outside && {coracle} mount && {coracle} unmount c && {coracle} mount"
    );
    let shown = home.coracle("unshare sh -c").arg(script).run().ok();
    assert_eq!(shown.lines().count(), 3, "{shown}");
    assert_eq!(home.ok("start -a c"), "hello");
    // Nothing of it is seen outside.
    assert!(home.mounts().is_empty());
    // What it mounts is what the bundle names.
    let place = shown.lines().next().unwrap().strip_suffix("/bin/busybox").unwrap();
    let bundle = std::path::Path::new(place).with_file_name("config.json");
    assert!(std::fs::read_to_string(bundle).unwrap().contains(&format!("\"path\":\"{place}\"")));
}

fn unshare_is_root_of_the_users_ids(home: &Home) {
    assert_eq!(home.ok("unshare id -u"), "0");
    assert!(home.ok("unshare cat /proc/self/uid_map").lines().count() >= 2);
    home.run("unshare sh -c 'exit 7'").exits(7);
    home.write("mine", "x");
    home.ok("unshare chown 1000:1000 mine");
    assert_eq!(home.ok("unshare stat -c %u mine"), "1000");
    home.ok("unshare chown 0:0 mine");
}

fn bundle_holds_the_specification(home: &Home) {
    let id = home.ok("create --name b -e A=b busybox echo from the bundle");
    let file = home.data().join("containers").join(id).join("config.json");
    let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(spec["ociVersion"].is_string());
    assert_eq!(spec["process"]["args"], serde_json::json!(["echo", "from", "the", "bundle"]));
    assert!(spec["linux"]["namespaces"].as_array().unwrap().len() >= 6);
}

fn bundle_is_a_real_one(home: &Home) {
    bundle_is_run_by(home, "crun");
}

fn bundle_is_what_oci_run_takes(home: &Home) {
    bundle_is_run_by(home, &format!("{} oci", crate::support::command::binary().display()));
}

#[track_caller]
fn bundle_is_run_by(home: &Home, runtime: &str) {
    // Its start writes the files that the bundle binds: hosts, hostname.
    assert_eq!(home.ok("run --name b --network none busybox echo from the bundle"), "from the bundle");
    let id = home.inspect("b", "{{.Id}}");
    let bundle = home.data().join("containers").join(&id);
    let root = bundle.join("rootfs-of-its-own");
    // A runtime wants the root file system where config.json says; the layers are laid there by a bind in our namespace.
    let script = format!(
        "cd {0} && sed 's#\"path\": *\"[^\"]*\"#\"path\":\"{1}\"#' config.json > {0}/c.json; mkdir -p {1} && \
         tar -C {1} -xf {2} && mv c.json config.json && {runtime} --root {0}/state run --bundle {0} from-coracle",
        bundle.display(),
        root.display(),
        crate::support::image::busybox_archive().unwrap().display()
    );
    let finished = home.coracle("unshare sh -c").arg(script).run();
    assert_eq!(finished.ok(), "from the bundle");
}
