//! The system calls on TAP interfaces (`linux/if_tun.h`, `netdevice(7)`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

use super::TapError;

const TUN: &str = "/dev/net/tun";

pub(super) const TAP: u32 = libc::IFF_TAP.cast_unsigned();
pub(super) const VNET_HDR: u32 = libc::IFF_VNET_HDR.cast_unsigned();
pub(super) const MULTI_QUEUE: u32 = libc::IFF_MULTI_QUEUE.cast_unsigned();

/// Flags as `ifr_flags` holds them: 16 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "all flags of TUNSETIFF lie in 16 bits"
)]
const fn short(flags: i32) -> i16 {
    flags as i16
}

/// The flags that we open an interface with.
pub(super) fn wanted_flags(multi_queue: bool) -> i16 {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    short(if multi_queue {
        flags | libc::IFF_MULTI_QUEUE
    } else {
        flags
    })
}

pub(super) fn open_tun() -> Result<File, TapError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN)
        .map_err(|error| match error.raw_os_error() {
            // ENODEV, ENXIO: the node is there, the driver is not.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver(error),
            _ => TapError::Open(error),
        })
}

/// A request about the interface `name`, which is shorter than `IFNAMSIZ`.
fn request(name: &str) -> libc::ifreq {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_slave: [0; libc::IFNAMSIZ],
        },
    };
    // The last byte stays zero.
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = from.cast_signed();
    }
    request
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|c| c.cast_unsigned())
        .take_while(|b| *b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn done(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `TUNSETIFF`: makes `file` a queue of the interface; answers its name.
pub(super) fn set_interface(file: &File, name: &str, flags: i16) -> io::Result<String> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the kernel reads and writes one `ifreq`, which lives through the call.
    done(unsafe { ioctl_with_mut_ref(file, libc::TUNSETIFF, &mut request) })?;
    Ok(name_of(&request))
}

/// `TUNGETIFF`: name and flags of the interface that `file` is a queue of.
pub(super) fn get_interface(file: &impl AsRawFd) -> io::Result<(String, i16)> {
    let mut request = request("");
    // SAFETY: the kernel writes one `ifreq`, which lives through the call; on a
    // descriptor of another kind it answers an error. (The number says `int`,
    // the driver copies an `ifreq`: linux/drivers/net/tun.c.)
    done(unsafe { ioctl_with_mut_ref(file, libc::TUNGETIFF, &mut request) })?;
    // SAFETY: all bytes of the union were initialised, and any bytes are flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), flags))
}

/// Whether packets come to this queue (`TUNSETQUEUE` switches it).
pub(super) fn is_attached(file: &File) -> io::Result<bool> {
    let (_, flags) = get_interface(file)?;
    Ok(flags & short(libc::IFF_DETACH_QUEUE) == 0)
}

pub(super) fn set_header_size(file: &File, size: i32) -> io::Result<()> {
    // SAFETY: the kernel reads one `int`, which lives through the call.
    done(unsafe { ioctl_with_ref(file, libc::TUNSETVNETHDRSZ, &size) })
}

pub(super) fn set_offloads(file: &File, offloads: u32) -> io::Result<()> {
    // SAFETY: the argument is a plain value.
    done(unsafe { ioctl_with_val(file, libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

pub(super) fn set_queue(file: &File, attach: bool) -> io::Result<()> {
    let mut request = request("");
    request.ifr_ifru.ifru_flags = short(if attach {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    });
    // SAFETY: the kernel reads one `ifreq`, which lives through the call.
    done(unsafe { ioctl_with_ref(file, libc::TUNSETQUEUE, &request) })
}

pub(super) fn set_nonblocking(file: &File) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Index of the interface in this network namespace.
pub(super) fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// What sysfs says of an interface's flags.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TunFlags {
    Known(u32),
    /// An interface of another kind.
    NotTun,
    /// No sysfs here, or that of another network namespace.
    Unknown,
}

/// The flags that the interface was made with. Asked of sysfs, because opening
/// a queue would already change them.
pub(super) fn tun_flags(name: &str, index: u32) -> TunFlags {
    if !sysfs_shows(name, index) {
        return TunFlags::Unknown;
    }
    let Ok(text) = fs::read_to_string(format!("/sys/class/net/{name}/tun_flags")) else {
        return TunFlags::NotTun;
    };
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16)
        .map_or(TunFlags::Unknown, TunFlags::Known)
}

/// Queues attached by anyone, as the kernel exposes them in sysfs.
pub(super) fn attached_queues(name: &str, index: u32) -> Option<usize> {
    if !sysfs_shows(name, index) {
        return None;
    }
    let queues = fs::read_dir(format!("/sys/class/net/{name}/queues")).ok()?;
    let sending = queues
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"tx-"));
    Some(sending.count())
}

/// sysfs shows the network namespace it was mounted in, which need not be ours.
fn sysfs_shows(name: &str, index: u32) -> bool {
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .is_ok_and(|text| text.trim().parse() == Ok(index))
}

/// Any socket will do to ask about interfaces of this network namespace.
fn control_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

pub(super) fn mtu(name: &str) -> io::Result<i32> {
    let mut request = request(name);
    // SAFETY: the kernel reads and writes one `ifreq`, which lives through the call.
    done(unsafe { ioctl_with_mut_ref(&control_socket()?, libc::SIOCGIFMTU, &mut request) })?;
    // SAFETY: all bytes of the union were initialised, and any bytes are an integer.
    Ok(unsafe { request.ifr_ifru.ifru_mtu })
}

pub(super) fn set_mtu(name: &str, mtu: i32) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_mtu = mtu;
    // SAFETY: the kernel reads one `ifreq`, which lives through the call.
    done(unsafe { ioctl_with_ref(&control_socket()?, libc::SIOCSIFMTU, &request) })
}

pub(super) fn set_up(name: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = request(name);
    // SAFETY: the kernel reads and writes one `ifreq`, which lives through the call.
    done(unsafe { ioctl_with_mut_ref(&socket, libc::SIOCGIFFLAGS, &mut request) })?;
    // SAFETY: all bytes of the union were initialised, and any bytes are flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if flags & short(libc::IFF_UP) != 0 {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = flags | short(libc::IFF_UP);
    // SAFETY: the kernel reads one `ifreq`, which lives through the call.
    done(unsafe { ioctl_with_ref(&socket, libc::SIOCSIFFLAGS, &request) })
}
