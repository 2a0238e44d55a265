//! What goes into the archives, and the stamp that tells when they are out of date.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::cpio::Archive;
use super::kernel::Kernel;
use super::{ImageError, Variant, at};
use crate::command;
use crate::packages;

/// Programs of the guest's user land beside busybox.
const TOOLS: &[&str] = &["iperf3", "ethtool", "ip", "lscpu", "lsblk", "lspci"];

/// Where testpmd is told to look for drivers in the guest.
const DRIVERS: &str = "usr/lib/dpdk";

/// Poll-mode drivers testpmd loads by name; `librte_bus_pci` comes as their dependency, and
/// loaded from a second path it aborts on a tailq registered twice.
const DRIVER_NAMES: &[&str] = &["librte_net_virtio.so", "librte_mempool_ring.so"];

/// Raised when the code below makes other archives of the same files.
const REVISION: u32 = 1;

/// Everything the archives are made of.
#[derive(Debug)]
pub(super) struct Recipe {
    scripts: PathBuf,
    tasks: Vec<PathBuf>,
    busybox: PathBuf,
    applets: Vec<String>,
    guest_modules: Vec<(String, Vec<PathBuf>)>,
    outer_modules: Vec<PathBuf>,
    /// Programs and their libraries: place in the archive, file on this machine.
    tools: Vec<(String, PathBuf)>,
    dpdk: Vec<(String, PathBuf)>,
    stamp: String,
}

type Written = Result<(), ImageError>;

impl Recipe {
    /// Finds out what the archives would be made of now.
    pub(super) fn read(
        scripts: &Path,
        kernel: &Kernel,
        variant: Variant,
    ) -> Result<Self, ImageError> {
        let found = |name: &'static str| packages::find(name).ok_or(ImageError::NoProgram(name));
        let busybox = found("busybox")?;
        let mut list = Command::new(&busybox);
        list.arg("--list");
        let applets = command::succeed(list, Duration::from_secs(30))?.stdout;

        let mut tools = Vec::new();
        for name in TOOLS.iter().chain(variant.tools()) {
            tools.push((format!("usr/bin/{name}"), found(name)?));
        }
        let tools = with_libraries(tools)?;

        let mut dpdk = vec![
            ("usr/bin/dpdk-testpmd".to_owned(), found("dpdk-testpmd")?),
            ("usr/bin/stdbuf".to_owned(), found("stdbuf")?),
        ];
        for name in DRIVER_NAMES {
            dpdk.push((format!("{DRIVERS}/{name}"), driver(name)?));
        }
        // Loaded while it runs, the latter when testpmd ends its threads.
        for name in [
            "usr/libexec/coreutils/libstdbuf.so",
            "usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
        ] {
            dpdk.push((name.to_owned(), Path::new("/").join(name)));
        }
        let mut dpdk = with_libraries(dpdk)?;
        dpdk.retain(|file| !tools.contains(file));

        let mut guest_modules = Vec::new();
        for name in module_names(&scripts.join("guest.modules"))? {
            let files = kernel.modules(&[&name])?;
            guest_modules.push((name, files));
        }
        let outer_modules = if variant.has_outer() {
            let names = module_names(&scripts.join("outer.modules"))?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            kernel.modules(&names)?
        } else {
            Vec::new()
        };
        let folder = scripts.join("tasks");
        let mut tasks: Vec<PathBuf> = fs::read_dir(&folder)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect()
            })
            .map_err(at(&folder))?;
        tasks.sort();

        let mut recipe = Self {
            scripts: scripts.to_owned(),
            tasks,
            busybox,
            applets: applets.split_whitespace().map(str::to_owned).collect(),
            guest_modules,
            outer_modules,
            tools,
            dpdk,
            stamp: String::new(),
        };
        recipe.stamp = recipe.make_stamp(&kernel.release)?;
        Ok(recipe)
    }

    /// What the archives are made of, as text: equal stamps mean equal images.
    pub(super) fn stamp(&self) -> &str {
        &self.stamp
    }

    fn make_stamp(&self, release: &str) -> Result<String, ImageError> {
        let mut stamp = format!("revision {REVISION}\nkernel {release}\n");
        let named = ["guest.init", "outer.init", "guest.modules", "outer.modules"];
        let named = named.map(|name| self.scripts.join(name));
        for path in named.iter().chain(&self.tasks) {
            let mut hasher = DefaultHasher::new();
            fs::read(path).map_err(at(path))?.hash(&mut hasher);
            let _ = writeln!(stamp, "{} {:016x}", path.display(), hasher.finish());
        }
        let files = self.tools.iter().chain(&self.dpdk).map(|(_, path)| path);
        for path in files.chain([&self.busybox]) {
            // Packaged files change in size or time when their package does.
            let metadata = fs::metadata(path).map_err(at(path))?;
            let _ = writeln!(
                stamp,
                "{} {} {}",
                path.display(),
                metadata.len(),
                metadata.mtime()
            );
        }
        Ok(stamp)
    }

    /// The archive for Linux guests.
    pub(super) fn write_linux<W: Write>(&self, archive: &mut Archive<W>) -> Written {
        self.base(archive, "guest.init")?;
        for path in &self.tasks {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            archive
                .copy(&format!("tasks/{name}"), path)
                .map_err(at(path))?;
        }
        for (name, files) in &self.guest_modules {
            let order = modules(archive, files)?;
            let list = format!("modules/{name}.order");
            archive
                .file(&list, 0o644, order.as_bytes())
                .map_err(at(Path::new(&list)))?;
        }
        copy_all(archive, &self.tools)
    }

    /// The archive for DPDK guests.
    pub(super) fn write_dpdk<W: Write>(&self, archive: &mut Archive<W>) -> Written {
        self.write_linux(archive)?;
        copy_all(archive, &self.dpdk)
    }

    /// The archive of the outer machine.
    pub(super) fn write_outer<W: Write>(&self, archive: &mut Archive<W>) -> Written {
        self.base(archive, "outer.init")?;
        let order = modules(archive, &self.outer_modules)?;
        archive
            .file("modules/order", 0o644, order.as_bytes())
            .map_err(at(Path::new("modules/order")))
    }

    fn base<W: Write>(&self, archive: &mut Archive<W>, init: &str) -> Written {
        let result = (|| {
            for folder in [
                "proc", "sys", "dev", "run", "tmp", "root", "usr/bin", "usr/sbin",
            ] {
                archive.directory(folder)?;
            }
            for (link, target) in [
                ("bin", "usr/bin"),
                ("sbin", "usr/sbin"),
                ("lib", "usr/lib"),
                ("lib64", "usr/lib64"),
            ] {
                archive.symlink(link, target)?;
            }
            // The kernel opens the console before init runs.
            archive.character_device("dev/console", 5, 1)?;
            archive.copy("busybox/busybox", &self.busybox)?;
            archive.symlink("usr/bin/sh", "/busybox/busybox")?;
            for applet in self.applets.iter().filter(|applet| *applet != "busybox") {
                archive.symlink(&format!("busybox/{applet}"), "busybox")?;
            }
            let script = fs::read(self.scripts.join(init))?;
            archive.file("init", 0o755, &script)
        })();
        result.map_err(at(&self.scripts.join(init)))
    }
}

/// Adds modules under their file names; gives their paths in the order they load in.
fn modules<W: Write>(archive: &mut Archive<W>, files: &[PathBuf]) -> Result<String, ImageError> {
    let mut order = String::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // Newer kernels come with compressed modules; busybox loads plain ones.
        let place = match name.strip_suffix(".xz") {
            Some(plain) => {
                let contents = Command::new("xz")
                    .arg("-dc")
                    .arg(file)
                    .output()
                    .map_err(at(file))?;
                let place = format!("modules/{plain}");
                // Several lists share modules: the kernel unpacks the last of equal entries.
                archive
                    .file(&place, 0o644, &contents.stdout)
                    .map_err(at(file))?;
                place
            }
            None => {
                let place = format!("modules/{name}");
                archive.copy(&place, file).map_err(at(file))?;
                place
            }
        };
        let _ = writeln!(order, "/{place}");
    }
    Ok(order)
}

fn copy_all<W: Write>(archive: &mut Archive<W>, files: &[(String, PathBuf)]) -> Written {
    files
        .iter()
        .try_for_each(|(place, file)| archive.copy(place, file).map_err(at(file)))
}

fn module_names(path: &Path) -> Result<Vec<String>, ImageError> {
    let text = fs::read_to_string(path).map_err(at(path))?;
    let names = text.lines().map(str::trim);
    Ok(names
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

/// Programs, and the shared libraries `ldd` names for them, without duplicates.
fn with_libraries(files: Vec<(String, PathBuf)>) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let mut libraries = BTreeSet::new();
    for (_, file) in &files {
        let mut ldd = Command::new("ldd");
        ldd.arg(file);
        let listed = command::run(ldd, Duration::from_secs(30))?.stdout;
        libraries.extend(
            listed
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
                .map(str::to_owned),
        );
    }
    let place = |library: &String| {
        // On this machine /lib may be a link to /usr/lib; in the image it always is.
        let path = library.trim_start_matches('/');
        let place = if path.starts_with("usr/") {
            path.to_owned()
        } else {
            format!("usr/{path}")
        };
        (place, PathBuf::from(library))
    };
    let mut all = files;
    for entry in libraries.iter().map(place) {
        if !all.iter().any(|(place, _)| *place == entry.0) {
            all.push(entry);
        }
    }
    Ok(all)
}

fn driver(name: &'static str) -> Result<PathBuf, ImageError> {
    let folder = Path::new("/usr/lib/x86_64-linux-gnu/dpdk");
    let versions = fs::read_dir(folder).map_err(at(folder))?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join(name)))
        .find(|path| path.is_file())
        .ok_or(ImageError::NoProgram(name))
}
