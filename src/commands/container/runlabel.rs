//! `container runlabel`: the command line that an image brings in one of its labels.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use storage::image::Image;
use storage::reference::Reference;
use storage::state::container;
use storage::state::request::PullPolicy;
use storage::transport::PullOptions;

use crate::cli::output;
use crate::cli::printable::Printable;
use crate::commands::{Context, Outcome, change, lifecycle, pull, rm, space};
use crate::error::{CommandError, reason};

const EXAMPLES: &str = r#"Examples:
  coracle container runlabel --display install IMAGE   # what would be run
  coracle container runlabel install IMAGE"#;

/// Execute the command described by an image label
///
/// The command runs on this machine, outside of any container: look at it with --display first. IMAGE and NAME in it
/// become the image's name and the container's; podman and docker at its beginning mean this program.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name of the label
    #[arg(value_name = "LABEL")]
    label: String,
    /// Image that has it; pulled if it is not here
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Further arguments for the command
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
    /// Preview the command that the label would run
    #[arg(long)]
    display: bool,
    /// Assign a name to the container
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Suppress output information when pulling the image
    #[arg(short, long)]
    quiet: bool,
    /// Replace existing container with a new one from the image
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    registry: pull::RegistryArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let options = PullOptions { client: args.registry.to_client_options()?, ..PullOptions::default() };
    let image = pull::ensure(context, &args.image, PullPolicy::Missing, &options, args.quiet)?;
    let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
    let found = labels.and_then(|all| all.iter().find(|(name, _)| name.eq_ignore_ascii_case(&args.label)));
    let Some((_, text)) = found.filter(|(_, text)| !text.trim().is_empty()) else {
        return Err(CommandError::user(format_args!(
            "cannot find the value of label: {} in image: {}",
            args.label, args.image
        )));
    };
    let names = Names { image: image_name(&image), container: args.name.unwrap_or_else(|| short(&args.image)) };
    let variable = |name: &str| match name {
        "PWD" => std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        "OPT1" | "OPT2" | "OPT3" => std::env::var(name).unwrap_or_default(),
        _ => String::new(),
    };
    let mut words = names.fill(change::words(text), &args.args, variable);
    let program = words.remove(0);
    let is_own = matches!(program.as_str(), "podman" | "docker" | "coracle");
    if args.display {
        let first = if is_own { context.program } else { &program };
        let line = std::iter::once(first).chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
        output::print_line(format_args!("command: {}", Printable::line(&line)))?;
        return Ok(0);
    }
    if args.replace {
        replace(&words, context)?;
    }
    let mut command = Command::new(if is_own { "/proc/self/exe" } else { &program });
    if is_own {
        command.arg0(context.program);
        command.arg("--root").arg(context.layout.data_dir()).arg("--runroot").arg(context.layout.runtime_dir());
    }
    let error = command.args(&words).exec();
    Err(CommandError::user(format_args!("label {}: {}: {}", args.label, Printable::line(&program), reason(&error))))
}

/// `--replace`: the container that has the name goes.
fn replace(words: &[String], context: &Context) -> Result<(), CommandError> {
    let named = words.iter().position(|word| word == "--name").and_then(|place| words.get(place + 1));
    let name = named.map(String::as_str).or_else(|| words.iter().find_map(|word| word.strip_prefix("--name=")));
    if let Some(name) = name
        && let Ok(other) = container::find(&context.layout, name)
        && other.name == name
    {
        lifecycle::begin_stop(context, &other, Some(std::time::Duration::ZERO))?.finish(context)?;
        rm::remove(context, &other, false)?;
        space::empty_trash(&context.layout);
    }
    Ok(())
}

fn image_name(image: &Image) -> String {
    image.names.first().map_or_else(|| image.id.hex().to_owned(), Reference::to_string)
}

/// What a container is called after its image: the last part of the name, without the tag.
fn short(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split([':', '@']).next().unwrap_or(last).to_owned()
}

/// What stands for words of the label.
struct Names {
    image: String,
    container: String,
}

impl Names {
    /// The words of the command; at least one.
    fn fill(&self, words: Vec<String>, more: &[String], variable: impl Fn(&str) -> String) -> Vec<String> {
        let fill = |(place, word): (usize, String)| match word.as_str() {
            _ if place == 0 => vec![word],
            "IMAGE" | "$IMAGE" | "${IMAGE}" => vec![self.image.clone()],
            "IMAGE=IMAGE" | "IMAGE=$IMAGE" => vec![format!("IMAGE={}", self.image)],
            "NAME" | "$NAME" | "${NAME}" => vec![self.container.clone()],
            "NAME=NAME" | "NAME=$NAME" => vec![format!("NAME={}", self.container)],
            "$GLOBAL_OPTS" => Vec::new(),
            // Options that the caller may add: several words, or none.
            "$OPT1" | "$OPT2" | "$OPT3" | "${OPT1}" | "${OPT2}" | "${OPT3}" => change::words(&expand(&word, &variable)),
            _ => vec![expand(&word, &variable)],
        };
        words.into_iter().enumerate().flat_map(fill).chain(more.iter().cloned()).collect()
    }
}

/// `$NAME` and `${NAME}`.
fn expand(word: &str, variable: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, next) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                let end = after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(after.len());
                after.split_at(end)
            }
        };
        match name {
            "" => out.push('$'),
            name => out.push_str(&variable(name)),
        }
        rest = next;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_label_are_filled_in() {
        let names = Names { image: "localhost/a:1".to_owned(), container: "a".to_owned() };
        let variable = |name: &str| match name {
            "PWD" => "/w d".to_owned(),
            "OPT1" => "--rm -t".to_owned(),
            _ => String::new(),
        };
        let fill = |text: &str| names.fill(change::words(text), &["x y".to_owned()], variable).join("|");
        assert_eq!(
            fill("podman run --name NAME -e IMAGE=IMAGE -v ${PWD}/d:/d $GLOBAL_OPTS IMAGE 'a $OPT2b'"),
            "podman|run|--name|a|-e|IMAGE=localhost/a:1|-v|/w d/d:/d|localhost/a:1|a |x y"
        );
        assert_eq!(fill("docker run ${OPT1} ${OPT3} $IMAGE"), "docker|run|--rm|-t|localhost/a:1|x y");
        assert_eq!(fill("IMAGE"), "IMAGE|x y");
        assert_eq!(expand("a$", variable), "a$");
    }

    #[test]
    fn containers_are_called_after_their_image() {
        for (image, name) in [("busybox", "busybox"), ("localhost:5000/a/web:1", "web"), ("a@sha256:00", "a")] {
            assert_eq!(short(image), name);
        }
    }
}
