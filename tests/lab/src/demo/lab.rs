//! This program, run again in the outer machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::DemoError;
use crate::outer::protocol::{Ending, Stream};
use crate::outer::{Outer, Shape, exec};
use crate::progress::Step;
use crate::workspace;

/// What it left behind.
#[derive(Debug)]
pub(crate) struct Left {
    /// The file that it was to write, if it did.
    pub file: Option<Vec<u8>>,
    /// How it ended.
    pub ending: Ending,
    /// The longest time for which the outer machine's heart stood still.
    pub gap: Duration,
}

/// Runs this program with `arguments` and the path of a file to write after them, in an outer
/// machine of its own of this shape; its output is shown as it comes.
///
/// # Errors
/// When there is no such machine, or it is lost.
pub(crate) fn run(
    name: &str,
    arguments: &[String],
    limit: Duration,
    shape: Shape,
) -> Result<Left, DemoError> {
    let outer = Outer::start(shape)?;
    let step = Step::start(name);
    let path = outer.share().join("result.json");
    let program = workspace::this_program().map_err(|source| DemoError::Io {
        path: PathBuf::from("this program"),
        source,
    })?;
    let mut all = vec![program.display().to_string()];
    all.extend_from_slice(arguments);
    all.push(path.display().to_string());
    let _ = outer.longest_gap();
    let mut unfinished = Vec::new();
    let result = outer.client().run(exec(all, limit), |_: Stream, data| {
        unfinished.extend_from_slice(data);
        while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unfinished.drain(..=end).collect();
            step.line(&format!("  {}", String::from_utf8_lossy(&line).trim_end()));
        }
    })?;
    let left = Left {
        file: fs::read(&path).ok(),
        ending: result.ending,
        gap: outer.longest_gap(),
    };
    if left.ending.success() {
        step.done("done");
    }
    Ok(left)
}
