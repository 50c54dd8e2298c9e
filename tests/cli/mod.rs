//! One file per command, or per concern where a command has many.

use crate::support::framework::Test;

mod boot;
mod cdi;
mod commit;
mod completion;
mod compose;
mod configuration;
mod container_life;
mod cp;
mod diff;
mod doctor;
mod events;
mod exec;
mod export;
mod fuse_overlayfs;
mod images;
mod inspect;
mod inspect_keys;
mod kube;
mod lazy;
mod lazy_contents;
mod limits;
mod load;
mod login;
mod logs;
mod malformed;
mod manifest;
mod mount;
mod networks;
mod options;
mod persona;
mod pods;
mod prune;
mod ps;
mod pull;
mod pull_faults;
mod push;
mod quadlet;
mod referrers;
mod registries;
mod rm;
mod run;
mod run_files;
mod run_isolation;
mod run_names;
mod run_network;
mod run_process;
mod run_service;
mod run_terminal;
mod run_volumes;
mod scp;
mod search;
mod secrets;
mod stats;
mod stores;
mod tables;
mod tools;
mod transcripts;
mod trust;
mod tutorials;
mod undo;
mod units;
mod volumes;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    let transcripts = transcripts::tests();
    [
        &*transcripts,
        rm::TESTS,
        tables::TESTS,
        run::TESTS,
        run_process::TESTS,
        run_files::TESTS,
        cdi::TESTS,
        run_volumes::TESTS,
        run_isolation::TESTS,
        run_names::TESTS,
        run_network::TESTS,
        run_service::TESTS,
        run_terminal::TESTS,
        options::TESTS,
        configuration::TESTS,
        malformed::TESTS,
        persona::TESTS,
        completion::TESTS,
        compose::TESTS,
        container_life::TESTS,
        exec::TESTS,
        events::TESTS,
        export::TESTS,
        boot::TESTS,
        quadlet::TESTS,
        stats::TESTS,
        stores::TESTS,
        cp::TESTS,
        ps::TESTS,
        logs::TESTS,
        inspect::TESTS,
        inspect_keys::TESTS,
        images::TESTS,
        load::TESTS,
        pull::TESTS,
        pull_faults::TESTS,
        kube::TESTS,
        lazy::TESTS,
        lazy_contents::TESTS,
        push::TESTS,
        referrers::TESTS,
        login::TESTS,
        registries::TESTS,
        scp::TESTS,
        search::TESTS,
        trust::TESTS,
        manifest::TESTS,
        limits::TESTS,
        doctor::TESTS,
        tutorials::TESTS,
        tools::TESTS,
        fuse_overlayfs::TESTS,
        diff::TESTS,
        commit::TESTS,
        prune::TESTS,
        undo::TESTS,
        units::TESTS,
        volumes::TESTS,
        secrets::TESTS,
        pods::TESTS,
        mount::TESTS,
        networks::TESTS,
    ]
    .concat()
}
