//! What may mount root file systems on this host, found out by mounting: for `info` and `doctor`.

use std::path::Path;

use runtime::mount::probe;
use runtime::userns::Mapping;

use crate::supervisor::rootfs::DriverChoice;

/// What each way of mounting answered.
#[derive(Debug)]
pub(crate) struct Possible {
    /// The kernel's overlay on the file system of the store, or why not.
    pub(crate) overlay: Result<(), String>,
    /// A FUSE mount, or why not.
    pub(crate) fuse: Result<(), String>,
}

impl Possible {
    /// Tries both. `data_dir` must exist; nothing stays in it.
    pub(crate) fn find_out(mapping: &Mapping, data_dir: &Path) -> Possible {
        let scratch = data_dir.join(format!(".probe-{}", std::process::id()));
        Possible {
            overlay: probe::overlay(mapping, &scratch).map_err(|error| error.to_string()),
            fuse: probe::fuse(mapping).map_err(|error| error.to_string()),
        }
    }

    /// What a new container gets.
    pub(crate) fn driver(&self, choice: DriverChoice, single_id: bool) -> &'static str {
        let drivers = crate::supervisor::rootfs::drivers(choice, "", false, single_id);
        let works = |driver: &runtime::mount::rootfs::Driver| {
            use runtime::mount::rootfs::Driver;
            match driver {
                Driver::Overlay => self.overlay.is_ok(),
                Driver::OverlayFuse => self.overlay.is_ok() && self.fuse.is_ok(),
                Driver::Fuse => self.fuse.is_ok(),
            }
        };
        drivers.iter().find(|driver| works(driver)).or(drivers.first()).map_or("", |driver| driver.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_is_the_first_that_works() {
        let no = || Err("no".to_owned());
        let (both, fuse) = (Possible { overlay: Ok(()), fuse: Ok(()) }, Possible { overlay: no(), fuse: Ok(()) });
        assert_eq!(both.driver(DriverChoice::Auto, false), "overlay");
        assert_eq!(both.driver(DriverChoice::Auto, true), "fuse");
        assert_eq!(fuse.driver(DriverChoice::Auto, false), "fuse");
        assert_eq!(fuse.driver(DriverChoice::Overlay, false), "overlay", "it was asked for");
        assert_eq!(Possible { overlay: no(), fuse: no() }.driver(DriverChoice::Auto, false), "overlay");
    }
}
