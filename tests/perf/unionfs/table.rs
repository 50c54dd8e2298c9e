//! Medians, ratios, verdicts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::cases::{Case, Limit};
use crate::mounts::Driver;

/// Slower than this against fuse-overlayfs no row may be, whatever its own figure.
const SLOWEST: f64 = 1.0 / 1.05;

/// All times of a run.
pub(crate) struct Table {
    drivers: Vec<Driver>,
    times: BTreeMap<&'static str, BTreeMap<Driver, Vec<f64>>>,
    /// Ours to the kernel's in the warm rows.
    warm: Vec<f64>,
    failed: Vec<&'static str>,
    below_goal: Vec<&'static str>,
}

impl Table {
    pub(crate) fn new(drivers: &[Driver]) -> Self {
        println!(
            "{:<32} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>6} {:>9}  verdict",
            "row, medians in ms", "plain", "native", "fuse-ovl", "ours", "ratio", "must", "goal", "[native]"
        );
        Self {
            drivers: drivers.to_vec(),
            times: BTreeMap::new(),
            warm: Vec::new(),
            failed: Vec::new(),
            below_goal: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: &'static str, driver: Driver, time: Duration) {
        self.times.entry(row).or_default().entry(driver).or_default().push(time.as_secs_f64() * 1000.0);
    }

    fn median(&self, row: &str, matches: impl Fn(Driver) -> bool) -> Option<f64> {
        let times = self.times.get(row)?.iter().find(|(driver, _)| matches(**driver))?.1;
        let mut times = times.clone();
        times.sort_by(f64::total_cmp);
        let middle = times.len() / 2;
        Some(if times.len().is_multiple_of(2) {
            f64::midpoint(times[middle - 1], times[middle])
        } else {
            times[middle]
        })
    }

    pub(crate) fn print_row(&mut self, case: &Case) {
        let of = |driver| self.median(case.name, |other| other == driver);
        let (plain, native, peer) = (of(Driver::Plain), of(Driver::Native), of(Driver::Peer));
        let ours = self.median(case.name, Driver::is_ours);
        let divide = |above: Option<f64>, below: Option<f64>| Some(above? / below?);
        let (ratio, to_native) = (divide(peer, ours), divide(ours, native));
        let must = case.must.map(|must| must.max(SLOWEST));
        let verdict = match (ratio, must) {
            (Some(ratio), Some(must)) if ratio < must => {
                self.failed.push(case.name);
                "FAIL"
            }
            (Some(ratio), _) if case.goal.is_some_and(|goal| ratio < goal) => {
                self.below_goal.push(case.name);
                "must"
            }
            (Some(_), _) => "goal",
            (None, _) => "",
        };
        if case.native_goal.is_some() {
            self.warm.extend(to_native);
        }
        let number = |value: Option<f64>, digits| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        println!(
            "{:<32} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>6} {:>9}  {verdict}",
            case.name,
            number(plain, 1),
            number(native, 1),
            number(peer, 1),
            number(ours, 1),
            number(ratio, 2),
            number(case.must, 1),
            number(case.goal, 1),
            to_native.map_or(String::new(), |value| format!("[{value:.2}]")),
        );
    }

    pub(crate) fn print_limit(&mut self, limit: &Limit, values: &[(Driver, f64)]) {
        let of =
            |matches: fn(Driver) -> bool| values.iter().find(|(driver, _)| matches(*driver)).map(|(_, value)| *value);
        let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let ours = of(Driver::is_ours);
        let verdict = match ours {
            Some(value) if value > limit.most => {
                self.failed.push(limit.name);
                "FAIL"
            }
            Some(_) => "must",
            None => "",
        };
        println!(
            "{:<32} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>6} {:>9}  {verdict}",
            format!(
                "{}{}",
                limit.name,
                if limit.unit.is_empty() { String::new() } else { format!(", {}", limit.unit) }
            ),
            "",
            "",
            text(of(|driver| driver == Driver::Peer)),
            text(ours),
            "",
            format!("<={}", limit.most),
            "",
            "",
        );
    }

    pub(crate) fn print_summary(&self) {
        if !self.warm.is_empty() {
            let mean = (self.warm.iter().map(|ratio| ratio.ln()).sum::<f64>() / self.warm.len() as f64).exp();
            println!("warm rows, ours/native, geometric mean: {mean:.2} (goal 1.0)");
        }
        if self.drivers.iter().any(|driver| driver.is_ours()) {
            println!("below 'must': {}", list(&self.failed));
            println!("below goal: {}", list(&self.below_goal));
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    pub(crate) fn write_json(&self, file: &Path) -> io::Result<()> {
        let rows = self.times.iter().map(|(row, times)| {
            let columns = times.iter().map(|(driver, times)| (driver.name().to_owned(), serde_json::json!(times)));
            ((*row).to_owned(), serde_json::Value::Object(columns.collect()))
        });
        fs::write(file, serde_json::Value::Object(rows.collect()).to_string())
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join("; ") }
}
