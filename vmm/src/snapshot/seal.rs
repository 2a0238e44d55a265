//! The last file of a snapshot: the machine's state, and checksums of all else.
//!
//! ```text
//!  "GW-SEALS" | version u32 | length u64 | CRC-32C u32 | postcard of SealV1
//! ```
//!
//! Integers are little-endian; the checksum covers what is before it and what is
//! behind it. A folder of a godwit that had no seals has the bare state in the
//! same file, which begins otherwise.

use std::path::{Path, PathBuf};

use godwit_migration::store::Checksums;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"GW-SEALS";
/// The version that is written; older ones are read.
const VERSION: u32 = 1;
/// Magic, version and length; the checksum is behind them.
const HEADER: usize = 20;
const BODY: usize = HEADER + 4;

/// A sealed machine, first version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SealV1 {
    files: Vec<FileV1>,
    /// Of the memory file.
    pub(super) memory: Checksums,
    /// The machine's state, encoded.
    pub(super) state: Vec<u8>,
}

/// What a file was when it was written, first version.
#[derive(Debug, Serialize, Deserialize)]
struct FileV1 {
    name: String,
    bytes: u64,
    checksum: u32,
}

/// A file of a snapshot is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Too short, or something else altogether.
    #[error("{}: these {bytes} bytes are not a saved machine", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// How many there are.
        bytes: usize,
    },
    /// Written by a newer version.
    #[error(
        "{}: the snapshot is of version {found}; this godwit knows {VERSION} and older",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// Cut off, or longer than it was.
    #[error("{} has {found} bytes where {expected} are announced", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// How many were written.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// Changed since.
    #[error(
        "{} is damaged: its checksum is {found:#010x}, not {expected:#010x}",
        path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What was written.
        expected: u32,
        /// What is there.
        found: u32,
    },
    /// The bytes are no seal, or cannot be made into one.
    #[error("{}: the seal of the snapshot cannot be encoded or decoded", path.display())]
    Codec {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: postcard::Error,
    },
}

impl SealV1 {
    /// Seals a machine: its state, its memory and its other files.
    pub(super) fn new(state: Vec<u8>, memory: Checksums, files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| FileV1 {
            name: (*name).to_owned(),
            bytes: bytes.len() as u64,
            checksum: crc32c::crc32c(bytes),
        });
        Self {
            files: files.collect(),
            memory,
            state,
        }
    }

    /// Whether `bytes` begin as a seal does, or as a bare state.
    pub(super) fn is_bare(bytes: &[u8]) -> bool {
        bytes.starts_with(crate::machine::MachineV1::MAGIC)
    }

    /// The bytes of the file at `path`.
    pub(super) fn encode(&self, path: &Path) -> Result<Vec<u8>, SealError> {
        let mut bytes =
            postcard::to_extend(self, vec![0; BODY]).map_err(|source| SealError::Codec {
                path: path.to_owned(),
                source,
            })?;
        let length = (bytes.len() - BODY) as u64;
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..HEADER].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(&bytes);
        bytes[HEADER..BODY].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }

    /// The seal that `bytes`, those of the file at `path`, are.
    pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Self, SealError> {
        let path = || path.to_owned();
        let format = || SealError::Format {
            path: path(),
            bytes: bytes.len(),
        };
        let word = |at: usize| -> Result<u32, SealError> {
            let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            word.map(u32::from_le_bytes).ok_or_else(format)
        };
        let length = bytes.get(12..HEADER).and_then(|b| b.try_into().ok());
        let length = length.map(u64::from_le_bytes).ok_or_else(format)?;
        let body = bytes.get(BODY..).ok_or_else(format)?;
        if !bytes.starts_with(MAGIC) {
            return Err(format());
        }
        let version = word(8)?;
        if version == 0 || version > VERSION {
            return Err(SealError::Version {
                path: path(),
                found: version,
            });
        }
        if length != body.len() as u64 {
            return Err(SealError::Length {
                path: path(),
                expected: length.saturating_add(BODY as u64),
                found: bytes.len() as u64,
            });
        }
        let (expected, found) = (word(HEADER)?, checksum(bytes));
        if expected != found {
            return Err(SealError::Checksum {
                path: path(),
                expected,
                found,
            });
        }
        postcard::from_bytes(body).map_err(|source| SealError::Codec {
            path: path(),
            source,
        })
    }

    /// Whether the file `name`, at `path`, is as it was.
    pub(super) fn check(&self, path: &Path, name: &str, bytes: &[u8]) -> Result<(), SealError> {
        let file = self.files.iter().find(|file| file.name == name);
        let (expected, checksum) = file.map_or((0, 0), |file| (file.bytes, file.checksum));
        if expected != bytes.len() as u64 {
            return Err(SealError::Length {
                path: path.to_owned(),
                expected,
                found: bytes.len() as u64,
            });
        }
        let found = crc32c::crc32c(bytes);
        if checksum != found {
            return Err(SealError::Checksum {
                path: path.to_owned(),
                expected: checksum,
                found,
            });
        }
        Ok(())
    }
}

/// That of a seal's bytes, but for the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let head = bytes.get(..HEADER).unwrap_or_default();
    let body = bytes.get(BODY..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("/snapshot/state.bin")
    }

    fn sealed() -> Vec<u8> {
        let files: [(&str, &[u8]); 2] = [("a", b"first"), ("b", b"second")];
        let seal = SealV1::new(b"a state".to_vec(), Checksums::default(), &files);
        seal.encode(path()).unwrap()
    }

    #[test]
    fn what_is_sealed_is_found_again() {
        let seal = SealV1::decode(path(), &sealed()).unwrap();
        assert_eq!(seal.state, b"a state");
        seal.check(Path::new("b"), "b", b"second").unwrap();
        seal.check(Path::new("a"), "a", b"first").unwrap();
        for (name, bytes) in [("a", &b"firsT"[..]), ("a", b"firs"), ("c", b"third")] {
            assert!(seal.check(Path::new(name), name, bytes).is_err());
        }
    }

    #[test]
    fn each_byte_of_a_seal_counts_and_each_cut() {
        let whole = sealed();
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                assert!(SealV1::decode(path(), &bytes).is_err(), "byte {at}");
                assert!(!SealV1::is_bare(&bytes), "byte {at}");
            }
            let error = SealV1::decode(path(), &whole[..at]).unwrap_err();
            assert!(error.to_string().contains("state.bin"), "{error}");
        }
    }

    #[test]
    fn a_newer_seal_is_named() {
        let mut bytes = sealed();
        bytes[8] = 2;
        let error = SealV1::decode(path(), &bytes).unwrap_err();
        assert!(matches!(error, SealError::Version { found: 2, .. }));
    }
}
