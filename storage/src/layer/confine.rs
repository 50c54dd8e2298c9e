//! The second wall around unpacking: the thread may write beneath one directory and nowhere else.
//!
//! The first wall is [`super::apply`], which asks the kernel for nothing outside; this one holds if that has a fault.

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use std::os::fd::AsFd;

/// The newest rights that we ask for; an older kernel gives those it knows.
const NEWEST_ABI: ABI = ABI::V5;

/// Forbids the calling thread, and all threads and processes it starts from now on, to change files outside `dir`.
/// It lasts as long as the thread; what other threads may do is unchanged. Reading is not restricted.
///
/// Returns whether the kernel enforces it. A kernel without Landlock, or with its first version only, is no error.
///
/// # Source
/// `landlock(7)`, Linux 5.19; sets `no_new_privs` of the thread.
pub fn confine_thread(dir: impl AsFd) -> bool {
    let writes = AccessFs::from_write(NEWEST_ABI);
    // The first version forbids links between directories whatever one asks for: layers need them.
    let enforced = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .map(|rules| rules.set_compatibility(CompatLevel::BestEffort))
        .and_then(|rules| rules.handle_access(writes))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(PathBeneath::new(dir, writes)))
        .and_then(|rules| rules.restrict_self());
    enforced.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn confined_thread_writes_inside_only() {
        let inside = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("canary"), b"alive").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if !confine_thread(fs::File::open(inside.path()).unwrap()) {
                    eprintln!("skipped: needs Landlock");
                    return;
                }
                fs::create_dir(inside.path().join("dir")).unwrap();
                fs::write(inside.path().join("dir/file"), b"x").unwrap();
                fs::hard_link(inside.path().join("dir/file"), inside.path().join("link")).unwrap();
                fs::remove_file(inside.path().join("dir/file")).unwrap();
                assert!(fs::write(outside.path().join("canary"), b"dead").is_err());
                assert!(fs::remove_file(outside.path().join("canary")).is_err());
                assert!(fs::create_dir(outside.path().join("dir")).is_err());
                assert_eq!(fs::read(outside.path().join("canary")).unwrap(), b"alive");
            });
        });
        fs::write(outside.path().join("canary"), b"other threads are free").unwrap();
    }
}
