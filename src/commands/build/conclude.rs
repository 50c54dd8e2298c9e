//! What a build comes to: images, a list of them, and where else the result goes.

use storage::image::index::Platform;
use storage::image::list::{Detail, List};
use storage::image::manifest::Descriptor;
use storage::image::store::NewImage;
use storage::image::{Image, ImageStore};
use storage::reference::Reference;
use storage::transport::push::PushOptions;

use super::Args;
use super::report::{Written, write_results};
use crate::build::finish::{Finished, finish};
use crate::build::options::{Options, Progress, Squash};
use crate::build::output::Output;
use crate::build::schedule::Built;
use crate::build::screen::Screen;
use crate::build::stage::{Build, State};
use crate::cli::output;
use crate::commands::{manifest, push, tag};
use crate::error::{CommandError, Kind};
use crate::role::Persona;

/// Where the result is to go.
pub(super) struct Wanted {
    outputs: Vec<Output>,
    /// `--manifest`.
    list: Option<Reference>,
    is_pushed: bool,
    is_on_stdout: bool,
}

impl Wanted {
    /// Reads `--output`, `--push` and `--manifest`; names that are given there join those of `--tag`.
    pub(super) fn of(args: &Args, options: &mut Options) -> Result<Wanted, CommandError> {
        let outputs = args
            .output
            .iter()
            .map(|text| Output::parse(text).map_err(|why| CommandError::user(format!("--output {text}: {why}"))));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let is_on_stdout = outputs.iter().any(Output::is_on_stdout);
        if is_on_stdout {
            options.progress = Progress::Quiet;
        }
        for output in &outputs {
            if let Output::Image { name: Some(name), .. } = output {
                options.tags.push(tag::local_name(name)?);
                options.typed_tags.push(name.clone());
            }
        }
        let list = args.manifest.as_deref().map(tag::local_name).transpose()?.map(Reference::with_default_tag);
        if list.as_ref().is_some_and(|list| options.tags.contains(list)) {
            return Err(CommandError::user("the same name must not be specified for both '--tag' and '--manifest'"));
        }
        let is_pushed =
            args.push || outputs.iter().any(|output| matches!(output, Output::Image { is_pushed: true, .. }));
        if is_pushed && options.tags.is_empty() && list.is_none() {
            return Err(CommandError::user("--push: the image has no name that says where to").hinted("--tag NAME"));
        }
        let wanted = Wanted { outputs, list, is_pushed, is_on_stdout };
        wanted.check(args, options)?;
        Ok(wanted)
    }

    /// Refuses several platforms where there is room for one.
    pub(super) fn check(&self, args: &Args, options: &Options) -> Result<(), CommandError> {
        let narrow = || args.output.iter().zip(&self.outputs).find(|(_, output)| output.is_of_one_platform());
        if options.platforms.len() > 1
            && let Some((text, _)) = narrow()
        {
            let text = format!("--output {text}: it has room for one platform");
            return Err(CommandError::user(text).hinted("type=local or type=oci"));
        }
        Ok(())
    }

    /// Whether images come into the store.
    fn is_stored(&self, persona: Persona) -> bool {
        let mut images = self.outputs.iter().filter(|output| !output.is_file_system());
        match persona {
            // With docker an image comes into the store only if nothing else is asked for.
            Persona::Docker => self.outputs.is_empty() || images.any(|output| *output != Output::Nothing),
            Persona::Podman => images.all(|output| *output != Output::Nothing),
        }
    }
}

/// Makes what was asked for of the builds, one for each platform.
pub(super) fn conclude(
    args: &Args,
    builds: &mut [Build<'_>],
    built: Vec<Built>,
    wanted: &Wanted,
    screen: &mut Screen,
) -> Result<(), CommandError> {
    let mut states = Vec::new();
    for (build, mut built) in builds.iter().zip(built) {
        let state = built.states.remove(&build.graph.target);
        states.push(state.ok_or_else(|| CommandError::new(Kind::Internal, "the target was not built"))?);
    }
    let Some(first) = builds.first() else { return Ok(()) };
    let (context, quiet) = (first.context, first.options.progress == Progress::Quiet);
    screen.committing(first.options.typed_tags.first().map(String::as_str));
    let mut kept = Vec::new();
    if wanted.is_stored(context.persona) {
        let written = match builds {
            [build] if wanted.list.is_none() => alone(args, build, &states, wanted, screen)?,
            _ => several(args, builds, &states, wanted, screen)?,
        };
        kept.extend(written.images.iter().map(|image| image.id.clone()));
        if let Some(build) = builds.first() {
            write_results(args, build, &written)?;
        }
        if quiet && !wanted.is_on_stdout {
            let prefix = if context.persona == Persona::Docker { "sha256:" } else { "" };
            output::print_line(format!("{prefix}{}", written.id))?;
        }
    }
    let is_list = builds.len() > 1;
    for (build, state) in builds.iter_mut().zip(states) {
        file_systems(build, state, wanted, is_list, &kept)?;
    }
    Ok(())
}

/// One image, with its names.
fn alone(
    args: &Args,
    build: &Build<'_>,
    states: &[State],
    wanted: &Wanted,
    screen: &mut Screen,
) -> Result<Written, CommandError> {
    let state = states.first().cloned().ok_or_else(|| CommandError::new(Kind::Internal, "no state"))?;
    let names = build.options.tags.clone();
    let finished = finish(build, state, Some(names.clone()))?;
    let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
    screen.committed(&finished.id, &texts);
    note(build, &finished, texts.first().map_or("", String::as_str));
    // A list that had one of the names until now.
    for name in &names {
        if let Some(list) = build.store.find_list(&name.to_string())? {
            build.store.remove_list(&list)?;
        }
    }
    let image = stored(&build.store, &finished.manifest)?;
    for output in wanted.outputs.iter().filter(|output| !output.is_file_system()) {
        output.write(&build.store, &image, &names)?;
    }
    if wanted.is_pushed {
        screen.end();
        let options = push_options(args)?;
        let quiet = build.options.progress == Progress::Quiet;
        names.iter().try_for_each(|name| push::upload(&image, name, &options, quiet, build.context).map(drop))?;
    }
    let (id, digest) = (finished.id.clone(), finished.manifest.clone());
    Ok(Written { id, descriptor: digest, names: texts, images: vec![image] })
}

/// Images for several platforms, or for a list.
fn several(
    args: &Args,
    builds: &[Build<'_>],
    states: &[State],
    wanted: &Wanted,
    screen: &mut Screen,
) -> Result<Written, CommandError> {
    let Some(build) = builds.first() else { return Err(CommandError::new(Kind::Internal, "nothing was built")) };
    let (store, options) = (&build.store, &build.options);
    let mut all: Vec<Finished> = Vec::new();
    for (build, state) in builds.iter().zip(states) {
        // As podman does: images that only a list knows are there without a name.
        let names = match (&wanted.list, builds.len()) {
            (Some(_), 1) => Some(options.tags.clone()),
            (Some(_), _) if options.tags.is_empty() => Some(Vec::new()),
            _ => None,
        };
        let finished = finish(build, state.clone(), names)?;
        screen.committed(&finished.id, &[]);
        note(build, &finished, "");
        all.push(finished);
    }
    let images = all.iter().map(|one| stored(store, &one.manifest)).collect::<Result<Vec<_>, _>>()?;
    let mut lists = Vec::new();
    if let Some(name) = &wanted.list {
        let known = store.find_list(&name.to_string())?;
        lists.push(listed(store, known.unwrap_or_else(|| store.new_list(name)), &all)?);
    }
    if builds.len() > 1 {
        let primary = primary(&all);
        for name in &options.tags {
            let list = listed(store, store.new_list(name), &all)?;
            let image = NewImage {
                manifest: primary.manifest.clone(),
                index: Some(list.index.digest.clone()),
                id: stored(store, &primary.manifest)?.id,
                names: vec![name.clone().with_default_tag()],
                layer_sizes: primary.layer_sizes.clone(),
            };
            store.record(&image)?;
            lists.push(list);
        }
    }
    let names: Vec<String> = lists.iter().map(|list| list.name.to_string()).collect();
    // Without a name there is an index all the same: for archives, and to tell its digest.
    let index = match lists.last() {
        Some(list) => list.index.clone(),
        None => index_of(store, &all)?,
    };
    screen.listed(&index.digest.to_string(), &names);
    for output in wanted.outputs.iter().filter(|output| !output.is_file_system()) {
        output.write_list(store, &index, &images, &options.tags)?;
    }
    if wanted.is_pushed {
        screen.end();
        let (upload, quiet) = (push_options(args)?, options.progress == Progress::Quiet);
        for list in &lists {
            manifest::push::upload(&list.index, &list.name, &upload, quiet, build.context)?;
        }
    }
    let id = match (lists.first(), builds.len()) {
        (Some(list), 1) => all.first().map_or_else(|| list.id.hex().to_owned(), |one| one.id.clone()),
        _ => index.digest.hex().to_owned(),
    };
    Ok(Written { id, descriptor: index, names, images })
}

/// The image that a name means on this machine: its own if it was built, else the first.
fn primary(all: &[Finished]) -> &Finished {
    let host = Platform::host();
    let rank = |one: &&Finished| one.manifest.platform.as_ref().and_then(|platform| platform.rank_for(&host));
    all.iter().filter(|one| rank(one).is_some()).min_by_key(rank).unwrap_or(&all[0])
}

fn add_all(list: &mut List, all: &[Finished]) {
    for Finished { manifest, .. } in all {
        let mut plain = manifest.clone();
        plain.annotations = None;
        list.add(&plain, manifest.platform.as_ref(), &Detail::default());
    }
}

fn listed(store: &ImageStore, mut list: List, all: &[Finished]) -> Result<List, CommandError> {
    add_all(&mut list, all);
    store.store_list(&mut list)?;
    Ok(list)
}

/// An index that no name leads to.
fn index_of(store: &ImageStore, all: &[Finished]) -> Result<Descriptor, CommandError> {
    let name = Reference::parse("localhost/none").map_err(CommandError::user)?;
    let mut list = store.new_list(&name);
    add_all(&mut list, all);
    let bytes = serde_json::to_vec(&list.document).map_err(CommandError::host)?;
    let digest = store.blobs().put(&bytes).map_err(CommandError::host)?;
    Ok(Descriptor::new(storage::image::manifest::media_type::OCI_INDEX, digest, bytes.len() as u64))
}

/// What becomes files rather than an image.
fn file_systems(
    build: &mut Build<'_>,
    state: State,
    wanted: &Wanted,
    is_list: bool,
    kept: &[storage::digest::Digest],
) -> Result<(), CommandError> {
    let outputs: Vec<&Output> = wanted.outputs.iter().filter(|output| output.is_file_system()).collect();
    if outputs.is_empty() {
        return Ok(());
    }
    build.options.squash = Squash::All;
    let platform = state.config.platform();
    let finished = finish(build, state, Some(Vec::new()))?;
    let image = stored(&build.store, &finished.manifest)?;
    let place = is_list.then(|| platform.to_string().replace('/', "_"));
    let written = outputs.iter().try_for_each(|output| output.write_files(&build.store, &image, place.as_deref()));
    // It was the way to the files.
    if image.names.is_empty() && !kept.contains(&image.id) {
        build.store.remove(&image)?;
    }
    written
}

fn note(build: &Build<'_>, finished: &Finished, name: &str) {
    if let Ok(id) = storage::digest::Digest::parse(&format!("sha256:{}", finished.id)) {
        build.context.note_image("build", &id, name);
    }
}

fn push_options(args: &Args) -> Result<PushOptions, CommandError> {
    Ok(PushOptions { client: args.registry.to_client_options()?, ..PushOptions::default() })
}

/// The image that was made, as the store has it.
fn stored(store: &ImageStore, manifest: &Descriptor) -> Result<Image, CommandError> {
    let image = store.image_of(manifest)?;
    image.ok_or_else(|| CommandError::new(Kind::Internal, format!("image {} is gone", manifest.digest)))
}
