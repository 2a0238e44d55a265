//! What the lab and the agent in the outer machine say to each other, over a virtio-console port.
//!
//! ```text
//! frame   u32 length of the header, u32 length of the data (little endian), header, data
//! header  JSON: {"job": N, "body": …}; replies carry the job number of their request
//! data    raw bytes: a piece of a file or of a stream
//! ```
//!
//! Any number of jobs run at once; each ends with exactly one [`Reply::Ended`].

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Name of the console port.
pub const PORT: &str = "godwit.agent";

/// Longest header, in bytes.
const HEADER_LIMIT: usize = 256 << 10;

/// Longest data of one frame, in bytes.
pub const DATA_LIMIT: usize = 1 << 20;

/// What the lab asks of the agent.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a program; the job goes on until it ended or its time is up.
    Exec(Exec),
    /// The data is input for the program of this job; no data is the end of its input.
    Input,
    /// End the program of this job and its process group.
    Kill,
    /// Write the data to a file, at its end when `append` is set.
    Put {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whether to keep what the file holds.
        append: bool,
    },
    /// Read a file; it comes as [`Reply::Output`].
    Get {
        /// The file.
        path: PathBuf,
    },
    /// Turn the machine off.
    PowerOff,
}

/// A program to run.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Variables beside those of the agent.
    pub environment: Vec<(String, String)>,
    /// The folder it starts in.
    pub folder: PathBuf,
    /// Time after which it is killed, in milliseconds.
    pub limit_ms: u64,
    /// Rows and columns of a terminal of its own; without one, its streams are pipes.
    pub terminal: Option<(u16, u16)>,
}

/// What the agent answers.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The agent is up; job 0, once.
    Ready {
        /// The outer kernel's release.
        kernel: String,
    },
    /// The data is output of the job.
    Output(Stream),
    /// The job is over.
    Ended(Ending),
}

/// A stream of a program.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output, a terminal, or a file.
    Out,
    /// Standard error.
    Err,
}

/// How a job ended.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The program left with this code, or the file was transferred (0).
    Exited(i32),
    /// A signal ended the program.
    Signalled(i32),
    /// Its time was up, and it was killed.
    TimedOut,
    /// It could not be done, for this reason.
    Refused(String),
}

impl Ending {
    /// Whether the job did what it should.
    pub fn success(&self) -> bool {
        *self == Self::Exited(0)
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut => write!(f, "killed when its time was up"),
            Self::Refused(reason) => write!(f, "not done: {reason}"),
        }
    }
}

/// A header around a request or a reply.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Header<T> {
    /// The job it belongs to.
    pub job: u64,
    /// The request or the reply.
    pub body: T,
}

/// Writes one frame.
///
/// # Errors
/// Those of the writer, and `InvalidInput` when the header or the data is over its limit.
pub fn write<T: Serialize>(
    out: &mut impl Write,
    header: &Header<T>,
    data: &[u8],
) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    if header.len() > HEADER_LIMIT || data.len() > DATA_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the frame is over its limit",
        ));
    }
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len())
            .map(u32::to_le_bytes)
            .map_err(io::Error::other)
    };
    let mut frame = Vec::with_capacity(8 + header.len() + data.len());
    frame.extend_from_slice(&length(&header)?);
    frame.extend_from_slice(&length(data)?);
    frame.extend_from_slice(&header);
    frame.extend_from_slice(data);
    out.write_all(&frame)?;
    out.flush()
}

/// Reads one frame.
///
/// # Errors
/// Those of the reader, `UnexpectedEof` at the end of the stream, and `InvalidData` for lengths
/// over their limit (checked before anything is allocated) or a header that is not understood.
pub fn read<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<(Header<T>, Vec<u8>)> {
    let mut lengths = [0; 8];
    input.read_exact(&mut lengths)?;
    let [a, b, c, d, e, f, g, h] = lengths;
    let header_length = u32::from_le_bytes([a, b, c, d]) as usize;
    let data_length = u32::from_le_bytes([e, f, g, h]) as usize;
    if header_length > HEADER_LIMIT || data_length > DATA_LIMIT {
        let text = format!("frame of {header_length} and {data_length} bytes is over the limit");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut header = vec![0; header_length];
    input.read_exact(&mut header)?;
    let mut data = vec![0; data_length];
    input.read_exact(&mut data)?;
    Ok((serde_json::from_slice(&header)?, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let header = Header {
            job: 7,
            body: Request::Get {
                path: "/proc/uptime".into(),
            },
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &header, b"data").unwrap();
        let (back, data) = read::<Request>(&mut bytes.as_slice()).unwrap();
        assert_eq!((back, data.as_slice()), (header, b"data".as_slice()));
    }

    #[test]
    fn truncated_and_oversized_frames_are_refused() {
        let mut bytes = Vec::new();
        write(
            &mut bytes,
            &Header {
                job: 1,
                body: Request::Kill,
            },
            b"x",
        )
        .unwrap();
        for length in 0..bytes.len() {
            let error = read::<Request>(&mut &bytes[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let error = read::<Request>(&mut [0xff; 64].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let over = vec![0; DATA_LIMIT + 1];
        assert!(
            write(
                &mut Vec::new(),
                &Header {
                    job: 1,
                    body: Request::Input
                },
                &over
            )
            .is_err()
        );
    }
}
