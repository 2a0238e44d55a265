//! The addresses of a name.
//!
//! The C library's resolver asks servers that may not answer, and can be neither
//! bounded nor cancelled: it works on a thread of its own, which is left to itself
//! when nobody waits for it any more.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::connect::Trouble;
use super::{ChannelError, Stop};

/// How often the end of the session is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// The addresses of `host`, a name or an address itself, within `limit`.
pub(super) fn resolve(
    host: &str,
    port: u16,
    stop: &Stop,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Trouble> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let name = host.to_owned();
    within(stop, limit, move || {
        Ok((name.as_str(), port).to_socket_addrs()?.collect())
    })
}

/// What `look_up` answers, if it does so in time.
fn within<T: Send + 'static>(
    stop: &Stop,
    limit: Duration,
    look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Trouble> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new()
        .name("lookup".to_owned())
        // Whoever asked may have gone.
        .spawn(move || drop(tell.send(look_up())))
        .map_err(Trouble::Os)?;
    let deadline = Instant::now() + limit;
    loop {
        stop.check().map_err(Trouble::Ended)?;
        match told.recv_timeout(LOOK.min(limit)) {
            Ok(answer) => return answer.map_err(Trouble::Os),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Trouble::Ended(ChannelError::Panicked));
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(RecvTimeoutError::Timeout) => {
                let said = format!("the name was not found within {} ms", limit.as_millis());
                return Err(Trouble::Os(io::Error::new(io::ErrorKind::TimedOut, said)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        let stop = Stop::new(&Cancel::new().unwrap()).unwrap();
        let (keep, kept) = mpsc::channel::<()>();
        let slow = move || {
            let _ = kept.recv();
            Ok(())
        };
        let late = within(&stop, Duration::from_millis(20), slow);
        assert!(
            matches!(&late, Err(Trouble::Os(e)) if e.kind() == io::ErrorKind::TimedOut),
            "{late:?}"
        );
        drop(keep);
    }

    #[test]
    fn a_cancel_ends_the_wait() {
        let cancel = Cancel::new().unwrap();
        let stop = Stop::new(&cancel).unwrap();
        let (keep, kept) = mpsc::channel::<()>();
        let slow = move || {
            cancel.cancel();
            let _ = kept.recv();
            Ok(())
        };
        let ended = within(&stop, Duration::from_secs(600), slow);
        assert!(
            matches!(ended, Err(Trouble::Ended(ChannelError::Cancelled))),
            "{ended:?}"
        );
        drop(keep);
    }

    #[test]
    fn addresses_need_no_looking_up() {
        let stop = Stop::new(&Cancel::new().unwrap()).unwrap();
        for host in ["192.0.2.1", "2001:db8::1"] {
            let found = resolve(host, 7, &stop, Duration::ZERO).unwrap();
            assert_eq!(found, [SocketAddr::new(host.parse().unwrap(), 7)]);
        }
    }
}
