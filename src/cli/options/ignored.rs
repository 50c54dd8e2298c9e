//! Options of `run` and `create` that have no effect here, and why.

use crate::cli::accepted::Form::{Switch, Value};
use crate::cli::accepted::{Ignored, Table};

/// Of `run` and `create`.
#[derive(Clone, Debug)]
pub(crate) struct OfContainers;

const NO_REAL_TIME: &str = "version 2 of cgroups has no real-time limits";
const NO_ENCRYPTION: &str = "encrypted layers are not supported";
const BY_DIGEST: &str = "images are known by their digests";
const WINDOWS: &str = "it is an option of Windows containers";

const fn value(name: &'static str, idle: &'static [&'static str], why: &'static str) -> Ignored {
    Ignored { name, form: Value, idle, why }
}

const fn switch(name: &'static str, why: &'static str) -> Ignored {
    Ignored { name, form: Switch, idle: &[], why }
}

/// A switch that asks for what is so anyway.
const fn idle_switch(name: &'static str, why: &'static str) -> Ignored {
    Ignored { name, form: Switch, idle: &["true"], why }
}

/// Of `exec`.
#[derive(Clone, Debug)]
pub(crate) struct OfExec;

impl Table for OfExec {
    const OPTIONS: &'static [Ignored] = &[switch("no-session", "sessions leave nothing behind")];
}

/// Of `pull`.
#[derive(Clone, Debug)]
pub(crate) struct OfPull;

impl Table for OfPull {
    const OPTIONS: &'static [Ignored] =
        &[value("decryption-key", &[], NO_ENCRYPTION), switch("disable-content-trust", BY_DIGEST)];
}

/// Of `push`.
#[derive(Clone, Debug)]
pub(crate) struct OfPush;

impl Table for OfPush {
    const OPTIONS: &'static [Ignored] = &[
        switch("disable-content-trust", BY_DIGEST),
        switch("compress", "layers keep the compression that they have"),
        switch("remove-signatures", "images here have no signatures"),
    ];
}

/// Of `manifest push`.
#[derive(Clone, Debug)]
pub(crate) struct OfManifestPush;

impl Table for OfManifestPush {
    const OPTIONS: &'static [Ignored] = &[
        value("add-compression", &[], "images are pushed once, see --compression-format"),
        switch("remove-signatures", "images here have no signatures"),
    ];
}

/// Of `save`.
#[derive(Clone, Debug)]
pub(crate) struct OfSave;

impl Table for OfSave {
    const OPTIONS: &'static [Ignored] = &[
        switch("compress", "layers keep the compression that they have"),
        value("platform", &[], "an archive has the one platform of an image that is in the store"),
        switch("uncompressed", "layers keep the compression that they have"),
    ];
}

/// Of `commit`.
#[derive(Clone, Debug)]
pub(crate) struct OfCommit;

impl Table for OfCommit {
    const OPTIONS: &'static [Ignored] = &[
        switch("squash", "the changes of the container are one layer on those of its image"),
        value("config", &[], "see --change"),
    ];
}

/// Of `build`.
#[derive(Clone, Debug)]
pub(crate) struct OfBuild;

impl Table for OfBuild {
    const OPTIONS: &'static [Ignored] = &[
        value("cache-ttl", &[], "see builder prune --filter until="),
        switch("compress", "layers are compressed when they are pushed"),
        switch("disable-compression", "layers are compressed when they are pushed"),
        switch("disable-content-trust", BY_DIGEST),
        idle_switch("force-rm", "a step leaves no container behind"),
        idle_switch("rm", "a step leaves no container behind"),
        value("hooks-dir", &[], "steps are run by coracle itself"),
        value("identity-label", &["false"], "images are not labelled with their builder"),
        value("isolation", &["default", "oci", "rootless", ""], "steps are isolated as containers are"),
        idle_switch("load", "the image is in the store of this machine anyway"),
        switch("logsplit", "each step is told by its own lines"),
        value("provenance", &["false"], "images have no attestations"),
        value("runtime-flag", &[], "steps are run by coracle itself"),
        value("builder", &["", "default"], "there is one builder"),
    ];
}

/// Of `build`: what is refused, because the result would not be what was asked for.
#[derive(Clone, Debug)]
pub(crate) struct NotOfBuild;

const NO_SBOM: &str = "bills of materials are not made";
const NO_NESTED_IDS: &str = "layers are kept with the ids of this user's containers, which steps have";

impl Table for NotOfBuild {
    const OPTIONS: &'static [Ignored] = &[
        value("attest", &[], "attestations are not made"),
        value("allow", &["network.host"], "steps are always confined"),
        switch("compat-volumes", "what a step puts into a volume is kept"),
        value("cpp-flag", &[], "Dockerfiles are not preprocessed"),
        value("cw", &[], "confidential workloads are not made"),
        value("decryption-key", &[], NO_ENCRYPTION),
        value("layer-label", &[], "layers have no labels of their own"),
        value("os-feature", &[], "it is an option of Windows images"),
        value("os-version", &[], "it is an option of Windows images"),
        value("sbom", &["false"], NO_SBOM),
        value("sbom-image-output", &[], NO_SBOM),
        value("sbom-image-purl-output", &[], NO_SBOM),
        value("sbom-merge-strategy", &[], NO_SBOM),
        value("sbom-output", &[], NO_SBOM),
        value("sbom-purl-output", &[], NO_SBOM),
        value("sbom-scanner-command", &[], NO_SBOM),
        value("sbom-scanner-image", &[], NO_SBOM),
        value("sign-by", &[], "images are not signed"),
        switch("stdin", "steps have no input"),
        value("userns", &["", "host", "container", "private"], NO_NESTED_IDS),
        value("userns-gid-map", &[], NO_NESTED_IDS),
        value("userns-gid-map-group", &[], NO_NESTED_IDS),
        value("userns-uid-map", &[], NO_NESTED_IDS),
        value("userns-uid-map-user", &[], NO_NESTED_IDS),
    ];
}

/// Of `container clone`.
#[derive(Clone, Debug)]
pub(crate) struct OfClone;

impl Table for OfClone {
    const OPTIONS: &'static [Ignored] = &[
        value("cpu-rt-period", &["0"], NO_REAL_TIME),
        value("cpu-rt-runtime", &["0"], NO_REAL_TIME),
        value("memory-swappiness", &["-1"], "version 2 of cgroups has no swappiness"),
    ];
}

impl Table for OfContainers {
    const OPTIONS: &'static [Ignored] = &[
        value("cpu-rt-period", &["0"], NO_REAL_TIME),
        value("cpu-rt-runtime", &["0"], NO_REAL_TIME),
        value("memory-swappiness", &["-1"], "version 2 of cgroups has no swappiness"),
        value("kernel-memory", &["0"], "version 2 of cgroups counts it with the other memory"),
        switch("oom-kill-disable", "version 2 of cgroups has no such switch"),
        value("rdt-class", &[], "classes of service belong to root"),
        value("personality", &["LINUX", "linux"], "programs get the personality of this machine"),
        value("decryption-key", &[], NO_ENCRYPTION),
        switch("disable-content-trust", BY_DIGEST),
        value("storage-opt", &[], "the writable layer of a container has no options"),
        value("volume-driver", &["local"], "volumes are directories"),
        value("runtime", &["coracle"], "containers are run by coracle itself"),
        value("link-local-ip", &[], "the network gives addresses"),
        switch("use-api-socket", "there is no daemon to talk to"),
        value("isolation", &["default", "process", ""], WINDOWS),
        value("cpu-count", &["0"], WINDOWS),
        value("cpu-percent", &["0"], WINDOWS),
        value("io-maxbandwidth", &["0"], WINDOWS),
        value("io-maxiops", &["0"], WINDOWS),
    ];
}
