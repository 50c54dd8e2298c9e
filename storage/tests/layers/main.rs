//! Layers from outside: hostile archives, archives of other tools, whole trees against a pure model.

mod apply;
mod archives;
mod attack;
mod differential;
mod namespace;
mod perf;
mod support;
