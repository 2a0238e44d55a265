//! Hosts made of files, for tests of `godwit check`: each is a text of `path<TAB>content` lines,
//! laid over what all have in common. `tests/check/hosts/base.host` says how such a text is written.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

const BASE: &str = include_str!("../../check/hosts/base.host");

/// A host to be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Two sockets, tuned, PREEMPT_RT.
    Rt,
    /// A distribution's server, not tuned at all.
    Distro,
    /// AMD, isolated but not finished.
    Amd,
    /// A container on the tuned host, with limits.
    Container,
    /// A virtual machine, with some files that hold nonsense.
    Vm,
}

impl Host {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Rt, Self::Distro, Self::Amd, Self::Container, Self::Vm];

    fn texts(self) -> Vec<&'static str> {
        let rt = include_str!("../../check/hosts/rt.host");
        match self {
            Self::Rt => vec![BASE, rt],
            Self::Distro => vec![BASE, include_str!("../../check/hosts/distro.host")],
            Self::Amd => vec![BASE, include_str!("../../check/hosts/amd.host")],
            Self::Container => vec![BASE, rt, include_str!("../../check/hosts/container.host")],
            Self::Vm => vec![BASE, include_str!("../../check/hosts/vm.host")],
        }
    }

    /// Makes its files below `root`.
    ///
    /// # Errors
    /// A file cannot be made, or a line is none.
    pub fn unpack(self, root: &Path) -> io::Result<()> {
        self.texts()
            .into_iter()
            .flat_map(str::lines)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .try_for_each(|line| unpack(root, line))
    }
}

/// Makes the files of one line, which may be laid over others.
///
/// # Errors
/// A file cannot be made, or the line is none.
pub fn unpack(root: &Path, line: &str) -> io::Result<()> {
    let (path, content) = line
        .split_once('\t')
        .ok_or_else(|| io::Error::other(format!("no tab in {line:?}")))?;
    let Some((before, rest)) = path.split_once('{') else {
        return one(&root.join(path), content);
    };
    let range = rest.split_once('}').and_then(|(range, after)| {
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, after))
    });
    let (first, last, after): (i64, i64, _) =
        range.ok_or_else(|| io::Error::other(format!("no range in {line:?}")))?;
    for number in first..=last {
        let own = number.to_string();
        let path = root.join(format!("{before}{number}{}", after.replace("{}", &own)));
        if content == "!per-cpu" {
            bound_thread(&path, number, number - first)?;
        } else if let Some(step) = content.strip_prefix("!threads ") {
            let step: i64 = step.parse().map_err(io::Error::other)?;
            let (low, high) = (number.min(number + step), number.max(number + step));
            one(&path, &format!("{low},{high}"))?;
        } else {
            one(&path, &content.replace("{}", &own))?;
        }
    }
    Ok(())
}

fn one(path: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if content == "!absent" {
        let removed = if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        return match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
    }
    if let Some(target) = content.strip_prefix("-> ") {
        return symlink(target, path);
    }
    if let Some((offset, hex)) = content
        .strip_prefix('@')
        .and_then(|content| content.split_once(' '))
    {
        let bytes: Result<Vec<u8>, _> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2).unwrap_or_default(), 16))
            .collect();
        let bytes = bytes.map_err(io::Error::other)?;
        let file = fs::File::create(path)?;
        return file.write_all_at(&bytes, offset.parse().map_err(io::Error::other)?);
    }
    let content = content.replace("\\n", "\n").replace("\\t", "\t");
    fs::write(path, content + "\n")
}

/// The `stat` and `status` of a kernel thread that nobody can move from its CPU.
fn bound_thread(stat: &Path, id: i64, cpu: i64) -> io::Result<()> {
    let flags = 0x0420_8040;
    let zeros = "0 ".repeat(29);
    one(
        stat,
        &format!("{id} (kworker/{cpu}:0-events) I 2 0 0 0 -1 {flags} {zeros}{cpu} 0 0"),
    )?;
    let status = format!("Name:\tkworker\nCpus_allowed_list:\t{cpu}");
    one(&stat.with_file_name("status"), &status)
}
