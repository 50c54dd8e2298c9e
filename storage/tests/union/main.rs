//! The union against its model: sequences of operations are run on the kernel's overlay and on ours over the same
//! layers, every answer is compared, then the trees, then both upper directories under the other driver.
//!
//! ```text
//! scenario (layers + operations, from a seed) → Kernel, Engine (each a Driver) → answers, trees → smaller scenario
//! ```
//! `UNION_SEED=n` begins with that seed (and ends with it), `UNION_SEEDS=n` runs that many (default: as many as fit into
//! some seconds), `UNION_TOOL='coracle fuse-overlayfs'` compares the kernel with a mount of that command instead of the
//! engine in this process.

// Tests make their own surroundings.
#![allow(clippy::disallowed_methods)]

mod driver;
mod engine;
mod kernel;
mod model;
mod scenario;
#[allow(unsafe_code)]
mod sys;
mod tree;
