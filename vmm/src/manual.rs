//! Shell completions and manual pages, made from the arguments themselves.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Prints the completions of `command` for `shell`.
pub fn completion(mut command: Command, shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "godwit", &mut script);
    io::Write::write_all(&mut io::stdout().lock(), &script)
}

/// Prints the manual page of `command`, or writes those of it and of all that is
/// below it to `folder`.
pub fn pages(command: Command, folder: Option<&Path>) -> io::Result<()> {
    match folder {
        Some(folder) => {
            fs::create_dir_all(folder)?;
            clap_mangen::generate_to(command, folder)
        }
        None => clap_mangen::Man::new(command).render(&mut io::stdout().lock()),
    }
}
