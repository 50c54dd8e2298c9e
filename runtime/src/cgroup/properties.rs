//! Limits as properties of a unit: a slice belongs to the service manager, which would take back what others write there.
//!
//! # Source
//! `org.freedesktop.systemd1(5)`; `systemd.resource-control(5)`.

use super::resources::Setting;

/// A property's value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `t`; the largest is no limit.
    Number(u64),
    /// `a(st)`: devices by their paths.
    OfDevices(Vec<(String, u64)>),
}

/// The properties that settings mean. A setting that no property stands for is left out: a pod has none such.
pub(super) fn of(settings: &[Setting]) -> Vec<(&'static str, Value)> {
    let mut out = Vec::new();
    for (file, value) in settings {
        let simple = match file.as_str() {
            "memory.max" => Some("MemoryMax"),
            "memory.low" => Some("MemoryLow"),
            "memory.swap.max" => Some("MemorySwapMax"),
            "cpu.weight" => Some("CPUWeight"),
            "pids.max" => Some("TasksMax"),
            _ => None,
        };
        if let (Some(name), Some(number)) = (simple, number(value)) {
            out.push((name, Value::Number(number)));
            continue;
        }
        match (file.as_str(), value.split_once(' ')) {
            ("cpu.max", Some((quota, period))) => {
                let (Some(quota), Ok(period)) = (number(quota), period.parse::<u64>()) else { continue };
                let per_second = match quota {
                    u64::MAX => u64::MAX,
                    quota => quota.saturating_mul(1_000_000) / period.max(1),
                };
                out.push(("CPUQuotaPerSecUSec", Value::Number(per_second)));
                out.push(("CPUQuotaPeriodUSec", Value::Number(period)));
            }
            ("io.weight", Some(("default", weight))) => {
                out.extend(number(weight).map(|weight| ("IOWeight", Value::Number(weight))));
            }
            ("io.weight", Some((device, weight))) => of_device(&mut out, "IODeviceWeight", device, weight),
            ("io.max", Some((device, limit))) => {
                let Some((key, limit)) = limit.split_once('=') else { continue };
                let name = match key {
                    "rbps" => "IOReadBandwidthMax",
                    "wbps" => "IOWriteBandwidthMax",
                    "riops" => "IOReadIOPSMax",
                    "wiops" => "IOWriteIOPSMax",
                    _ => continue,
                };
                of_device(&mut out, name, device, limit);
            }
            _ => {}
        }
    }
    out
}

fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

fn of_device(out: &mut Vec<(&'static str, Value)>, name: &'static str, device: &str, value: &str) {
    let Some(value) = number(value) else { return };
    let one = (format!("/dev/block/{device}"), value);
    match out.iter_mut().find(|(other, _)| *other == name) {
        Some((_, Value::OfDevices(devices))) => devices.push(one),
        _ => out.push((name, Value::OfDevices(vec![one]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_properties() {
        let settings = [
            ("memory.max", "67108864"),
            ("memory.swap.max", "max"),
            ("cpu.weight", "20"),
            ("cpu.max", "50000 100000"),
            ("io.weight", "default 500"),
            ("io.weight", "8:0 300"),
            ("io.max", "8:0 rbps=1048576"),
            ("io.max", "8:16 rbps=max"),
            ("io.max", "8:0 wiops=100"),
        ];
        let settings = settings.map(|(file, value)| (file.to_owned(), value.to_owned()));
        let devices = |of: &[(&str, u64)]| {
            Value::OfDevices(of.iter().map(|(device, number)| (format!("/dev/block/{device}"), *number)).collect())
        };
        let expected = [
            ("MemoryMax", Value::Number(64 << 20)),
            ("MemorySwapMax", Value::Number(u64::MAX)),
            ("CPUWeight", Value::Number(20)),
            ("CPUQuotaPerSecUSec", Value::Number(500_000)),
            ("CPUQuotaPeriodUSec", Value::Number(100_000)),
            ("IOWeight", Value::Number(500)),
            ("IODeviceWeight", devices(&[("8:0", 300)])),
            ("IOReadBandwidthMax", devices(&[("8:0", 1 << 20), ("8:16", u64::MAX)])),
            ("IOWriteIOPSMax", devices(&[("8:0", 100)])),
        ];
        assert_eq!(of(&settings), expected);
    }
}
