//! TAP interfaces: the host's end of a guest's network device.
//!
//! ```text
//!  guest <-- rings --> vhost worker <-- queue fd --> TAP interface <--> bridge, routing, a program
//! ```
//!
//! A TAP interface has one or several *queues*, each an open descriptor of
//! `/dev/net/tun` (`Documentation/networking/tuntap.rst`). A queue pair of the
//! guest's device gets one queue. Every packet carries a header of
//! [`VNET_HEADER_SIZE`] bytes in front, which is the guest's own
//! `virtio_net_hdr` (virtio 1.2, 5.1.6), so that checksum and segmentation work
//! passes between guest and host undone.
//!
//! An interface named in a config must exist, made by whoever runs the host's
//! network; it is checked before it is opened, because the kernel would
//! silently create a missing one and silently change the flags of another.

mod error;
mod holders;
mod name;
mod statistics;
mod sys;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

pub use error::TapError;
pub use name::check_name;
pub use statistics::Statistics;

/// Most queues that one interface is opened with.
pub const MAX_QUEUES: u16 = 16;

/// Bytes of the header in front of every packet: `virtio_net_hdr_v1`, whose
/// `num_buffers` is there for every modern driver (virtio 1.2, 5.1.6).
pub const VNET_HEADER_SIZE: i32 = 12;

/// Where a TAP interface comes from.
#[derive(Debug)]
pub enum TapSource {
    /// An interface that exists, by name.
    Existing(String),
    /// A new interface, gone when it is closed; without a name the kernel
    /// numbers it (`tap0`, `tap1`, …).
    Create(Option<String>),
    /// Queues that someone else opened (also of a macvtap interface), one for
    /// each queue pair, all of the same interface.
    Fds(Vec<OwnedFd>),
    /// The same, of an interface that another process of this host still serves a
    /// guest with, whose place we are to take: until a device is started on it,
    /// nothing of the interface is changed.
    InUse(Vec<OwnedFd>),
}

/// The interface that all of `fds` are queues of, if it can serve a device with as
/// many queue pairs.
///
/// # Errors
/// One is no queue of a TAP interface, or of another one, or a flag is missing.
pub fn interface_of(fds: &[OwnedFd]) -> Result<String, TapError> {
    let queues = u16::try_from(fds.len()).unwrap_or(u16::MAX);
    let mut first: Option<String> = None;
    for (index, fd) in fds.iter().enumerate() {
        let (name, flags) =
            sys::get_interface(fd).map_err(|source| TapError::NotTapFd { index, source })?;
        check_flags(&name, u32::from(flags.cast_unsigned()), queues)?;
        match &first {
            Some(first) if *first != name => {
                return Err(TapError::MixedFds {
                    first: first.clone(),
                    index,
                    other: name,
                });
            }
            _ => first = Some(name),
        }
    }
    first.ok_or(TapError::QueueCount { queues })
}

/// An open TAP interface with its queues.
///
/// Closing it (dropping) gives the queues back; an interface that is not
/// persistent disappears.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<Queue>,
    multi_queue: bool,
    in_use: bool,
}

#[derive(Debug)]
struct Queue {
    file: File,
    attached: bool,
}

impl Tap {
    /// Opens `source` with `queues` queues (1 to [`MAX_QUEUES`]), all attached.
    ///
    /// # Errors
    /// See [`TapError`]: the interface is missing, busy, not a TAP, lacks a
    /// flag, or the caller lacks a permission.
    pub fn open(source: TapSource, queues: u16) -> Result<Self, TapError> {
        if queues == 0 || queues > MAX_QUEUES {
            return Err(TapError::QueueCount { queues });
        }
        match source {
            TapSource::Existing(name) => Self::open_existing(&name, queues),
            TapSource::Create(name) => Self::create(name.as_deref(), queues),
            TapSource::Fds(fds) => Self::from_fds(fds, queues, false),
            TapSource::InUse(fds) => Self::from_fds(fds, queues, true),
        }
    }

    fn open_existing(name: &str, queues: u16) -> Result<Self, TapError> {
        check_name(name)?;
        let index = sys::interface_index(name).ok_or_else(|| TapError::Missing {
            name: name.to_owned(),
            queues,
        })?;
        let flags = match sys::tun_flags(name, index) {
            sys::TunFlags::Known(flags) => Some(flags),
            sys::TunFlags::NotTun => {
                return Err(TapError::NotTap {
                    name: name.to_owned(),
                });
            }
            sys::TunFlags::Unknown => None,
        };
        if let Some(flags) = flags {
            check_flags(name, flags, queues)?;
        }
        let multi_queue = flags.map_or(queues > 1, |f| f & sys::MULTI_QUEUE != 0);
        let tap = Self::attach(name, queues, sys::wanted_flags(multi_queue), multi_queue)?;
        // A multi-queue interface lets a second program in, and the two would
        // share the packets between them.
        if sys::attached_queues(name, index).is_some_and(|n| n > usize::from(queues)) {
            return Err(TapError::Busy {
                name: name.to_owned(),
                holders: holders::of(name),
            });
        }
        Ok(tap)
    }

    fn create(name: Option<&str>, queues: u16) -> Result<Self, TapError> {
        let multi_queue = queues > 1;
        let flags = sys::wanted_flags(multi_queue);
        let Some(name) = name else {
            return Self::attach("tap%d", queues, flags, multi_queue);
        };
        check_name(name)?;
        if sys::interface_index(name).is_some() {
            return Err(TapError::Exists {
                name: name.to_owned(),
            });
        }
        Self::attach(name, queues, flags, multi_queue)
    }

    fn attach(pattern: &str, queues: u16, flags: i16, multi_queue: bool) -> Result<Self, TapError> {
        let mut tap = Self {
            name: pattern.to_owned(),
            queues: Vec::new(),
            multi_queue,
            in_use: false,
        };
        for _ in 0..queues {
            let file = sys::open_tun()?;
            // The first call turns the pattern into a name; the next ones join it.
            tap.name = sys::set_interface(&file, &tap.name, flags)
                .map_err(|source| attach_error(&tap.name, queues, source))?;
            tap.push(file)?;
        }
        Ok(tap)
    }

    fn from_fds(fds: Vec<OwnedFd>, queues: u16, in_use: bool) -> Result<Self, TapError> {
        if fds.len() != usize::from(queues) {
            return Err(TapError::FdCount {
                fds: fds.len(),
                queues,
            });
        }
        let mut tap = Self {
            name: interface_of(&fds)?,
            queues: Vec::new(),
            multi_queue: queues > 1,
            in_use,
        };
        for fd in fds {
            let file = File::from(fd);
            sys::set_nonblocking(&file)
                .map_err(|source| tap.failed("make a queue non-blocking", source))?;
            tap.push(file)?;
        }
        Ok(tap)
    }

    fn push(&mut self, file: File) -> Result<(), TapError> {
        sys::set_header_size(&file, VNET_HEADER_SIZE).map_err(|source| {
            self.failed("set the packet header's size (TUNSETVNETHDRSZ)", source)
        })?;
        let attached = sys::is_attached(&file)
            .map_err(|source| self.failed("read a queue's state (TUNGETIFF)", source))?;
        self.queues.push(Queue { file, attached });
        Ok(())
    }

    fn failed(&self, attempt: &'static str, source: io::Error) -> TapError {
        TapError::Ioctl {
            name: self.name.clone(),
            attempt,
            source,
        }
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A second descriptor of queue `index`, for a back end to keep.
    ///
    /// # Errors
    /// There is no such queue, or no descriptor left.
    pub fn clone_queue(&self, index: usize) -> Result<File, TapError> {
        let queue = self.queues.get(index).ok_or(io::ErrorKind::NotFound.into());
        queue
            .and_then(|q| q.file.try_clone())
            .map_err(|source| self.failed("duplicate a queue", source))
    }

    /// How many queues are open.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Lets the host use the first `count` queues and no other: it spreads
    /// flows over the attached queues, and what it put on one that nobody reads
    /// would be lost. Descriptors stay open (`TUNSETQUEUE`).
    ///
    /// # Errors
    /// The kernel refused; the queues before the one named are switched.
    pub fn set_active_queues(&mut self, count: usize) -> Result<(), TapError> {
        if !self.multi_queue {
            return Ok(());
        }
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let attach = index < count;
            // Who had the interface before us may have switched it since.
            queue.attached = sys::is_attached(&queue.file).unwrap_or(queue.attached);
            if queue.attached != attach {
                sys::set_queue(&queue.file, attach).map_err(|source| TapError::Queue {
                    name: self.name.clone(),
                    index,
                    attempt: if attach { "attach" } else { "detach" },
                    source,
                })?;
                queue.attached = attach;
            }
        }
        Ok(())
    }

    /// How many queues are attached.
    #[must_use]
    pub fn active_queues(&self) -> usize {
        self.queues.iter().filter(|q| q.attached).count()
    }

    /// Sets which work the guest takes over on packets towards it: bits
    /// `TUN_F_*` of `linux/if_tun.h`. What is not set, the host does before.
    ///
    /// # Errors
    /// The kernel does not know one of the bits.
    pub fn set_offloads(&self, offloads: u32) -> Result<(), TapError> {
        let Some(queue) = self.queues.first() else {
            return Ok(());
        };
        sys::set_offloads(&queue.file, offloads)
            .map_err(|source| self.failed("set offloads (TUNSETOFFLOAD)", source))
    }

    /// Whether the kernel knows all `offloads` (bits `TUN_F_*`). None is set
    /// afterwards. Of an interface [in use](Self::is_in_use) this cannot be
    /// tried, and is taken for granted: whoever uses it found out.
    #[must_use]
    pub fn knows_offloads(&self, offloads: u32) -> bool {
        self.in_use || self.set_offloads(offloads).is_ok() && self.set_offloads(0).is_ok()
    }

    /// Whether another process still serves a guest with it
    /// ([`TapSource::InUse`]).
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// A second descriptor of each queue, for another process of this host.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn clone_queues(&self) -> io::Result<Vec<OwnedFd>> {
        let queues = self.queues.iter();
        queues
            .map(|queue| Ok(queue.file.try_clone()?.into()))
            .collect()
    }

    /// The interface's MTU in bytes.
    ///
    /// # Errors
    /// The interface is gone, or lies in another network namespace.
    pub fn mtu(&self) -> Result<u16, TapError> {
        let mtu = sys::mtu(&self.name).map_err(|source| self.failed("read the MTU", source))?;
        // Above 65535 an Ethernet frame cannot go either way.
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Sets the interface's MTU in bytes; one that is set already needs no
    /// permission.
    ///
    /// # Errors
    /// Out of the interface's range, or no `CAP_NET_ADMIN`.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), TapError> {
        if sys::mtu(&self.name).is_ok_and(|now| now == i32::from(mtu)) {
            return Ok(());
        }
        sys::set_mtu(&self.name, i32::from(mtu)).map_err(|source| TapError::Mtu {
            name: self.name.clone(),
            mtu,
            source,
        })
    }

    /// What passed through the interface.
    ///
    /// # Errors
    /// The interface is gone, or lies in another network namespace.
    pub fn statistics(&self) -> Result<Statistics, TapError> {
        statistics::of(&self.name).map_err(|source| self.failed("read the statistics", source))
    }

    /// Sends `frame` (from its Ethernet header on) into the host's network, as
    /// if the guest had sent it. Other senders may be at work meanwhile.
    ///
    /// # Errors
    /// The interface is down, or its queue is detached.
    pub fn send(&self, frame: &[u8]) -> Result<(), TapError> {
        // No offload: all fields of the header are zero.
        let header = [0; VNET_HEADER_SIZE as usize];
        let parts = [io::IoSlice::new(&header), io::IoSlice::new(frame)];
        let queue = self.queues.first().ok_or(io::ErrorKind::NotFound.into());
        // A packet is taken whole or not at all.
        let sent = queue.and_then(|queue| (&queue.file).write_vectored(&parts));
        sent.map(drop)
            .map_err(|source| self.failed("send a frame", source))
    }

    /// Sets the interface up; one that is up already needs no permission.
    ///
    /// # Errors
    /// The interface is gone, or no `CAP_NET_ADMIN`.
    pub fn set_up(&self) -> Result<(), TapError> {
        sys::set_up(&self.name).map_err(|source| self.failed("set the interface up", source))
    }
}

/// The flags that an interface, or a descriptor of it, must have.
fn check_flags(name: &str, flags: u32, queues: u16) -> Result<(), TapError> {
    let name = || name.to_owned();
    if flags & sys::TAP == 0 {
        return Err(TapError::NotTap { name: name() });
    }
    if flags & sys::VNET_HDR == 0 {
        return Err(TapError::NoVnetHeader {
            name: name(),
            queues,
        });
    }
    if queues > 1 && flags & sys::MULTI_QUEUE == 0 {
        return Err(TapError::SingleQueue {
            name: name(),
            queues,
        });
    }
    Ok(())
}

fn attach_error(name: &str, queues: u16, source: io::Error) -> TapError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::E2BIG) => TapError::Busy {
            holders: holders::of(&name),
            name,
        },
        Some(libc::EPERM) => TapError::NoPermission { name, source },
        // The flags differ from those the interface was made with; sysfs was
        // not there to tell us before.
        Some(libc::EINVAL) if queues > 1 => TapError::SingleQueue { name, queues },
        _ => TapError::Ioctl {
            name,
            attempt: "open a queue (TUNSETIFF)",
            source,
        },
    }
}

#[cfg(test)]
mod tests;
