//! `doctor`

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(doctor_finds_this_machine_fit).without_image(),
    test!(doctor_speaks_json).without_image(),
    test!(doctor_names_the_remedy).without_image(),
];

fn doctor_finds_this_machine_fit(home: &Home) {
    let table = home.ok("doctor");
    assert!(table.lines().any(|line| line.starts_with("ok ") && line.contains("user namespaces")), "{table}");
}

fn doctor_speaks_json(home: &Home) {
    let report: serde_json::Value = serde_json::from_str(&home.ok("doctor --format json")).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 10);
    for check in checks {
        assert!(check["what"].is_string() && check["state"].is_string(), "{check}");
        assert!(check["state"] == "ok" || check["mend"].is_string(), "{check}");
    }
}

fn doctor_names_the_remedy(home: &Home) {
    let finished = home.coracle("doctor").env("PATH", "/nowhere").run();
    let table = finished.stdout();
    assert!(table.lines().any(|line| line.starts_with("ok") && line.contains("the stack of our own")), "{table}");
    let line = table.lines().find(|line| line.contains("newuidmap")).unwrap_or_else(|| panic!("{table}"));
    assert!(line.starts_with("degraded") && line.contains("mend: ") && line.contains("uidmap"), "{line}");
}
