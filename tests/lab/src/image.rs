//! The guest image: a distribution kernel and initramfs archives with a small user land, DPDK and
//! the tasks of `resources/image`.
//!
//! ```text
//! target/lab/kernel/root/      the unpacked kernel package, fetched once
//! target/lab/image/vmlinuz     bzImage
//!                  vmlinux     the same kernel as an uncompressed ELF file with a PVH note
//!                  linux.cpio  busybox, kernel modules, network and inspection tools
//!                  dpdk.cpio   linux.cpio and dpdk-testpmd
//!                  outer.cpio  initramfs of the outer machine
//!                  stamp       what all of it was made of
//! target/lab/kernel-rt/, image-rt/  the same of a PREEMPT_RT kernel, with cyclictest and without
//!                                   the outer machine
//! ```

pub mod cpio;
pub mod kernel;
mod recipe;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::command::CommandError;
use crate::packages::{self, PackageError};
use crate::progress::Step;
use crate::workspace;
use cpio::Archive;
use kernel::{Kernel, KernelError};

/// A built image; all its files are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    folder: PathBuf,
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The distribution's kernel; the outer machine boots it too.
    Stock,
    /// Its PREEMPT_RT kernel, for guests.
    Rt,
}

impl Variant {
    /// The package whose dependency is the current kernel.
    fn package(self) -> &'static str {
        match self {
            Self::Stock => "linux-image-amd64",
            Self::Rt => "linux-image-rt-amd64",
        }
    }

    /// Where in `target/lab` the kernel is unpacked.
    fn kernel(self) -> &'static str {
        match self {
            Self::Stock => "kernel",
            Self::Rt => "kernel-rt",
        }
    }

    /// Where in `target/lab` the image is.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Stock => "image",
            Self::Rt => "image-rt",
        }
    }

    /// Programs of the guest's user land beside those that all images have.
    fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Stock => &[],
            Self::Rt => &["cyclictest"],
        }
    }

    /// Whether the outer machine boots it.
    fn has_outer(self) -> bool {
        self == Self::Stock
    }
}

/// What every image has.
const FILES: [&str; 4] = ["vmlinuz", "vmlinux", "linux.cpio", "dpdk.cpio"];

/// The outer machine's initramfs.
const OUTER: &str = "outer.cpio";

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A package is missing and could not be installed.
    #[error("the guest image needs packages of the distribution")]
    Package(#[from] PackageError),
    /// There is no kernel.
    #[error("the guest image needs a kernel")]
    Kernel(#[from] KernelError),
    /// A command failed.
    #[error("cannot find out what the guest image is made of")]
    Command(#[from] CommandError),
    /// A program of the image is not on this machine.
    #[error("{0} is not on this machine, though its package is installed")]
    NoProgram(&'static str),
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { path, source }
}

impl Image {
    /// The image in `folder`, when all its files are there.
    pub fn at(folder: &Path) -> Option<Self> {
        let whole = FILES
            .iter()
            .chain(&["stamp"])
            .all(|file| folder.join(file).is_file());
        whole.then(|| Self {
            folder: folder.to_owned(),
        })
    }

    /// The image in `target/lab/image`, built when it is missing or made of something else than
    /// it would be made of now. Missing packages are installed.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn build() -> Result<Self, ImageError> {
        Self::build_variant(Variant::Stock)
    }

    /// [`Image::build`] for an image of any kind, in the folder of its kind.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn build_variant(variant: Variant) -> Result<Self, ImageError> {
        packages::install_missing(packages::FOR_IMAGE)?;
        if variant == Variant::Rt {
            packages::install_missing(packages::FOR_RT_IMAGE)?;
        }
        let lab = workspace::lab();
        let _lock = workspace::lock(variant.folder()).map_err(at(&lab))?;
        let kernel = Kernel::obtain(&lab.join(variant.kernel()), variant.package())?;
        let recipe = recipe::Recipe::read(&workspace::recipe(), &kernel, variant)?;
        let folder = lab.join(variant.folder());
        let stamp_path = folder.join("stamp");
        if let Some(image) = Self::at(&folder)
            && (!variant.has_outer() || image.outer().is_file())
            && fs::read_to_string(&stamp_path).is_ok_and(|stamp| stamp == recipe.stamp())
        {
            return Ok(image);
        }
        let step = Step::start("building the guest image");
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        // First: an interrupted build must not pass for a whole one.
        let _ = fs::remove_file(&stamp_path);
        step.say("kernel");
        write_new(&folder.join("vmlinuz"), |new| {
            fs::copy(kernel.bzimage(), new).map(drop).map_err(at(new))
        })?;
        write_new(
            &folder.join("vmlinux"),
            |new| Ok(kernel.write_vmlinux(new)?),
        )?;
        let archives = [
            (
                "linux.cpio",
                recipe::Recipe::write_linux as fn(&_, &mut _) -> _,
            ),
            ("dpdk.cpio", recipe::Recipe::write_dpdk),
            (OUTER, recipe::Recipe::write_outer),
        ];
        let wanted = |name: &str| name != OUTER || variant.has_outer();
        for (name, write) in archives.into_iter().filter(|(name, _)| wanted(name)) {
            step.say(name);
            write_new(&folder.join(name), |new| {
                let file = io::BufWriter::new(fs::File::create(new).map_err(at(new))?);
                let mut archive = Archive::new(file);
                write(&recipe, &mut archive)?;
                archive.finish().map(drop).map_err(at(new))
            })?;
        }
        fs::write(&stamp_path, recipe.stamp()).map_err(at(&stamp_path))?;
        step.done(&format!("Linux {}", kernel.release));
        Ok(Self { folder })
    }

    /// The folder of the image.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kernel as a bzImage.
    pub fn bzimage(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The kernel as an uncompressed ELF file with a PVH note.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// Initramfs with busybox, kernel modules, network and inspection tools.
    pub fn linux(&self) -> PathBuf {
        self.folder.join("linux.cpio")
    }

    /// [`Image::linux`] and dpdk-testpmd.
    pub fn dpdk(&self) -> PathBuf {
        self.folder.join("dpdk.cpio")
    }

    /// Initramfs of the outer machine.
    pub fn outer(&self) -> PathBuf {
        self.folder.join(OUTER)
    }
}

/// Writes the initramfs `base` to `out` with a task `name` added: `godwit.task=NAME` runs it.
///
/// # Errors
/// When a file cannot be read or written.
pub fn with_task(base: &Path, out: &Path, name: &str, script: &str) -> io::Result<()> {
    fs::copy(base, out)?;
    let mut file = fs::OpenOptions::new().append(true).open(out)?;
    let mut archive = Archive::new(Vec::new());
    archive.file(&format!("tasks/{name}.sh"), 0o644, script.as_bytes())?;
    file.write_all(&archive.finish()?)
}

/// Writes beside the final name and moves there, so that whoever uses the old file keeps it.
fn write_new(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let new = path.with_extension("new");
    write(&new)?;
    fs::rename(&new, path).map_err(at(path))
}
