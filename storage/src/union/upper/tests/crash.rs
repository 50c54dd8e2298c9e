//! Killed or failing at every step: the merged view is the one before or the one after.

use super::scenarios::{SCENARIOS, Scenario};
use super::*;
use crate::union::upper::failpoint::{self, Action};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const ROOT: &str = "CORACLE_TEST_UPPER_ROOT";
const SCENARIO: &str = "CORACLE_TEST_UPPER_SCENARIO";
const PLACE: &str = "CORACLE_TEST_UPPER_PLACE";

/// The views before and after, and the places passed on the way.
fn undisturbed(scenario: &Scenario) -> (View, View, Vec<&'static str>) {
    let fixture = Fixture::new();
    (scenario.prepare)(&fixture);
    let before = fixture.view();
    let upper = fixture.open();
    failpoint::arm(None);
    (scenario.run)(&upper, &fixture).unwrap_or_else(|errno| panic!("{}: {errno}", scenario.name));
    let mut places = failpoint::passed();
    places.sort_unstable();
    places.dedup();
    assert_eq!(fixture.leftovers(), Vec::<String>::new(), "{}", scenario.name);
    (before, fixture.view(), places)
}

/// What a killed process may leave besides: a file under both its names.
fn is_both(view: &View, before: &View, after: &View) -> bool {
    let mut both = before.clone();
    both.extend(after.clone());
    *view == both
}

#[test]
fn every_scenario_changes_the_view_and_leaves_nothing_in_work() {
    for scenario in SCENARIOS {
        let (before, after, _) = undisturbed(scenario);
        let copies = scenario.name.starts_with("copy up");
        assert_eq!(before == after, copies, "{}: {before:#?} {after:#?}", scenario.name);
    }
}

#[test]
fn failure_at_any_step_leaves_no_trace() {
    for scenario in SCENARIOS {
        let (before, after, places) = undisturbed(scenario);
        for place in places.iter().filter(|place| **place != "work.discard") {
            let fixture = Fixture::new();
            (scenario.prepare)(&fixture);
            let upper = fixture.open();
            failpoint::arm(Some((place, Action::Fail(Errno::EDQUOT))));
            let result = (scenario.run)(&upper, &fixture);
            failpoint::arm(None);
            let view = fixture.view();
            let is_whole = view == before || view == after;
            let label = format!("{} failing at {place}: {result:?}", scenario.name);
            assert!(is_whole || scenario.may_show_both && is_both(&view, &before, &after), "{label}: {view:#?}");
            assert_eq!(fixture.leftovers(), Vec::<String>::new(), "{label}");
        }
    }
}

#[test]
fn killed_at_any_step_the_view_is_whole_and_work_is_swept() {
    let program = std::env::current_exe().unwrap();
    for scenario in SCENARIOS {
        let (before, after, places) = undisturbed(scenario);
        for place in places {
            let fixture = Fixture::new();
            (scenario.prepare)(&fixture);
            let status = Command::new(&program)
                .args(["--exact", "union::upper::tests::crash::child", "--test-threads=1", "--nocapture"])
                .env(ROOT, &fixture.root)
                .env(SCENARIO, scenario.name)
                .env(PLACE, place)
                .output()
                .unwrap()
                .status;
            let label = format!("{} killed at {place}", scenario.name);
            assert_eq!(status.signal(), Some(9), "{label}");
            let view = fixture.view();
            let is_whole = view == before || view == after;
            assert!(is_whole || scenario.may_show_both && is_both(&view, &before, &after), "{label}: {view:#?}");
            drop(fixture.open());
            assert_eq!(fixture.leftovers(), Vec::<String>::new(), "{label}");
            assert_eq!(fixture.view(), view, "{label}");
        }
    }
}

/// The process that is killed; alone it does nothing.
#[test]
fn child() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let wanted = std::env::var(SCENARIO).unwrap();
    let fixture = Fixture::at(Path::new(&root));
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == wanted).unwrap();
    let upper = fixture.open();
    failpoint::arm(Some((&std::env::var(PLACE).unwrap(), Action::Kill)));
    (scenario.run)(&upper, &fixture).unwrap();
}

#[test]
fn kernel_overlay_shows_what_we_left() {
    let script = "mount -t overlay overlay -o userxattr,lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work $1/merged \
                  && cd $1/merged && find . -mindepth 1 -printf '%P %y %m %l\\n' | sort";
    for scenario in SCENARIOS {
        let fixture = Fixture::new();
        (scenario.prepare)(&fixture);
        let upper = fixture.open();
        failpoint::arm(None);
        (scenario.run)(&upper, &fixture).unwrap();
        drop(upper);
        fs::create_dir(fixture.path("merged")).unwrap();
        let output = Command::new("unshare")
            .args(["-Urm", "sh", "-c", script, "sh", fixture.root.to_str().unwrap()])
            .output()
            .unwrap();
        // The kernel's own directory is closed to whoever removes ours.
        let _ = fs::set_permissions(fixture.path("work/work"), fs::Permissions::from_mode(0o700));
        if !output.status.success() {
            eprintln!("skipped: needs overlay in a user namespace: {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        let line = |(path, description): (&String, &String)| {
            let words: Vec<&str> = description.split(' ').collect();
            let target = if words[0] == "l" { words[2] } else { "" };
            format!("{path} {} {} {target}", words[0], words[1])
        };
        let mut ours: Vec<String> = fixture.view().iter().map(line).collect();
        ours.sort();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut theirs: Vec<String> = text.lines().map(str::to_owned).collect();
        theirs.sort();
        assert_eq!(ours, theirs, "{}", scenario.name);
    }
}
