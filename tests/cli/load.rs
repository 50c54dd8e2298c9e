//! `load`, `save`, `import`, and the store as others read it

use std::fs;
use std::process::Command;

use crate::support::image::{Image, Layer, Packing, plain_tar};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::registry::{run_program, tool};

pub(crate) const TESTS: &[Test] = &[
    test!(load_reads_a_docker_archive_from_file_and_stdin),
    test!(load_reads_an_oci_archive),
    test!(load_reads_compressed_archives),
    test!(load_takes_the_platform_asked_for),
    test!(save_and_load_bring_the_same_image),
    test!(save_of_several_images),
    test!(save_refuses_a_terminal),
    test!(import_reads_any_compression),
    test!(import_takes_changes),
    test!(archives_that_are_broken_are_one_line),
    test!(archives_with_names_that_lead_out_are_refused),
    test!(store_is_an_oci_layout_for_skopeo).needs(&[Need::Skopeo]),
    test!(umoci_unpacks_what_is_saved_and_stored_and_writes_what_is_pulled).needs(&[Need::Umoci]),
    test!(layers_are_rebuilt_from_blobs),
    test!(saved_image_is_readable_by_skopeo).needs(&[Need::Skopeo]),
];

fn sample() -> Image {
    Image::busybox().layer(Layer::new().file("sample", "sample"))
}

fn load_reads_a_docker_archive_from_file_and_stdin(home: &Home) {
    let archive = sample().docker_archive("localhost/a:1");
    let file = home.write("a.tar", &archive);
    let printed = home.coracle("load -i").arg(&file).run().ok();
    assert!(printed.contains("Loaded image: localhost/a:1"), "{printed}");
    home.coracle("load -q").stdin(sample().docker_archive("localhost/b:1")).run().ok();
    assert_eq!(home.ok("run --rm b:1 cat /sample"), "sample");
    let id = home.ok("image inspect --format {{.Id}} a:1");
    assert_eq!(id.trim_start_matches("sha256:"), sample().id());
}

fn oci_archive(home: &Home, tag: &str, packing: Packing) -> std::path::PathBuf {
    let mut blobs = Blobs::default();
    blobs.add(tag, &sample(), packing, Schema::Oci);
    let dir = home.tmp().join(format!("layout-{packing:?}"));
    blobs.write(&dir);
    let file = home.tmp().join(format!("{packing:?}.oci.tar"));
    run_program(Command::new("tar").arg("-C").arg(&dir).arg("-cf").arg(&file).arg("."));
    file
}

fn load_reads_an_oci_archive(home: &Home) {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let name = format!("localhost/oci:{packing:?}").to_lowercase();
        let file = oci_archive(home, &name, packing);
        home.coracle("load -q -i").arg(&file).run().ok();
        assert_eq!(home.ok(&format!("run --rm {name} cat /sample")), "sample");
        let reference = format!("oci-archive:{}", file.display());
        home.coracle("pull -q").arg(reference).run().ok();
    }
}

fn load_reads_compressed_archives(home: &Home) {
    let archive = sample().docker_archive("localhost/gz:1");
    for packing in [Packing::Gzip, Packing::Zstd] {
        let file = home.write("packed", crate::support::image::pack(&archive, packing));
        home.coracle("load -q -i").arg(file).run().ok();
        assert_eq!(home.ok("run --rm gz:1 cat /sample"), "sample");
        home.ok("rmi gz:1");
    }
}

fn load_takes_the_platform_asked_for(home: &Home) {
    let mut blobs = Blobs::default();
    let other = Image { architecture: "s390x".to_owned(), ..sample() };
    blobs.add_index("localhost/both:1", &[sample(), other]);
    let dir = home.tmp().join("both");
    blobs.write(&dir);
    home.coracle("load -q --platform linux/s390x -i").arg(&dir).run().ok();
    assert_eq!(home.ok("image inspect --format {{.Architecture}} both:1"), "s390x");
    home.coracle("load -q -i").arg(&dir).run().ok();
    assert_ne!(home.ok("image inspect --format {{.Architecture}} both:1"), "s390x");
    assert!(home.coracle("load --platform linux/mips -i").arg(&dir).run().fails(125).contains("linux/mips"));
    assert!(home.coracle("load --platform / -i").arg(&dir).run().fails(125).contains("invalid platform"));
}

fn save_and_load_bring_the_same_image(home: &Home) {
    sample().load(home, "localhost/s:1");
    let id = home.ok("image inspect --format {{.Id}} s:1");
    for format in ["docker-archive", "oci-archive"] {
        let file = home.tmp().join(format);
        home.coracle(&format!("save -q --format {format} -o")).arg(&file).arg("s:1").run().ok();
        home.ok("rmi s:1");
        home.coracle("load -q -i").arg(&file).run().ok();
        assert_eq!(home.ok("image inspect --format {{.Id}} s:1"), id, "{format}");
        assert_eq!(home.ok("run --rm s:1 cat /sample"), "sample");
    }
    let piped = home.run("save s:1");
    piped.exits(0);
    home.ok("rmi s:1");
    home.coracle("load").stdin(&piped.out).run().ok();
    assert_eq!(home.ok("image inspect --format {{.Id}} s:1"), id);
}

fn save_of_several_images(home: &Home) {
    sample().load(home, "localhost/s:1");
    let file = home.tmp().join("both.tar");
    home.coracle("save -o").arg(&file).arg("s:1").arg("busybox").run().ok();
    home.ok("rmi s:1 busybox");
    home.coracle("load -i").arg(&file).run().ok();
    home.ok("run --rm s:1 true");
    home.ok("run --rm busybox true");
}

fn save_refuses_a_terminal(home: &Home) {
    let mut terminal = crate::support::pty::Terminal::start(home.coracle("save busybox"));
    assert_eq!(terminal.wait(), 125);
}

fn import_reads_any_compression(home: &Home) {
    let tar = fs::read(crate::support::image::busybox_archive().unwrap()).unwrap();
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let bytes = crate::support::image::pack(&tar, packing);
        home.coracle("import - localhost/imported").stdin(&bytes).run().ok();
        assert_eq!(home.ok("run --rm imported echo yes"), "yes");
    }
}

fn import_takes_changes(home: &Home) {
    let archive = crate::support::image::busybox_archive().unwrap();
    let changes = "import --change 'CMD [\"echo\", \"changed\"]' -c ENV=X=y --change 'WORKDIR /etc' --message hello";
    let finished = home.coracle(changes).arg(&archive).arg("localhost/changed").run();
    finished.exits(0);
    assert_eq!(home.ok("run --rm changed"), "changed");
    assert_eq!(home.ok("run --rm changed pwd"), "/etc");
    home.coracle("import --change 'NOSUCH x'").arg(archive).arg("localhost/y").run().fails(125);
}

fn archives_that_are_broken_are_one_line(home: &Home) {
    let good = sample().docker_archive("localhost/a:1");
    let cases: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("text", b"this is no archive\n".repeat(100)),
        ("cut", good[..good.len() / 2].to_vec()),
        ("no manifest", plain_tar([("x", b"y".as_slice())].into_iter())),
        ("bad json", plain_tar([("manifest.json", b"[{".as_slice())].into_iter())),
        (
            "no config",
            plain_tar(
                [("manifest.json", br#"[{"Config":"c","RepoTags":["a:1"],"Layers":[]}]"#.as_slice())].into_iter(),
            ),
        ),
    ];
    for (name, bytes) in cases {
        let file = home.write("broken.tar", bytes);
        let finished = home.coracle("load -i").arg(file).run();
        assert!(!finished.fails(125).is_empty(), "{name}");
    }
    home.fails(125, "load -i /no/such/file");
    home.fails(125, "import /no/such/file localhost/x");
    assert_eq!(home.ok("images -q").lines().count(), 1, "nothing of them is kept");
}

fn archives_with_names_that_lead_out_are_refused(home: &Home) {
    let secret = home.write("secret.json", "{}");
    for config in ["../secret.json", secret.to_str().unwrap(), "a/../../secret.json"] {
        let manifest = serde_json::json!([{"Config": config, "RepoTags": ["localhost/x:1"], "Layers": []}]).to_string();
        let file = home.write("d/out.tar", plain_tar([("manifest.json", manifest.as_bytes())].into_iter()));
        home.coracle("load -i").arg(file).run().fails(125);
    }
}

fn store_is_an_oci_layout_for_skopeo(home: &Home) {
    sample().load(home, "localhost/s:1");
    let store = format!("oci:{}:localhost/s:1", home.data().join("images").display());
    let printed = run_program(Command::new(tool("skopeo")).args(["inspect", &store]));
    let inspected: serde_json::Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2);
    let copy = format!("oci:{}:copy", home.tmp().join("copy").display());
    run_program(Command::new(tool("skopeo")).args(["copy", "--quiet", "--insecure-policy", &store, &copy]));
}

fn layers_are_rebuilt_from_blobs(home: &Home) {
    sample().load(home, "localhost/s:1");
    home.ok(&format!("unshare rm -rf {}", home.data().join("layers").display()));
    assert_eq!(home.ok("run --rm s:1 cat /sample"), "sample");
}

fn saved_image_is_readable_by_skopeo(home: &Home) {
    sample().load(home, "localhost/s:1");
    for format in ["docker-archive", "oci-archive"] {
        let file = home.tmp().join(format);
        home.coracle(&format!("save -q --format {format} -o")).arg(&file).arg("s:1").run().ok();
        let source = format!("{format}:{}", file.display());
        run_program(Command::new(tool("skopeo")).args(["inspect", &source]));
    }
}

fn umoci_unpacks_what_is_saved_and_stored_and_writes_what_is_pulled(home: &Home) {
    sample().load(home, "localhost/sample:1");
    let saved = home.tmp().join("saved");
    home.coracle("save -q --format oci-dir -o").arg(&saved).arg("sample:1").run().ok();
    let umoci = |words: &[&str]| {
        let output = run_program(Command::new(tool("umoci")).args(words).env("HOME", home.path()));
        String::from_utf8_lossy(&output).into_owned()
    };
    // What was saved, and the store itself.
    for (number, layout) in [&saved, &home.data().join("images")].into_iter().enumerate() {
        let layout = layout.display().to_string();
        assert!(umoci(&["ls", "--layout", &layout]).lines().any(|line| line == "localhost/sample:1"));
        let bundle = home.tmp().join(format!("bundle{number}"));
        let image = format!("{layout}:localhost/sample:1");
        umoci(&["unpack", "--rootless", "--image", &image, &bundle.display().to_string()]);
        assert_eq!(fs::read(bundle.join("rootfs/sample")).unwrap(), b"sample");
    }
    let image = |tag: &str| format!("{}:{tag}", saved.display());
    umoci(&["config", "--image", &image("localhost/sample:1"), "--tag", "new", "--config.env", "FROM=umoci"]);
    let id = home.ok(&format!("pull -q oci:{}", image("new")));
    assert_eq!(home.ok(&format!("run --rm {id} sh -c 'cat /sample; echo $FROM'")), "sampleumoci");
    assert_eq!(home.ok("system check"), "");
}
