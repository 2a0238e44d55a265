//! Writes initramfs archives: cpio in the `newc` format, as the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst` describes it.
//!
//! Archives can be joined end to end, so a test adds a script of its own to a cached image by
//! writing a small archive after it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty archive into `out`, which must stand at a multiple of four bytes.
    pub fn new(out: W) -> Self {
        Self {
            out,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a folder and those above it; twice is once.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, &[], (0, 0))
    }

    /// Adds a regular file; `mode` holds its permission bits.
    ///
    /// # Errors
    /// Those of the writer, and `InvalidInput` for contents of 4 GiB or more.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parents(path)?;
        self.entry(path, REGULAR | mode, contents, (0, 0))
    }

    /// Adds the file `host` of this machine, links followed, with its permission bits.
    ///
    /// # Errors
    /// When it cannot be read, and those of [`Archive::file`].
    pub fn copy(&mut self, path: &str, host: &Path) -> io::Result<()> {
        let mut contents = Vec::new();
        let mut file = File::open(host)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        file.read_to_end(&mut contents)?;
        self.file(path, mode, &contents)
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parents(path)?;
        // Files added below the link go to where it points, so it counts as a folder.
        self.directories.insert(path.to_owned());
        self.entry(path, SYMLINK | 0o777, target.as_bytes(), (0, 0))
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parents(path)?;
        self.entry(path, CHARACTER | 0o600, &[], (major, minor))
    }

    /// Writes the trailer and gives the writer back.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[], (0, 0))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        contents: &[u8],
        device: (u32, u32),
    ) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(contents.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        // inode, mode, uid, gid, links, mtime, size, device of the archive, device of the node, name, check.
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + path.len() + 1)?;
        self.out.write_all(contents)?;
        self.pad(contents.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let zeros = [0; 3];
        let missing = written.wrapping_neg() % 4;
        self.out.write_all(zeros.get(..missing).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_parents_come_first() {
        let mut archive = Archive::new(Vec::new());
        archive.file("usr/bin/true", 0o755, b"abcde").unwrap();
        archive.file("usr/bin/false", 0o755, b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<_> = [
            "usr\0",
            "usr/bin\0",
            "usr/bin/true\0",
            "usr/bin/false\0",
            "TRAILER!!!\0",
        ]
        .iter()
        .map(|name| text.find(name).unwrap())
        .collect();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("070701").count(), 5);
    }

    #[test]
    fn busybox_reads_what_is_written() {
        let folder = std::env::temp_dir().join(format!("godwit-cpio-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b", 0o640, b"hello").unwrap();
        archive.symlink("c", "a").unwrap();
        std::fs::write(folder.join("x.cpio"), archive.finish().unwrap()).unwrap();
        // Only where a reader of cpio is installed; the lab's own tests boot such archives anyway.
        let mut reader = std::process::Command::new("busybox");
        reader
            .args(["cpio", "-i", "-F", "x.cpio"])
            .current_dir(&folder);
        if let Ok(status) = reader.status() {
            assert!(status.success());
            assert_eq!(std::fs::read(folder.join("c/b")).unwrap(), b"hello");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
