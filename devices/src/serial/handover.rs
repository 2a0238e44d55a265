//! A serial port that goes to another instance on this host, with all that is open.
//!
//! ```text
//!  source                                             destination
//!   hand_over   input and clients wait ----------->   made of the descriptors, waits too
//!   ...         the guest writes on                      |
//!   leave_note  what nobody has taken yet, in a memfd -> read_note
//!   disown      the socket's file is not ours            go_on: it is, and all is served
//!
//!   go_on       it did not come about: as before
//! ```
//!
//! The descriptors are the same open files in both processes, so that what a client
//! types meanwhile waits in the kernel, and nobody has to connect anew.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::backend::Place;
use super::pump::{Pump, SharedPump};
use super::{PENDING_LIMIT, SerialHandle, TYPED_LIMIT};

/// What a port that is being handed over keeps.
#[derive(Debug)]
pub(super) struct Handover {
    note: File,
    /// What the note says, should the port stay.
    left: Option<Note>,
}

impl Handover {
    pub(super) fn of(note: OwnedFd) -> Self {
        Self {
            note: File::from(note),
            left: None,
        }
    }
}

/// Bytes on their way: read and not given to the guest, and written by it and not
/// taken.
///
/// ```text
///  length of input u32, little-endian | input | output
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
struct Note {
    input: VecDeque<u8>,
    output: VecDeque<u8>,
}

impl Note {
    fn write(&self, to: &mut File) -> io::Result<()> {
        let length = u32::try_from(self.input.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::from(length.to_le_bytes());
        bytes.extend(self.input.iter().chain(&self.output));
        to.seek(SeekFrom::Start(0))?;
        to.write_all(&bytes)
    }

    /// No more is taken than a port keeps, whatever came.
    fn read(from: &mut File) -> io::Result<Self> {
        from.seek(SeekFrom::Start(0))?;
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        if length > TYPED_LIMIT as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (mut input, mut output) = (Vec::new(), Vec::new());
        from.take(length).read_to_end(&mut input)?;
        from.take(PENDING_LIMIT as u64).read_to_end(&mut output)?;
        Ok(Self {
            input: input.into(),
            output: output.into(),
        })
    }
}

impl SerialHandle {
    /// Descriptors with which another instance on this host goes on with the port: a
    /// note, then listener and client of a socket, or both sides of a
    /// pseudo-terminal; none where nothing is worth it. From here on input and new
    /// clients wait, until [`go_on`](Self::go_on).
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn hand_over(&self) -> io::Result<Vec<OwnedFd>> {
        let Some(mut pump) = self.pump.as_ref().map(SharedPump::lock) else {
            return Ok(Vec::new());
        };
        let input = pump.input.as_ref().map(|input| input.file.try_clone());
        let input = input.transpose()?.map(OwnedFd::from);
        let (first, second) = match (&self.place, &pump.listener, input) {
            (Place::Socket(_), Some(listener), client) => (listener.try_clone()?.into(), client),
            (Place::Pty { other_side, .. }, _, Some(master)) => {
                (master, Some(other_side.try_clone()?.into()))
            }
            _ => return Ok(Vec::new()),
        };
        let note = memfd_create("godwit-serial", MFdFlags::MFD_CLOEXEC)?;
        let mut files = vec![note.try_clone()?, first];
        files.extend(second);
        pump.handover = Some(Handover::of(note));
        Ok(files)
    }

    /// Writes down what is on its way, for whoever has the descriptors; the guest
    /// stands still. Nothing if they were not asked for.
    ///
    /// # Errors
    /// The note could not be written.
    pub fn leave_note(&self) -> io::Result<()> {
        let Some(mut pump) = self.pump.as_ref().map(SharedPump::lock) else {
            return Ok(());
        };
        let Pump {
            handover: Some(handover),
            backlog,
            ..
        } = &mut *pump
        else {
            return Ok(());
        };
        let note = Note {
            input: std::mem::take(backlog),
            output: self.serial.lock().uart.writer_mut().take_pending(),
        };
        let written = note.write(&mut handover.note);
        handover.left = Some(note);
        written
    }

    /// Takes over what [`leave_note`](Self::leave_note) wrote down elsewhere. Nothing
    /// if the port was not handed over.
    ///
    /// # Errors
    /// There is no such note.
    pub fn read_note(&self) -> io::Result<()> {
        let Some(mut pump) = self.pump.as_ref().map(SharedPump::lock) else {
            return Ok(());
        };
        if let Some(handover) = &mut pump.handover {
            handover.left = Some(Note::read(&mut handover.note)?);
        }
        Ok(())
    }

    /// The port is ours: what waited is served.
    pub fn go_on(&self) {
        let Some(mut pump) = self.pump.as_ref().map(SharedPump::lock) else {
            return;
        };
        let Some(handover) = pump.handover.take() else {
            return;
        };
        if let Place::Socket(file) = &self.place {
            file.set_ours(true);
        }
        let Note { mut input, output } = handover.left.unwrap_or_default();
        input.append(&mut pump.backlog);
        pump.backlog = input;
        drop(pump);
        self.serial.lock().uart.writer_mut().put_back(output);
        // Full means that the pump is awake already.
        let _ = self.serial.wake.write(1);
    }

    /// The port is the other instance's, if it was handed over: its socket's file
    /// stays.
    pub fn disown(&self) {
        let pump = self.pump.as_ref().map(SharedPump::lock);
        let handed = pump.is_some_and(|pump| pump.handover.is_some());
        if let (Place::Socket(file), true) = (&self.place, handed) {
            file.set_ours(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        File::from(memfd_create("note", MFdFlags::MFD_CLOEXEC).unwrap())
    }

    #[test]
    fn a_note_is_read_as_written_and_no_other_is() {
        let mut there = file();
        let note = Note {
            input: VecDeque::from(*b"typed"),
            output: VecDeque::from(*b"written"),
        };
        note.write(&mut there).unwrap();
        assert_eq!(Note::read(&mut there).unwrap(), note);
        let mut empty = file();
        assert!(Note::read(&mut empty).is_err());
        let mut long = file();
        long.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(Note::read(&mut long).is_err());
    }
}
