//! Builds programs of this workspace with cargo, and tells where they are.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::command::{self, CommandError};
use crate::progress::Step;
use crate::workspace;

/// Longest time for one build.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Why something is not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo could not be run, or took too long.
    #[error("cannot build")]
    Command(#[from] CommandError),
    /// It does not compile.
    #[error("it does not build:\n{0}")]
    Failed(String),
    /// Cargo was content, and there is no such program.
    #[error("cargo built no {0}: is the target declared in vmm/Cargo.toml?")]
    NotBuilt(&'static str),
}

/// What cargo says of something it built; other messages lack one field or both.
#[derive(Debug, Deserialize)]
struct Artifact {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The `godwit` program.
///
/// # Errors
/// See [`BuildError`].
pub fn godwit() -> Result<PathBuf, BuildError> {
    let step = Step::start("building godwit");
    let mut built = cargo(&["build", "--package", "godwit", "--bin", "godwit"])?;
    step.done("done");
    built
        .remove(&key("godwit", "bin"))
        .ok_or(BuildError::NotBuilt("godwit"))
}

/// The integration tests, and the `godwit` they start.
///
/// # Errors
/// See [`BuildError`].
pub fn integration() -> Result<(PathBuf, PathBuf), BuildError> {
    let mut built = cargo(&[
        "test",
        "--package",
        "godwit",
        "--test",
        "integration",
        "--no-run",
    ])?;
    let tests = built
        .remove(&key("integration", "test"))
        .ok_or(BuildError::NotBuilt("test binary"))?;
    let godwit = built
        .remove(&key("godwit", "bin"))
        .ok_or(BuildError::NotBuilt("godwit"))?;
    Ok((tests, godwit))
}

fn key(name: &str, kind: &str) -> (String, String) {
    (name.to_owned(), kind.to_owned())
}

/// Runs cargo; gives the programs it built or found up to date, by target name and kind.
fn cargo(arguments: &[&str]) -> Result<HashMap<(String, String), PathBuf>, BuildError> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics"]);
    cargo
        .env("CARGO_TERM_COLOR", "never")
        .current_dir(workspace::root());
    let finished = command::run(cargo, LIMIT)?;
    if !finished.status.success() {
        return Err(BuildError::Failed(command::tail(&finished.stderr, 100)));
    }
    let built = finished.stdout.lines().filter_map(|line| {
        let Artifact { target, executable } = serde_json::from_str(line).ok()?;
        let target = target?;
        Some((key(&target.name, target.kind.first()?), executable?))
    });
    Ok(built.collect())
}
