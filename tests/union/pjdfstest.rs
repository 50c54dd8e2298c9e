//! `pjdfstest.sh`: the POSIX suite on ours and on the kernel's overlay.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::command::binary;
use crate::support::needs::pjdfstest;
use crate::support::prelude::*;

/// Its clocks are finer than what a busy machine does between two of its calls.
pub(crate) const TESTS: &[Test] = &[test!(what_passes_on_the_kernels_overlay_passes_on_ours)
    .needs(&[Need::Fuse, Need::Pjdfstest])
    .without_image()
    .alone()
    .limit_secs(300)];

fn what_passes_on_the_kernels_overlay_passes_on_ours(home: &Home) {
    let script = home.write("pjdfstest.sh", include_str!("pjdfstest.sh"));
    let suite: PathBuf = pjdfstest().expect("it was there a moment ago");
    let mut command = Command::new("bash");
    command.arg(&script).env("CORACLE", binary()).env("PJDFSTEST", suite).env("ON", "kernel ours");
    let output = command.stdin(Stdio::null()).output().expect("bash");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);
}
