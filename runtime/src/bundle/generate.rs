//! [`Options`] to a specification.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    BoxBuilder, Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, Process, Root, Spec,
};

use super::{Choice, Options, defaults};

/// The specification of a container. It is not checked: see [`validate`](super::validate()).
pub fn generate(options: &Options) -> Spec {
    let mut root = Root::default();
    root.set_path(options.root.clone()).set_readonly(options.read_only.then_some(true));

    let mut annotations = options.annotations.clone();
    let (manager, name) = defaults::MANAGER_ANNOTATION;
    annotations.entry(manager.to_owned()).or_insert_with(|| name.to_owned());

    let private_uts = options.namespaces.uts == Choice::Private;
    let mut spec = Spec::default();
    spec.set_version(defaults::OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(process(options)))
        .set_hostname(options.hostname.clone().filter(|_| private_uts))
        .set_domainname(options.domainname.clone().filter(|_| private_uts))
        .set_mounts(Some(mounts(options)))
        .set_annotations(Some(annotations.into_iter().collect()))
        .set_linux(Some(linux(options)));
    spec
}

fn process(options: &Options) -> Process {
    let mut args = options.args.clone();
    if options.init.is_some() {
        args.splice(0..0, [defaults::INIT_TARGET.to_owned(), "--".to_owned()]);
    }
    let console = options.console_size.and_then(|(rows, columns)| {
        BoxBuilder::default().height(u64::from(rows)).width(u64::from(columns)).build().ok()
    });
    let mut process = Process::default();
    process
        .set_terminal(options.terminal.then_some(true))
        .set_console_size(console.filter(|_| options.terminal))
        .set_user(options.user.clone())
        .set_args(Some(args))
        .set_env(Some(options.env.clone()))
        .set_cwd(options.cwd.clone())
        .set_capabilities(Some(options.capabilities.clone()))
        .set_rlimits((!options.rlimits.is_empty()).then(|| options.rlimits.clone()))
        .set_no_new_privileges(options.no_new_privileges.then_some(true))
        .set_oom_score_adj(options.oom_score_adj);
    process
}

fn linux(options: &Options) -> Linux {
    let own_user_namespace = !options.uid_mappings.is_empty();
    let mut empty = LinuxResources::default();
    empty.set_devices(None);
    let mut linux = Linux::default();
    linux
        .set_uid_mappings(own_user_namespace.then(|| options.uid_mappings.clone()))
        .set_gid_mappings(own_user_namespace.then(|| options.gid_mappings.clone()))
        .set_sysctl((!options.sysctls.is_empty()).then(|| options.sysctls.clone().into_iter().collect()))
        .set_resources(Some(options.resources.clone().unwrap_or(empty)))
        .set_cgroups_path(options.cgroups_path.clone())
        .set_namespaces(Some(namespaces(options, own_user_namespace)))
        .set_devices(None)
        .set_seccomp(options.seccomp.clone())
        .set_rootfs_propagation(rootfs_propagation(&options.mounts))
        .set_masked_paths(Some(options.masked_paths.clone()))
        .set_readonly_paths(Some(options.readonly_paths.clone()));
    linux
}

fn namespaces(options: &Options, own_user_namespace: bool) -> Vec<LinuxNamespace> {
    let chosen = &options.namespaces;
    let user = if own_user_namespace { Choice::Private } else { Choice::Host };
    [
        (LinuxNamespaceType::User, &user),
        (LinuxNamespaceType::Mount, &Choice::Private),
        (LinuxNamespaceType::Pid, &chosen.pid),
        (LinuxNamespaceType::Network, &chosen.network),
        (LinuxNamespaceType::Ipc, &chosen.ipc),
        (LinuxNamespaceType::Uts, &chosen.uts),
        (LinuxNamespaceType::Cgroup, &chosen.cgroup),
    ]
    .into_iter()
    .filter_map(|(kind, choice)| {
        let path = match choice {
            Choice::Host => return None,
            Choice::Private => None,
            Choice::Path(path) => Some(path.clone()),
        };
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path);
        Some(namespace)
    })
    .collect()
}

/// The root must let through what a mount below it lets through.
fn rootfs_propagation(mounts: &[Mount]) -> Option<String> {
    let has = |words: [&str; 2]| {
        mounts.iter().flat_map(|mount| mount.options().iter().flatten()).any(|option| words.contains(&option.as_str()))
    };
    if has(["shared", "rshared"]) {
        Some("rshared".to_owned())
    } else if has(["slave", "rslave"]) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

/// Defaults that nobody asked to replace, then what was asked for, parents before children.
///
/// Of two mounts asked for at one target the later counts. A `/dev` of the user's own takes all of ours below it away.
fn mounts(options: &Options) -> Vec<Mount> {
    let asked: HashSet<PathBuf> = options.mounts.iter().map(|mount| clean(mount.destination())).collect();
    let own_dev = asked.contains(Path::new("/dev"));
    let mut all: Vec<Mount> = defaults::mounts(options)
        .into_iter()
        .filter(|mount| {
            let target = mount.destination();
            let below_dev = target.starts_with("/dev") && target != Path::new("/dev");
            !(asked.contains(target) || own_dev && below_dev)
        })
        .collect();
    for mount in &options.mounts {
        let target = clean(mount.destination());
        all.retain(|other| *other.destination() != target);
        let mut mount = mount.clone();
        mount.set_destination(target);
        all.push(mount);
    }
    all.sort_by_key(|mount| mount.destination().components().count());
    all
}

/// The path without `.`, `..` and doubled slashes; links are not looked at.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}
