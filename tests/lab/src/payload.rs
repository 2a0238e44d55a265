//! Builds the payload guest of `resources/payload` with the C compiler of this machine.
//!
//! One run of `cc` for each image. They are kept in `target/lab/payload` with a stamp of what they
//! were made of: the sources, the flags and the compiler. A stamp that differs builds all anew.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

/// General registers only: a KVM that interprets guest code knows no SSE. No loop is turned into a
/// call of `memset`, which a freestanding program does not have.
const FLAGS: &[&str] = &[
    "-std=c11",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-mgeneral-regs-only",
    "-mno-red-zone",
    "-mcmodel=small",
    "-fno-pic",
    "-fno-pie",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    "-fno-strict-aliasing",
    "-fno-tree-loop-distribute-patterns",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,--no-warn-rwx-segments",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
];

/// The linked images, one for each way to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadImages {
    /// ELF with a PVH note.
    pub elf_pvh: PathBuf,
    /// ELF without one, for the 64-bit Linux boot protocol.
    pub elf_linux: PathBuf,
    /// The same, wrapped as a bzImage.
    pub bzimage: PathBuf,
}

impl PayloadImages {
    fn at(folder: &Path) -> Self {
        Self {
            elf_pvh: folder.join("payload-pvh.elf"),
            elf_linux: folder.join("payload-linux.elf"),
            bzimage: folder.join("payload.bzimage"),
        }
    }

    /// Prints where they are, a line each.
    pub fn print(&self) {
        for image in [&self.elf_pvh, &self.elf_linux, &self.bzimage] {
            println!("{}", image.display());
        }
    }
}

/// Why there are no images.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The C compiler is not there.
    #[error("cannot run `cc`: install a C compiler and binutils (Debian: `apt-get install gcc`)")]
    Compiler(#[source] io::Error),
    /// The C compiler refused a source.
    #[error("`cc` failed to build {image}:\n{output}")]
    Build {
        /// The image.
        image: PathBuf,
        /// What the compiler printed.
        output: String,
    },
    /// A source or a built file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PayloadError {
    let path = path.to_path_buf();
    move |source| PayloadError::File { path, source }
}

/// The images, built when they are missing or not made of today's sources. With `GODWIT_PAYLOAD`
/// set, those in that folder as they are: in the lab's outer machine the checkout is read-only.
///
/// Several processes may call this at once: one builds, the others wait for it.
///
/// # Errors
/// When `cc` is missing or fails, or a file cannot be read or written.
pub fn build() -> Result<PayloadImages, PayloadError> {
    if let Some(folder) = std::env::var_os("GODWIT_PAYLOAD") {
        return Ok(PayloadImages::at(Path::new(&folder)));
    }
    // tests/lab -> tests -> the checkout
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().map_err(at(&root))?;
    build_in(
        &root.join("resources/payload"),
        &root.join("target/lab/payload"),
    )
}

fn build_in(sources: &Path, folder: &Path) -> Result<PayloadImages, PayloadError> {
    let images = PayloadImages::at(folder);
    fs::create_dir_all(folder).map_err(at(folder))?;
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| at(&lock_path)(errno.into()))?;

    let files = files(sources)?;
    let stamp = stamp(&files)?;
    let stamp_path = folder.join("stamp");
    let current = fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp);
    if current && images.elf_pvh.exists() && images.elf_linux.exists() && images.bzimage.exists() {
        return Ok(images);
    }

    let named = |name: &str| sources.join(name).into_os_string();
    let script = |name: &str| {
        let mut flag = OsString::from("-Wl,-T,");
        flag.push(named(name));
        flag
    };
    let mut code = vec![named("entry.S")];
    code.extend(
        files
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "c"))
            .map(OsString::from),
    );

    link(
        &images.elf_pvh,
        &code,
        &[script("payload.lds"), named("note.S")],
    )?;
    link(&images.elf_linux, &code, &[script("payload.lds")])?;
    let mut include = OsString::from("-Wl,-L,");
    include.push(sources);
    link(
        &images.bzimage,
        &code,
        &[
            include,
            script("bzimage.lds"),
            "-Wl,--oformat=binary".into(),
            named("setup.S"),
        ],
    )?;
    // Last: an interrupted build leaves the old stamp, and is done again.
    fs::write(&stamp_path, stamp).map_err(at(&stamp_path))?;
    Ok(images)
}

/// Builds beside the final name and moves it there: a guest that runs the old image keeps it.
fn link(image: &Path, code: &[OsString], more: &[OsString]) -> Result<(), PayloadError> {
    let unfinished = image.with_extension("new");
    let output = Command::new("cc")
        .args(FLAGS)
        .args(more)
        .args(code)
        .arg("-o")
        .arg(&unfinished)
        .output()
        .map_err(PayloadError::Compiler)?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(PayloadError::Build {
            image: image.into(),
            output,
        });
    }
    fs::rename(&unfinished, image).map_err(at(image))
}

/// The sources, sorted: the order of linking must not depend on the file system.
fn files(sources: &Path) -> Result<Vec<PathBuf>, PayloadError> {
    let entries = fs::read_dir(sources).map_err(at(sources))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(at(sources))?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|e| e == "c" || e == "h" || e == "S" || e == "lds")
    });
    files.sort();
    Ok(files)
}

fn stamp(files: &[PathBuf]) -> Result<String, PayloadError> {
    let compiler = Command::new("cc")
        .arg("--version")
        .output()
        .map_err(PayloadError::Compiler)?;
    let mut hasher = DefaultHasher::new();
    FLAGS.hash(&mut hasher);
    compiler.stdout.hash(&mut hasher);
    for file in files {
        file.hash(&mut hasher);
        fs::read(file).map_err(at(file))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

#[cfg(test)]
mod tests;
