//! A packet socket: frames of our ethertype on one interface.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::{ETHERTYPE, TrafficError};

/// A raw packet socket on one interface.
#[derive(Debug)]
pub struct Port {
    socket: OwnedFd,
    interface: String,
}

impl Port {
    /// Opens `interface`; frames of our ethertype only, and none that this machine sends itself.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or when there is no such interface.
    pub fn open(interface: &str) -> Result<Self, TrafficError> {
        let refused = |attempt| {
            move |source| TrafficError::Open {
                interface: interface.to_owned(),
                attempt,
                source,
            }
        };
        let name = CString::new(interface)
            .map_err(io::Error::other)
            .map_err(refused("its name"))?;
        // SAFETY: plain system calls on a string that outlives them.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(refused("there is no such interface")(
                io::Error::last_os_error(),
            ));
        }
        let protocol = u16::from_be_bytes(ETHERTYPE).to_be();
        // SAFETY: no pointers are passed.
        let raw = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                i32::from(protocol),
            )
        };
        if raw < 0 {
            return Err(refused("socket (is this root?)")(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(index).unwrap_or_default();
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: the address is a sockaddr_ll of the length given.
        if unsafe { libc::bind(raw, (&raw const address).cast(), length) } < 0 {
            return Err(refused("bind")(io::Error::last_os_error()));
        }
        let one: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&one)).unwrap_or_default();
        // SAFETY: the option value is an int of the length given.
        unsafe {
            libc::setsockopt(
                raw,
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const one).cast(),
                length,
            );
        }
        Ok(Self {
            socket,
            interface: interface.to_owned(),
        })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the interface is down or the frame is longer than its MTU.
    pub fn send(&self, frame: &[u8]) -> Result<(), TrafficError> {
        // SAFETY: the pointer and the length are those of one slice.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
            )
        };
        if sent >= 0 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        Err(TrafficError::Send {
            interface: self.interface.clone(),
            length: frame.len(),
            source,
        })
    }

    /// Receives one frame into `buffer`, or gives `None` when `limit` passed without one.
    pub fn receive<'a>(&self, buffer: &'a mut [u8], limit: Duration) -> Option<&'a [u8]> {
        // In nanoseconds: a stream of more than 1000 frames a second has its pace by this.
        let limit = TimeSpec::from_duration(limit);
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if !ppoll(&mut polled, Some(limit), None).is_ok_and(|ready| ready > 0) {
            return None;
        }
        // SAFETY: the pointer and the length are those of one slice.
        let received = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        buffer.get(..usize::try_from(received).ok()?)
    }
}
