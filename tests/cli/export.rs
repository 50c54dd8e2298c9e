//! `export`, and what `image tree` and `top` show.

use crate::support::prelude::*;
use crate::support::pty::Terminal;

pub(crate) const TESTS: &[Test] = &[
    test!(stopped_and_running_containers_are_exported_alike).limit_secs(120),
    test!(volumes_and_kernel_file_systems_are_not_part_of_it),
    test!(file_is_written_whole_or_not_at_all),
    test!(terminal_gets_no_archive),
    test!(export_comes_back_by_import),
    test!(tree_of_an_image_shows_layers_and_what_stands_on_them),
    test!(top_knows_the_forms_of_ps),
];

const SCRIPT: &str = "mkdir -p /made/deep; echo kept > /made/deep/file; chown 5:6 /made/deep/file; chmod 4750 /made/deep/file; \
                      rm /etc/hosts; ln -s file /made/deep/link; ln /made/deep/file /made/deep/hard";

/// Entries of a tar: type, mode, owner, size, name, target.
fn entries_of(archive: &std::path::Path) -> Vec<String> {
    let listed = std::process::Command::new("tar")
        .args(["--numeric-owner", "--utc", "-tvf"])
        .arg(archive)
        .output()
        .expect("tar is there");
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (mode, owner, size) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            format!("{mode} {owner} {size} {}", words.skip(2).collect::<Vec<_>>().join(" "))
        })
        .collect()
}

fn stopped_and_running_containers_are_exported_alike(home: &Home) {
    for driver in ["overlay", "fuse", "overlay-fuse"] {
        for userns in ["host", "keep-id", "single"] {
            let start =
                format!("--storage-driver {driver} run -d --name c -u 0 --network none --userns {userns} busybox");
            let begun = home.coracle(&start).arg("sh").arg("-c").arg(format!("{SCRIPT}; echo done; sleep 1000")).run();
            if driver == "overlay-fuse" && begun.code() != 0 {
                continue;
            }
            begun.ok();
            crate::support::home::wait_until("it is done", || home.ok("logs c") == "done");
            let (running, stopped) = (home.tmp().join("running.tar"), home.tmp().join("stopped.tar"));
            home.coracle("export c -o").arg(&running).run().ok();
            home.ok("stop -t 0 c");
            home.coracle(&format!("--storage-driver {driver} export -o")).arg(&stopped).arg("c").run().ok();
            let entries = entries_of(&running);
            for wanted in [
                "-rwsr-x--- 5/6 5 made/deep/file",
                "lrwxrwxrwx 0/0 0 made/deep/link -> file",
                "drwxr-xr-x 0/0 0 made/deep/",
            ] {
                assert!(entries.iter().any(|entry| entry == wanted), "{driver} {userns}: {wanted}: {entries:#?}");
            }
            assert!(entries.iter().any(|entry| entry.contains("made/deep/hard")), "{driver} {userns}");
            assert!(
                !entries.iter().any(|entry| entry.contains("/.wh.") || entry.contains(" proc/s")),
                "{driver} {userns}"
            );
            assert_eq!(entries, entries_of(&stopped), "{driver} {userns}");
            home.ok("rm c");
        }
    }
}

fn volumes_and_kernel_file_systems_are_not_part_of_it(home: &Home) {
    home.ok("run -d --name c --network none -v v:/v --tmpfs /t busybox sh -c 'echo x > /v/f; echo x > /t/f; echo ok; sleep 1000'");
    crate::support::home::wait_until("it is done", || home.ok("logs c") == "ok");
    let archive = home.tmp().join("c.tar");
    home.coracle("export -o").arg(&archive).arg("c").run().ok();
    let entries = entries_of(&archive);
    for hidden in [" v/f", " t/f", " proc/1", " sys/kernel", " dev/null"] {
        assert!(!entries.iter().any(|entry| entry.contains(hidden)), "{hidden}");
    }
    assert!(entries.iter().any(|entry| entry.ends_with(" bin/busybox")), "{entries:#?}");
    home.ok("exec c cat /v/f");
}

fn file_is_written_whole_or_not_at_all(home: &Home) {
    home.ok("create --name c busybox true");
    let path = home.write("old.tar", "old");
    assert!(home.refuses(&format!("export nosuch -o {}", path.display())).contains("no such container"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    home.ok(&format!("container export c -o {}", path.display()));
    assert!(entries_of(&path).len() > 3);
    let refused = home.refuses("export c -o /no/such/dir/x.tar");
    assert!(refused.contains("/no/such/dir/x.tar"), "{refused}");
    assert!(home.refuses("export").contains("CONTAINER") || home.run("export").code() == 125);
    home.ok("rm c");
}

fn terminal_gets_no_archive(home: &Home) {
    home.ok("create --name c busybox true");
    let mut terminal = Terminal::start(home.coracle("export c"));
    terminal.expect("refusing to export to terminal. Use -o flag or redirect");
    assert_eq!(terminal.wait(), 125);
    home.ok("rm c");
}

fn export_comes_back_by_import(home: &Home) {
    home.coracle("run --name c -u 0 --network none busybox sh -c").arg(SCRIPT).run().ok();
    let archive = home.run("export c").out;
    home.coracle("import -q - localhost/again").stdin(&archive).run().ok();
    let script = "stat -c '%u:%g %a' /made/deep/hard; cat /made/deep/link";
    assert_eq!(home.coracle("run --rm --network none again sh -c").arg(script).run().ok(), "5:6 4750\nkept");
}

fn tree_of_an_image_shows_layers_and_what_stands_on_them(home: &Home) {
    use crate::support::image::{Image, Layer};
    Image::busybox().layer(Layer::new().file("one", "1")).load(home, "localhost/one");
    home.ok("tag one localhost/uno:2");
    let text = home.ok("image tree one");
    let id = home.ok("images -q one");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(format!("Image ID: {id}").as_str()));
    let tags = lines.next().unwrap();
    assert!(tags.starts_with("Tags:     [") && tags.contains("localhost/uno:2"), "{text}");
    assert!(lines.next().unwrap().starts_with("Size:     "));
    assert_eq!(lines.next(), Some("Image Layers"));
    assert!(lines.next().unwrap().starts_with("├── ID: "), "{text}");
    let top = lines.next().unwrap();
    assert!(top.starts_with("└── ID: ") && top.contains("kB Top Layer of: [localhost/"), "{text}");
    assert_eq!(lines.next(), None);
    assert!(home.refuses("image tree nosuch").contains("nosuch: image not known"));
}

fn top_knows_the_forms_of_ps(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    let full = home.ok("top c -ef");
    let mut lines = full.lines();
    assert_eq!(lines.next(), Some("UID          PID    PPID  C STIME TTY          TIME CMD"));
    let line = lines.next().unwrap();
    assert!(
        line.starts_with("root           1       0  0 ") && line.ends_with(" ?        00:00:00 sleep 1000"),
        "{full}"
    );
    let user = home.ok("top c aux");
    let mut lines = user.lines();
    assert_eq!(lines.next(), Some("USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND"));
    let line = lines.next().unwrap();
    assert!(line.starts_with("root           1  0.0  0.0 ") && line.ends_with("   0:00 sleep 1000"), "{user}");
    assert!(line.contains(" ?        Ss   "), "{user}");
    let ids = home.ok("top c huid,groups,hgroups");
    assert!(ids.starts_with("HUID        GROUPS      HGROUPS\n"), "{ids}");
}
