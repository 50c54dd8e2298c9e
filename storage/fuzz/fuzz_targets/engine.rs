//! Bytes as layers and operations on their union, without the kernel beside it: what must hold of the union alone.

#![cfg_attr(fuzzing, no_main)]
// The model test uses more of its files than this does.
#![allow(dead_code)]

#[path = "../../tests/union/driver.rs"]
mod driver;
#[path = "../../tests/union/engine.rs"]
mod engine;
#[cfg(not(fuzzing))]
mod plain;
#[path = "../../tests/union/scenario.rs"]
mod scenario;
#[path = "../../tests/union/sys.rs"]
mod sys;
#[path = "../../tests/union/tree.rs"]
mod tree;

use driver::{Driver, perform};
use engine::{Engine, left_in_work};
use scenario::{SLOTS, Scenario};
use tree::{differences, make_layer, read_tree};

fn run(bytes: &[u8]) {
    assert!(nix::unistd::geteuid().is_root(), "layers have many owners: unshare --user --map-root-user --map-auto …");
    let scenario = Scenario::from_bytes(bytes);
    let stage = tempfile::tempdir().expect("TMPDIR can be written");
    let place = stage.path();
    let layers: Vec<_> =
        scenario.layers.iter().enumerate().map(|(number, layer)| make_layer(layer, place, number)).collect();
    for name in ["upper", "work"] {
        std::fs::create_dir(place.join(name)).expect("the stage is ours");
    }
    let mut engine = Engine::new(&layers, place, scenario.keeps_references);
    for (number, operation) in scenario.operations.iter().enumerate() {
        // Whatever the answer, what follows must hold.
        let _ = perform(&mut engine, operation, number);
    }
    (0..SLOTS).for_each(|slot| engine.release(slot));
    let before = read_tree(&mut engine);
    assert!(before.lies.is_empty(), "{}", before.lies.join("\n"));
    drop(engine);
    let left = left_in_work(place);
    assert!(left.is_empty(), "left in the work directory: {left:?}");

    let again = read_tree(&mut Engine::new(&layers, place, false));
    let lines = differences(&before, &again);
    assert!(lines.is_empty(), "mounted again:\n{}", lines.join("\n"));
    // Links, pipes and sockets can have no xattr that says what they were copied from.
    let lasts = |path: &str| before.nodes[path].has_xattrs();
    let moved: Vec<_> =
        before.numbers.iter().filter(|(path, number)| lasts(path) && again.numbers[*path] != **number).collect();
    assert!(moved.is_empty(), "numbers that did not outlive the mount: {moved:?}");
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    plain::main(run)
}
