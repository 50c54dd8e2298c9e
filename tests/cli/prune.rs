//! The prune commands, and `system df`, which counts what they would free.

use serde_json::Value;

use crate::support::image::{Image, Layer};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(df_tells_what_prune_frees),
    test!(shared_layers_count_once),
    test!(questions_show_what_would_go),
    test!(filters_narrow_what_goes),
    test!(space_comes_back_at_once_when_asked),
    test!(verbose_df_has_podmans_columns),
    test!(bad_filters_are_refused_in_podmans_words),
];

/// `RawSize` and `RawReclaimable` of a row of `system df`.
fn df(home: &Home, kind: &str) -> (u64, u64) {
    let rows: Vec<Value> = serde_json::from_str(&home.ok("system df --format json")).unwrap();
    let row = rows.iter().find(|row| row["Type"] == kind).unwrap_or(&Value::Null);
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    (number("RawSize"), number("RawReclaimable"))
}

/// What `system df` shows as reclaimable, without the percentage.
fn shown(home: &Home, kind: &str) -> String {
    let text = home.ok("system df --format '{{.Type}}|{{.Reclaimable}}'");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{kind}|")).map(str::to_owned)).unwrap();
    line.split(' ').next().unwrap().to_owned()
}

/// A container with files of another user in a closed directory, a volume, and an unused image.
fn fill(home: &Home) {
    let script = "head -c 300000 /dev/zero > /f; mkdir -m 700 /d; head -c 20000 /dev/zero > /d/f; chown -R 9:9 /d; \
                  ln /f /g; head -c 4000 /dev/zero > /v/f; chmod 700 /v; chown 9 /v";
    home.coracle("run --name c -u 0 --network none -v v:/v busybox sh -c").arg(script).run().ok();
    home.ok("run -d --name up --network none busybox sh -c 'echo x > /x; sleep 1000'");
    Image::busybox().layer(Layer::new().file("unused", "0123456789".repeat(1000))).load(home, "localhost/unused");
}

fn df_tells_what_prune_frees(home: &Home) {
    fill(home);
    assert_eq!(df(home, "Containers").1, 320_000);
    let total = |text: String| text.lines().last().unwrap().strip_prefix("Total reclaimed space: ").unwrap().to_owned();
    let containers = shown(home, "Containers");
    assert_eq!(total(home.ok("system prune -f")), containers);
    assert_eq!(df(home, "Containers").1, 0);
    let volumes = df(home, "Local Volumes");
    assert_eq!(volumes, (4000, 4000));
    let images = df(home, "Images").1;
    assert!(images > 10_000, "{images}");
    let (both, shown_images) = (volumes.1 + images, shown(home, "Images"));
    assert!(!shown_images.starts_with('0'));
    let freed = total(home.ok("system prune -a -f --volumes"));
    let expected = home.ok("trash ls --format '{{.Type}} {{.RawSize}}'");
    let sum: u64 = expected
        .lines()
        .filter(|line| !line.starts_with("container"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(sum, both, "{expected} {freed}");
    assert_eq!((df(home, "Images").1, df(home, "Local Volumes").1), (0, 0));
    // It is all in the trash, and comes back from there.
    assert_eq!(df(home, "Trash"), (both + 320_000, both + 320_000));
    assert_eq!(
        home.ok("trash empty -f"),
        format!("Total reclaimed space: {}", {
            let kilobytes = (both + 320_000) as f64 / 1000.0;
            format!("{kilobytes:.1}kB").replace(".0kB", "kB")
        })
    );
    assert_eq!(df(home, "Trash"), (0, 0));
}

fn shared_layers_count_once(home: &Home) {
    let before = df(home, "Images").0;
    let layer = || Layer::new().file("shared", "s".repeat(50_000));
    Image::busybox().layer(layer()).layer(Layer::new().file("one", "1")).load(home, "localhost/one");
    let with_one = df(home, "Images").0;
    Image::busybox().layer(layer()).layer(Layer::new().file("two", "2")).load(home, "localhost/two");
    let with_two = df(home, "Images").0;
    assert!(with_one > before + 50_000 && with_two < with_one + 20_000, "{before} {with_one} {with_two}");
    // A container of one keeps what they share.
    home.ok("create --name c --network none one true");
    let reclaimable = df(home, "Images").1;
    assert!(reclaimable < 20_000, "{reclaimable}");
    home.ok("rmi two busybox");
    assert_eq!(df(home, "Images"), (df(home, "Images").0, 0));
    assert_eq!(df(home, "Trash").1, reclaimable);
}

fn questions_show_what_would_go(home: &Home) {
    fill(home);
    let ask = |line: &str| home.coracle(line).stdin("n\n").run().ok();
    let short = |id: &str| id[..12].to_owned();
    let (container, image) = (short(&home.inspect("c", "{{.Id}}")), short(&home.ok("images -q unused")));
    assert_eq!(
        ask("container prune"),
        format!(
            "WARNING! This will remove all non running containers.\n\t- container c ({container}, 320kB)\nAre you sure \
             you want to continue? [y/N] "
        )
    );
    let images = ask("image prune -a");
    let first = "WARNING! This command removes all images without at least one container associated with them.\n";
    assert!(images.starts_with(&format!("{first}\t- image localhost/unused:latest ({image}, ")), "{images}");
    assert!(!images.contains("busybox"), "{images}");
    let all = ask("system prune --all --volumes");
    for part in ["\n\nThese are:\n", "\t- container c (", "\t- volume v (4kB)\n", "\t- image localhost/unused:latest ("]
    {
        assert!(all.contains(part), "{all}");
    }
    assert_eq!(home.ok("ps -aq").lines().count(), 2);
    let id = home.inspect("c", "{{.Id}}");
    assert!(
        home.coracle("container prune")
            .stdin(
                "y
"
            )
            .run()
            .ok()
            .ends_with(&id)
    );
}

fn filters_narrow_what_goes(home: &Home) {
    home.ok("create --name old --label keep=yes busybox true");
    home.ok("create --name new busybox true");
    home.ok("volume create --label keep=yes kept");
    home.ok("volume create v");
    assert_eq!(home.ok("container prune -f --filter until=1h"), "");
    assert_eq!(home.ok("image prune -af --filter until=2001-01-01T00:00:00Z"), "");
    assert_eq!(home.ok("container prune -f --filter label!=keep=yes").lines().count(), 1);
    assert_eq!(home.ok("ps -a --format {{.Names}}"), "old");
    assert_eq!(home.ok("volume prune -f --filter label!=keep"), "v");
    assert_eq!(home.ok("volume prune -f --filter label=keep=no"), "");
    assert_eq!(home.ok("volume ls -q"), "kept");
    home.ok("system prune -f --volumes --filter label=keep=yes");
    assert_eq!(home.ok("ps -aq") + &home.ok("volume ls -q"), "");
    home.ok("undo");
    assert_eq!(home.ok("ps -a --format {{.Names}}") + &home.ok("volume ls -q"), "oldkept");
}

fn space_comes_back_at_once_when_asked(home: &Home) {
    fill(home);
    home.ok("container prune -f --now");
    home.ok("volume prune -f --now");
    home.ok("image prune -af --now");
    assert_eq!(home.ok("trash ls -q"), "");
    home.ok("create --name d busybox true");
    let removed = home.run("rm d");
    assert_eq!((removed.ok().as_str(), removed.stderr().as_str()), ("d", ""));
    let pruned = home.run("system prune -f --now");
    assert_eq!(home.ok("trash ls -q"), "", "{}", pruned.transcript());
    home.ok("create --name e busybox true");
    let pruned = home.run("container prune -f");
    assert!(pruned.stderr().contains("`coracle undo` brings it back"), "{}", pruned.transcript());
}

fn verbose_df_has_podmans_columns(home: &Home) {
    fill(home);
    let text = home.ok("system df -v");
    let headings: Vec<String> = text
        .lines()
        .filter(|line| line.split("  ").next().is_some_and(|word| word == word.to_uppercase() && !word.is_empty()))
        .filter(|line| line.contains("  "))
        .map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("|"))
        .filter(|line| line.contains("SIZE"))
        .collect();
    assert_eq!(
        headings,
        [
            "REPOSITORY|TAG|IMAGE ID|CREATED|SIZE|SHARED SIZE|UNIQUE SIZE|CONTAINERS",
            "CONTAINER ID|IMAGE|COMMAND|LOCAL VOLUMES|SIZE|CREATED|STATUS|NAMES",
            "VOLUME NAME|LINKS|SIZE"
        ],
        "{text}"
    );
    assert!(text.starts_with("Images space usage:\n\n") && text.contains("\n\nLocal Volumes space usage:\n\n"));
    assert!(text.contains("v            1           4kB"), "{text}");
    assert!(home.refuses("system df -v --format json").contains("cannot combine --format and --verbose flags"));
}

fn bad_filters_are_refused_in_podmans_words(home: &Home) {
    for (line, why) in [
        ("container prune -f --filter foo=bar", "foo is an invalid filter"),
        ("image prune -f --filter foo=bar", "invalid image filter \"foo\": must be in the format"),
        ("volume prune -f --filter foo=bar", "\"foo\" is an invalid volume filter"),
        ("system prune -f --filter foo=bar", "foo is an invalid filter"),
    ] {
        assert!(home.refuses(line).contains(why), "{line}");
    }
}
