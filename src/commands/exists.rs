//! `container exists`, `image exists`, `volume exists`: the exit status is the answer.

use storage::image::store::ImageStore;
use storage::secret::SecretError;
use storage::state::container::{self, ContainerError};
use storage::state::network::NetworkError;
use storage::state::pod::PodError;
use storage::volume::{self, VolumeError};

use super::{Context, Outcome};

/// Check if an object exists
///
/// The exit status is 0 if it does, 1 if it does not, 125 if that cannot be told.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID
    #[arg(value_name = "NAME")]
    name: String,
    /// Look for containers that are not coracle's as well (there are none)
    #[arg(long, hide = true)]
    external: bool,
}

/// Runs `container exists`.
pub(crate) fn container(args: Args, context: &Context) -> Outcome {
    match container::find(&context.layout, &args.name) {
        Ok(_) => Ok(0),
        Err(ContainerError::NotFound(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// Runs `image exists`.
pub(crate) fn image(args: Args, context: &Context) -> Outcome {
    Ok(u8::from(ImageStore::open(&context.layout).resolve(&args.name)?.is_none()))
}

/// Runs `network exists`.
pub(crate) fn network(args: Args, context: &Context) -> Outcome {
    match crate::networks::find(&context.layout, &args.name) {
        Ok(_) => Ok(0),
        Err(NetworkError::NotFound(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// Runs `pod exists`.
pub(crate) fn pod(args: Args, context: &Context) -> Outcome {
    match storage::state::pod::find(&context.layout, &args.name) {
        Ok(_) => Ok(0),
        Err(PodError::NotFound(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// Runs `secret exists`.
pub(crate) fn secret(args: Args, context: &Context) -> Outcome {
    match storage::secret::find(&context.layout, &args.name) {
        Ok(_) => Ok(0),
        Err(SecretError::NotFound(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// Runs `volume exists`.
pub(crate) fn volume(args: Args, context: &Context) -> Outcome {
    match volume::find(&context.layout, &args.name) {
        Ok(_) => Ok(0),
        Err(VolumeError::NotFound(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}
