//! Reading the configuration file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crds::RelayConfig;

use super::{Exit, FileArgs};

/// Where the Secrets of a manifest are mounted, one folder each.
const SECRETS_DIR: &str = "/etc/outbox-relay/secrets";

/// Loads and validates; says everything that is wrong and touches nothing.
///
/// # Errors
/// [`Exit::Usage`], said on standard error.
pub(super) fn load(args: &FileArgs) -> Result<RelayConfig, Exit> {
    let text = read(&args.file).map_err(|error| {
        eprintln!("cannot read {}: {error}", args.file.display());
        Exit::Usage
    })?;
    let secrets = std::env::var_os("OUTBOX_RELAY_SECRETS_DIR").map_or(SECRETS_DIR.into(), PathBuf::from);
    crds::load(&text, &secrets).map_err(|problems| {
        eprintln!("{} is not valid:\n{problems}", args.file.display());
        Exit::Usage
    })
}

fn read(path: &Path) -> std::io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}
