//! Runs scenarios on both and compares.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::driver::{Driver, Kind, perform};
use crate::engine::{Engine, left_in_work};
use crate::kernel::Kernel;
use crate::scenario::{How, Model, Operation, SLOTS, Scenario};
use crate::tree::{OnDisk, Tree, differences, make_layer, read_tree};

/// How long the seeds of an ordinary run may take.
const TIME: Duration = Duration::from_secs(20);

/// Runs one of the ignored tests below as root of a user namespace with many ids. True if the machine could.
fn run_in_namespace(test: &str) {
    const NAMESPACES: [&str; 5] = ["--user", "--map-root-user", "--map-auto", "--mount", "--fork"];
    if !Command::new("unshare").args(NAMESPACES).arg("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: needs unshare(1), user namespaces and subordinate ids");
        return;
    }
    let exe = std::env::current_exe().expect("path of the test");
    let test = format!("model::{test}");
    let mut command = Command::new("unshare");
    command.args(NAMESPACES).arg(exe).args(["--exact", &test, "--ignored", "--nocapture"]);
    let output = command.output().expect("unshare");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    print!("{errors}");
}

#[test]
fn every_answer_and_every_tree_is_that_of_the_kernels_overlay() {
    run_in_namespace("inside_seeds");
}

#[test]
fn what_failed_once_holds() {
    run_in_namespace("inside_regressions");
}

#[test]
#[ignore = "runs in a user namespace"]
fn inside_seeds() {
    let place = place();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, count) = match (number("UNION_SEED"), number("UNION_SEEDS")) {
        (Some(seed), count) => (seed, count.unwrap_or(1)),
        (None, count) => (0, count.unwrap_or(u64::MAX)),
    };
    let started = Instant::now();
    let mut seed = first;
    while seed - first < count && (count != u64::MAX || started.elapsed() < TIME) {
        check_or_shrink(&Scenario::from_seed(seed), &place, &format!("seed {seed}"));
        seed += 1;
    }
    eprintln!("{} scenarios in {:.1} s", seed - first, started.elapsed().as_secs_f64());
}

#[test]
#[ignore = "runs in a user namespace"]
fn inside_regressions() {
    let place = place();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/union/regressions");
    for entry in fs::read_dir(dir).expect("it is part of the source").flatten() {
        let text = fs::read(entry.path()).expect("it is readable");
        let scenario = serde_json::from_slice(&text).expect("it is a scenario");
        check_or_shrink(&scenario, &place, &entry.path().display().to_string());
    }
}

/// A tmpfs: what else the machine has may refuse xattrs.
fn place() -> PathBuf {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("mounts are ours");
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs can be mounted");
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    PathBuf::from("/tmp")
}

fn check_or_shrink(scenario: &Scenario, place: &Path, what: &str) {
    let Err(first) = check(scenario, place) else { return };
    let deadline = Instant::now() + Duration::from_secs(60);
    let smaller =
        scenario.clone().smaller(&mut |candidate| Instant::now() < deadline && check(candidate, place).is_err());
    let last = check(&smaller, place).err().unwrap_or(first);
    let text = serde_json::to_string_pretty(&smaller).expect("plain data");
    panic!("{what}:\n{last}\n\nthe scenario, for storage/tests/union/regressions/:\n{text}\n");
}

/// Runs one scenario; what went wrong, as text.
fn check(scenario: &Scenario, place: &Path) -> Result<(), String> {
    let stage = place.join("stage");
    fs::create_dir(&stage).expect("the place is ours");
    mount(Some("tmpfs"), &stage, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs can be mounted");
    let run = catch_unwind(AssertUnwindSafe(|| run(scenario, &stage)));
    // A failure leaves mounts behind.
    let _ = umount2(&stage.join("kernel/merged"), MntFlags::MNT_DETACH);
    let _ = umount2(&stage.join("ours/merged"), MntFlags::MNT_DETACH);
    let _ = umount2(&stage, MntFlags::MNT_DETACH);
    fs::remove_dir(&stage).expect("it is empty again");
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!(
            "panic: {}",
            text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        ))
    })
}

/// Mounts the kernel's overlay with this upper directory.
fn mount_kernel(layers: &[OnDisk], place: &Path) -> Kernel {
    let lowers: Vec<_> = layers.iter().rev().map(|layer| layer.diff.display().to_string()).collect();
    let data =
        format!("userxattr,lowerdir={},upperdir={p}/upper,workdir={p}/work", lowers.join(":"), p = place.display());
    let merged = place.join("merged");
    let mounted = mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(data.as_str()));
    mounted.unwrap_or_else(|errno| panic!("overlay {data}: {errno}"));
    Kernel::new(&merged)
}

/// The merged tree in a directory.
fn copy_to_directory(layers: &[OnDisk], place: &Path) -> Kernel {
    let kernel = mount_kernel(layers, place);
    let copy = place.join("copy");
    // Complains of whiteouts that overlay lists where only one layer has the directory, and copies the rest.
    Command::new("cp").arg("-a").arg(kernel.path()).arg(&copy).output().expect("cp");
    unmount(kernel);
    Kernel::new(&copy)
}

fn mount_tool(tool: &str, layers: &[OnDisk], place: &Path) -> Kernel {
    let lowers: Vec<_> = layers.iter().rev().map(|layer| layer.diff.display().to_string()).collect();
    let data = format!("lowerdir={},upperdir={p}/upper,workdir={p}/work", lowers.join(":"), p = place.display());
    let words: Vec<_> = tool.split_whitespace().collect();
    let merged = place.join("merged");
    let mounted = Command::new(words[0]).args(&words[1..]).args(["-o", &data]).arg(&merged).status();
    assert!(mounted.is_ok_and(|status| status.success()), "{tool} {data}");
    Kernel::new(&merged)
}

fn make_place(place: &Path) {
    for name in ["upper", "work", "merged"] {
        fs::create_dir_all(place.join(name)).expect("the stage is ours");
    }
}

fn unmount(kernel: Kernel) {
    let path = kernel.path().to_owned();
    drop(kernel);
    umount2(&path, MntFlags::empty()).expect("nothing uses the mount");
}

fn mount_ours(layers: &[OnDisk], place: &Path, scenario: &Scenario) -> Ours {
    match std::env::var("UNION_TOOL") {
        Ok(tool) => Ours::Mounted(mount_tool(&tool, layers, place)),
        Err(_) => Ours::Engine(Box::new(Engine::new(layers, place, scenario.keeps_references))),
    }
}

enum Ours {
    Engine(Box<Engine>),
    Mounted(Kernel),
}

impl Ours {
    fn driver(&mut self) -> &mut dyn Driver {
        match self {
            Self::Engine(engine) => engine.as_mut(),
            Self::Mounted(kernel) => kernel,
        }
    }

    fn end(self) {
        match self {
            Self::Engine(engine) => drop(engine),
            Self::Mounted(kernel) => {
                unmount(kernel);
                // Its server ends a little later, and may still hold the upper directory.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The kernel's own overlay, as the tool that checks this test, keeps its numbers less well.
fn skips_numbers() -> bool {
    std::env::var_os("UNION_SKIP_NUMBERS").is_some()
}

fn run(scenario: &Scenario, stage: &Path) -> Result<(), String> {
    let layers: Vec<_> =
        scenario.layers.iter().enumerate().map(|(number, layer)| make_layer(layer, stage, number)).collect();
    let (theirs_place, ours_place) = (stage.join("kernel"), stage.join("ours"));
    make_place(&theirs_place);
    make_place(&ours_place);
    let mut theirs = match scenario.model {
        Model::Overlay => mount_kernel(&layers, &theirs_place),
        Model::Directory => copy_to_directory(&layers, &theirs_place),
    };
    let mut ours = mount_ours(&layers, &ours_place, scenario);

    read_and_compare(&mut theirs, ours.driver(), "before the first operation")?;
    let mut numbers = numbers_of(ours.driver());
    for (number, operation) in scenario.operations.iter().enumerate() {
        if scenario.model == Model::Directory && matches!(operation, Operation::MakeWhiteout { .. }) {
            // Which is a device as any other there.
            continue;
        }
        let what = || format!("operation {number}, {operation:?}");
        let mut expected = perform(&mut theirs, operation, number);
        if let (Err(Errno::EXDEV), Operation::Rename { from, to, .. }) = (&expected, operation)
            && (has_links(&mut theirs, from) || has_links(&mut theirs, to))
        {
            // `mv` would make copies of what we keep one file.
            continue;
        }
        let answer = perform(ours.driver(), operation, number);
        if expected == Err(Errno::EXDEV) {
            // What is open goes on to be the moved file with us, and not with `mv`.
            for slot in 0..SLOTS {
                theirs.release(slot);
                ours.driver().release(slot);
            }
        }
        if let (Err(Errno::EXDEV), Operation::Rename { from, to, how }) = (&expected, operation) {
            // The kernel cannot rename directories of layers without writing redirects, which a user may not.
            expected = match &answer {
                Ok(_) => move_by_copy(&mut theirs, from, to, *how).map(|()| String::new()),
                // A directory that is too large, or one that has more than data.
                Err(errno) => Err(*errno),
            };
        }
        if expected != answer {
            return Err(format!("{}\n    kernel {expected:?}\n    ours   {answer:?}", what()));
        }
        let after = numbers_of(ours.driver());
        let checked = if skips_numbers() { Ok(()) } else { check_numbers(&numbers, &after, operation) };
        checked.map_err(|text| format!("{}\n    {text}", what()))?;
        numbers = after;
    }
    for slot in 0..SLOTS {
        theirs.release(slot);
        ours.driver().release(slot);
    }
    let before = read_and_compare(&mut theirs, ours.driver(), "after the last operation")?;
    if scenario.model == Model::Overlay {
        unmount(theirs);
    }
    ours.end();
    let left = left_in_work(&ours_place);
    if !left.is_empty() && std::env::var_os("UNION_TOOL").is_none() {
        return Err(format!("left in the work directory: {left:?}"));
    }

    // The same union mounted again has the same tree and the same numbers.
    let mut ours = mount_ours(&layers, &ours_place, scenario);
    let again = read_tree(ours.driver());
    ours.end();
    if skips_numbers() {
        report(&without_links(&before), &without_links(&again), "the tool's, mounted again")?;
    } else {
        report(&before, &again, "ours, mounted again")?;
    }
    // Links, pipes and sockets can have no xattr that says what they were copied from.
    let lasts = |path: &str| before.nodes[path].has_xattrs();
    let moved: Vec<_> =
        before.numbers.iter().filter(|(path, number)| lasts(path) && again.numbers[*path] != **number).collect();
    if !moved.is_empty() && !skips_numbers() {
        return Err(format!("numbers that did not outlive the mount: {moved:?}"));
    }

    // Each upper directory under the other driver.
    let mut swapped = mount_kernel(&layers, &ours_place);
    let seen = read_tree(&mut swapped);
    unmount(swapped);
    report(&without_links(&before), &without_links(&seen), "our upper directory under the kernel's overlay")?;
    if scenario.model == Model::Directory {
        return Ok(());
    }
    let mut swapped = mount_ours(&layers, &theirs_place, scenario);
    let seen = read_tree(swapped.driver());
    swapped.end();
    report(&without_links(&before), &without_links(&seen), "the kernel's upper directory under ours")
}

/// Without what a driver that keeps no index of the upper directory cannot know: that a file copied up had other names.
fn without_links(tree: &Tree) -> Tree {
    let mut nodes = tree.nodes.clone();
    nodes.values_mut().for_each(crate::tree::Node::forget_links);
    Tree { nodes, numbers: BTreeMap::new(), lies: Vec::new() }
}

fn report(left: &Tree, right: &Tree, what: &str) -> Result<(), String> {
    let mut lines = differences(left, right);
    lines.extend(right.lies.iter().cloned());
    if lines.is_empty() { Ok(()) } else { Err(format!("{what}:\n{}", lines.join("\n"))) }
}

fn read_and_compare(theirs: &mut dyn Driver, ours: &mut dyn Driver, what: &str) -> Result<Tree, String> {
    let (mut left, right) = (read_tree(theirs), read_tree(ours));
    // The kernel's overlay shows two numbers for one file whose other name was in use when it was copied up.
    // It also counts names in a layer that are hidden; ours may count those that can be seen.
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    right.nodes.values().for_each(|node| *seen.entry(node.first_name()).or_default() += 1);
    for (path, node) in &mut left.nodes {
        if let Some(other) = right.nodes.get(path) {
            node.take_names(other, seen[other.first_name()]);
        }
    }
    report(&left, &right, what).map(|()| right)
}

fn numbers_of(driver: &mut dyn Driver) -> BTreeMap<String, u64> {
    fn walk(driver: &mut dyn Driver, dir: &str, numbers: &mut BTreeMap<String, u64>) {
        for (name, kind, _) in driver.list(dir).unwrap_or_default() {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            // What can have no xattr is known by its number only as long as somebody remembers it.
            let is_kept = matches!(kind, Kind::File | Kind::Directory);
            if let (true, Ok(number)) = (is_kept, driver.number(&path)) {
                numbers.insert(path.clone(), number);
            }
            if kind == Kind::Directory {
                walk(driver, &path, numbers);
            }
        }
    }
    let mut numbers = BTreeMap::new();
    walk(driver, "", &mut numbers);
    numbers
}

/// No operation gives a file that stays where it is another number.
fn check_numbers(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    operation: &Operation,
) -> Result<(), String> {
    if matches!(operation, Operation::Rename { .. }) {
        return Ok(());
    }
    let changed: Vec<_> =
        before.iter().filter(|(path, number)| after.get(*path).is_some_and(|other| other != *number)).collect();
    if changed.is_empty() { Ok(()) } else { Err(format!("other numbers than before: {changed:?}")) }
}

/// True if a file in this tree has another name.
fn has_links(driver: &mut dyn Driver, path: &str) -> bool {
    match driver.status(path) {
        Ok(status) if status.kind == Kind::Directory => {
            let entries = driver.list(path).unwrap_or_default();
            entries.iter().any(|(name, _, _)| has_links(driver, &format!("{path}/{name}")))
        }
        Ok(status) => status.nlink > 1,
        Err(_) => false,
    }
}

/// A directory that cp(1) makes in a setgid one stays setgid.
fn set_modes(driver: &mut dyn Driver, from: &str, to: &str) -> Result<(), Errno> {
    let status = driver.status(from)?;
    if status.kind != Kind::Symlink && driver.status(to)?.mode != status.mode {
        driver.change_mode(to, status.mode)?;
    }
    if status.kind == Kind::Directory {
        for (name, _, _) in driver.list(from)? {
            set_modes(driver, &format!("{from}/{name}"), &format!("{to}/{name}"))?;
        }
    }
    Ok(())
}

/// `mv` as it goes on after `EXDEV`.
fn move_by_copy(theirs: &mut Kernel, from: &str, to: &str, how: How) -> Result<(), Errno> {
    if how == How::Exchange {
        let between = "exchanged-between";
        move_by_copy(theirs, from, between, How::Plain)?;
        move_by_copy(theirs, to, from, How::Plain)?;
        return move_by_copy(theirs, between, to, How::Plain);
    }
    if theirs.status(to).is_ok() {
        // rename(2) replaces an empty directory.
        theirs.remove_directory(to)?;
    }
    let root = theirs.path().to_owned();
    // As above: it complains of what overlay lists and does not have.
    Command::new("cp").arg("-a").arg(root.join(from)).arg(root.join(to)).output().expect("cp");
    set_modes(theirs, from, to)?;
    crate::driver::remove_tree(theirs, from)
}
