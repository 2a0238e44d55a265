//! Where the checkout and the lab's own files are.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// The root of the checkout this tool was built from.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    // tests/lab -> tests -> root; a manifest directory that shallow cannot have been compiled.
    manifest.ancestors().nth(2).unwrap_or(manifest)
}

/// `target/lab`: everything the lab caches or writes. It stays inside the checkout even when
/// `CARGO_TARGET_DIR` points elsewhere, because the example configs name files in it.
pub fn lab() -> PathBuf {
    root().join("target/lab")
}

/// `resources/image`: the recipe of the guest image and of the outer machine.
pub fn recipe() -> PathBuf {
    root().join("resources/image")
}

/// A config by its path from the current folder, or else from the root of the checkout.
pub fn config(path: &Path) -> PathBuf {
    if path.exists() {
        return std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    }
    root().join(path)
}

/// This program, as a path that can be run again: a build may have replaced it meanwhile, which
/// `/proc/self/exe` tells by a suffix.
///
/// # Errors
/// When `/proc` is not there.
pub fn this_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text
        .strip_suffix(" (deleted)")
        .map_or_else(|| path.clone(), PathBuf::from))
}

/// Waits for, then holds, the lock that keeps two runs from building the same file in `target/lab`.
/// It is released when the returned value is dropped.
///
/// # Errors
/// When the folder or the lock file cannot be made.
pub fn lock(name: &str) -> io::Result<Flock<File>> {
    let folder = lab();
    fs::create_dir_all(&folder)?;
    let file = File::create(folder.join(format!("{name}.lock")))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}
