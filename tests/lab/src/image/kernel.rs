//! The distribution kernel: fetched, unpacked, never installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::command::{self, CommandError};
use crate::packages;
use crate::progress::Step;

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    root: PathBuf,
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A command failed.
    #[error("cannot get the kernel from the distribution")]
    Command(#[from] CommandError),
    /// `apt-cache` names no kernel package.
    #[error("{0} depends on no kernel package: are the distribution's package lists complete?")]
    NoPackage(&'static str),
    /// The package does not hold what a kernel package holds.
    #[error("no kernel in {}: remove that folder and run this again", .0.display())]
    Empty(PathBuf),
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kernel image is not one this code can unpack.
    #[error("cannot unpack {}: {reason}", path.display())]
    Unpack {
        /// The kernel image.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Kernel {
    /// The kernel unpacked under `folder`, or fetched and unpacked there when there is none: the one
    /// that `package` depends on.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn obtain(folder: &Path, package: &'static str) -> Result<Self, KernelError> {
        if let Some(kernel) = Self::unpacked(&folder.join("root")) {
            return Ok(kernel);
        }
        let step = Step::start(format!("fetching the kernel of {package}"));
        let partial = folder.join("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(|source| KernelError::Io {
            path: partial.clone(),
            source,
        })?;
        // Package lists may be absent or too old for the mirror: then once more after an update.
        if fetch(&partial, package).is_err() {
            packages::update()?;
            fetch(&partial, package)?;
        }
        let archive = fs::read_dir(&partial)
            .ok()
            .and_then(|mut entries| entries.find_map(|entry| Some(entry.ok()?.path())))
            .ok_or(KernelError::NoPackage(package))?;
        let fresh = folder.join("fresh");
        let _ = fs::remove_dir_all(&fresh);
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&archive).arg(&fresh);
        command::succeed(unpack, Duration::from_secs(120))?;
        let kernel = Self::unpacked(&fresh).ok_or_else(|| KernelError::Empty(fresh.clone()))?;
        let mut depmod = Command::new(packages::find("depmod").unwrap_or_else(|| "depmod".into()));
        depmod.arg("-b").arg(&fresh).arg(&kernel.release);
        command::succeed(depmod, Duration::from_secs(120))?;
        let root = folder.join("root");
        fs::rename(&fresh, &root).map_err(|source| KernelError::Io {
            path: root.clone(),
            source,
        })?;
        let _ = fs::remove_dir_all(&partial);
        step.done(&kernel.release);
        Ok(Self { root, ..kernel })
    }

    fn unpacked(root: &Path) -> Option<Self> {
        let release = fs::read_dir(root.join("boot")).ok()?.find_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_prefix("vmlinuz-")
                .map(str::to_owned)
        })?;
        Some(Self {
            release,
            root: root.to_owned(),
        })
    }

    /// The bzImage.
    pub fn bzimage(&self) -> PathBuf {
        self.root
            .join("boot")
            .join(format!("vmlinuz-{}", self.release))
    }

    /// Module files that `names` need, each after those it depends on. Names that are built into
    /// the kernel have no file.
    ///
    /// # Errors
    /// When the kernel has neither a file nor a built-in module of a name.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>, KernelError> {
        let folder = self.module_folder();
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| KernelError::Io { path, source })
        };
        let dependencies = read("modules.dep")?;
        let built_in = read("modules.builtin")?;
        let mut order: Vec<PathBuf> = Vec::new();
        for name in names {
            let Some((file, needs)) = dependencies
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(file, _)| module_name(file) == module_name(name))
            else {
                if built_in
                    .lines()
                    .any(|file| module_name(file) == module_name(name))
                {
                    continue;
                }
                let source =
                    io::Error::new(io::ErrorKind::NotFound, "the kernel has no such module");
                return Err(KernelError::Io {
                    path: PathBuf::from(*name),
                    source,
                });
            };
            // modules.dep lists dependencies in the reverse of the order they load in.
            for file in needs.split_whitespace().rev().chain([file]) {
                let path = folder.join(file);
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
        Ok(order)
    }

    fn module_folder(&self) -> PathBuf {
        ["lib/modules", "usr/lib/modules"]
            .map(|folder| self.root.join(folder).join(&self.release))
            .into_iter()
            .find(|folder| folder.is_dir())
            .unwrap_or_else(|| self.root.join("lib/modules").join(&self.release))
    }

    /// Writes the uncompressed ELF that the bzImage carries to `out`.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn write_vmlinux(&self, out: &Path) -> Result<(), KernelError> {
        let path = self.bzimage();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| KernelError::Io { path, source }
        };
        let image = fs::read(&path).map_err(io(&path))?;
        let unpack = |reason| KernelError::Unpack {
            path: path.clone(),
            reason,
        };
        let payload =
            compressed_payload(&image).ok_or_else(|| unpack("its setup header is damaged"))?;
        let program = decompressor(payload).ok_or_else(|| unpack("unknown compression"))?;
        let input = out.with_extension("compressed");
        fs::write(&input, payload).map_err(io(&input))?;
        let output = fs::File::create(out).map_err(io(out))?;
        let input_file = fs::File::open(&input).map_err(io(&input))?;
        // The exit status says little: some programs complain of what follows the stream.
        let mut child = Command::new(program)
            .arg("-dc")
            .stdin(input_file)
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| CommandError::Start {
                program: program.to_owned(),
                source,
            })?;
        let _ = child.wait();
        let _ = fs::remove_file(&input);
        let magic = fs::read(out).map_err(io(out))?;
        if magic.starts_with(b"\x7fELF") {
            Ok(())
        } else {
            Err(unpack("what it carries is not an ELF file"))
        }
    }
}

fn fetch(folder: &Path, meta: &'static str) -> Result<(), KernelError> {
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", meta]);
    let listed = command::succeed(depends, Duration::from_secs(60))?;
    let package = listed
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .ok_or(KernelError::NoPackage(meta))?;
    let mut download = Command::new("apt-get");
    download
        .args(["-q", "download", &format!("linux-image-{package}")])
        .current_dir(folder);
    command::succeed(download, Duration::from_secs(300))?;
    Ok(())
}

/// `net/virtio_net.ko.xz`, `virtio-net` and `virtio_net` are one module.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// The compressed kernel inside a bzImage, found by the setup header's `setup_sects`,
/// `payload_offset` and `payload_length` (`Documentation/arch/x86/boot.rst`).
fn compressed_payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let word =
        |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(0x248)?;
    // The last four bytes are the unpacked size, which is no part of the stream.
    image.get(start..start.checked_add(word(0x24c)?)?.checked_sub(4)?)
}

fn decompressor(payload: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], &str); 4] = [
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x1f\x8b", "gzip"),
        (b"\x02\x21\x4c\x18", "lz4"),
    ];
    magics
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .map(|(_, program)| *program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        let length = u32::try_from(payload.len() + 4).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0; 4]);
        image
    }

    #[test]
    fn the_payload_is_found_and_named() {
        let image = bzimage(b"\xfd7zXZ\0data");
        let payload = compressed_payload(&image).unwrap();
        assert_eq!(payload, b"\xfd7zXZ\0data");
        assert_eq!(decompressor(payload), Some("xz"));
    }

    #[test]
    fn a_truncated_image_has_no_payload() {
        let image = bzimage(b"\xfd7zXZ\0data");
        for length in 0..image.len() - 4 {
            assert_eq!(compressed_payload(&image[..length]), None, "{length}");
        }
    }

    #[test]
    fn module_names_are_one_whatever_the_spelling() {
        assert_eq!(module_name("kernel/arch/x86/kvm/kvm-amd.ko"), "kvm_amd");
        assert_eq!(module_name("kvm_amd"), "kvm_amd");
        assert_eq!(module_name("a/virtio_net.ko.xz"), "virtio_net");
    }
}
