//! The thread that serves the devices we serve ourselves.
//!
//! One [`EventManager`] runs on a thread of its own, off the vCPU cores. A
//! device hands it a subscriber when it is activated and takes it back when it
//! is stopped; both wait until the loop has done it, so that no callback runs
//! after [`LoopHandle::remove`] returned. What is served from the machine's start
//! joins without that: a start waits for no thread that it need not wait for.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvError};
use std::sync::{Arc, OnceLock};
use std::thread;

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberId};

/// What the loop serves.
pub type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// The loop could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The epoll instance or its wake-up descriptor could not be made.
    #[error("Could not create the device loop")]
    Create(#[source] event_manager::Error),
    /// No thread could be started.
    #[error("Could not start the thread of the device loop")]
    Spawn(#[source] io::Error),
    /// The loop did not answer: its thread has ended.
    #[error("The device loop does not answer")]
    Call(#[from] event_manager::Error),
}

/// Where devices register: cheap to clone, usable from any thread but the
/// loop's own (there a call would wait for itself).
#[derive(Clone)]
pub struct LoopHandle {
    remote: RemoteEndpoint<Subscriber>,
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").finish_non_exhaustive()
    }
}

impl LoopHandle {
    /// Adds a subscriber; its `init` has run when this returns.
    ///
    /// # Errors
    /// The loop has ended.
    pub fn add(&self, subscriber: Subscriber) -> Result<SubscriberId, LoopError> {
        self.remote
            .call_blocking(move |ops| Ok(ops.add_subscriber(subscriber)))
    }

    /// Adds a subscriber, and does not wait: its `init` runs soon, and before
    /// what is asked of the loop after this.
    ///
    /// # Errors
    /// The loop has ended.
    pub fn join(&self, subscriber: Subscriber) -> Result<Joined, LoopError> {
        let joined = Joined::default();
        let id = Arc::clone(&joined.0);
        self.remote.fire(move |ops| {
            let _ = id.set(ops.add_subscriber(subscriber));
        })?;
        Ok(joined)
    }

    /// Begins to remove a subscriber that joined: [`Leaving::wait`] ends that.
    ///
    /// # Errors
    /// The loop has ended.
    pub fn leave(&self, joined: Joined) -> Result<Leaving, LoopError> {
        let (tell, left) = mpsc::channel();
        // Asked of the loop, which has let the subscriber in by then.
        self.remote.fire(move |ops| {
            let removed = joined.0.get().map(|&id| ops.remove_subscriber(id));
            // Whoever does not wait does not want to know.
            let _ = tell.send(removed.map_or(Ok(()), |removed| removed.map(drop)));
        })?;
        Ok(Leaving(left))
    }

    /// Removes a subscriber; no callback of it runs any more when this returns.
    ///
    /// # Errors
    /// The loop has ended, or never had this subscriber.
    pub fn remove(&self, id: SubscriberId) -> Result<(), LoopError> {
        self.remote
            .call_blocking(move |ops| ops.remove_subscriber(id).map(drop).map_err(LoopError::from))
    }
}

/// A subscriber that joined, to be taken back by [`LoopHandle::leave`].
#[derive(Debug, Default)]
pub struct Joined(Arc<OnceLock<SubscriberId>>);

/// A subscriber on its way out.
#[must_use = "a callback of it may run until it was waited for"]
#[derive(Debug)]
pub struct Leaving(Receiver<Result<(), event_manager::Error>>);

impl Leaving {
    /// No callback of it runs any more when this returns.
    ///
    /// # Errors
    /// The loop has ended.
    pub fn wait(self) -> Result<(), LoopError> {
        match self.0.recv() {
            Ok(left) => Ok(left?),
            // It went with the loop.
            Err(RecvError) => Ok(()),
        }
    }
}

/// The running loop; dropping it ends the thread.
pub struct DeviceLoop {
    handle: LoopHandle,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl fmt::Debug for DeviceLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceLoop").finish_non_exhaustive()
    }
}

impl DeviceLoop {
    /// Starts the loop on a thread named `name`; `prepare` runs first on that
    /// thread, to set its CPU affinity.
    ///
    /// # Errors
    /// No epoll instance, or no thread.
    pub fn spawn(name: &str, prepare: impl FnOnce() + Send + 'static) -> Result<Self, LoopError> {
        let mut manager = EventManager::<Subscriber>::new().map_err(LoopError::Create)?;
        let handle = LoopHandle {
            remote: manager.remote_endpoint(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                prepare();
                while !stopping.load(Ordering::Acquire) {
                    if let Err(error) = manager.run() {
                        tracing::error!("The device loop could not wait for events: {error:?}");
                        return;
                    }
                }
            })
            .map_err(LoopError::Spawn)?;
        Ok(Self {
            handle,
            stop,
            thread: Some(thread),
        })
    }

    /// Where devices register.
    #[must_use]
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }
}

impl Drop for DeviceLoop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The kick fails only when the loop has ended already.
        let _ = self.handle.remote.kick();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_manager::{EventOps, EventSet, Events};
    use std::time::Duration;
    use vmm_sys_util::eventfd::EventFd;

    struct Relay(EventFd, mpsc::Sender<u64>);

    impl MutEventSubscriber for Relay {
        fn process(&mut self, _: Events, _: &mut EventOps) {
            self.1.send(self.0.read().unwrap()).unwrap();
        }
        fn init(&mut self, ops: &mut EventOps) {
            ops.add(Events::new(&self.0, EventSet::IN)).unwrap();
        }
    }

    #[test]
    fn a_subscriber_that_joined_is_served_until_it_leaves() {
        let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
        let (sender, received) = mpsc::channel();
        let fd = EventFd::new(0).unwrap();
        // Also what happened before the loop let it in.
        fd.write(3).unwrap();
        let relay = Relay(fd.try_clone().unwrap(), sender);
        let joined = device_loop.handle().join(Box::new(relay)).unwrap();
        assert_eq!(received.recv_timeout(Duration::from_secs(10)), Ok(3));
        device_loop.handle().leave(joined).unwrap().wait().unwrap();
        fd.write(7).unwrap();
        assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
    }

    #[test]
    fn one_that_leaves_at_once_is_not_served_after_that() {
        let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
        let (sender, received) = mpsc::channel();
        let fd = EventFd::new(0).unwrap();
        let relay = Relay(fd.try_clone().unwrap(), sender);
        let joined = device_loop.handle().join(Box::new(relay)).unwrap();
        device_loop.handle().leave(joined).unwrap().wait().unwrap();
        fd.write(7).unwrap();
        let silent = received.recv_timeout(Duration::from_millis(50));
        assert!(silent.is_err(), "{silent:?}");
    }

    #[test]
    fn a_subscriber_is_served_until_it_is_removed() {
        let device_loop = DeviceLoop::spawn("loop", || ()).unwrap();
        let (sender, received) = mpsc::channel();
        let fd = EventFd::new(0).unwrap();
        let relay = Relay(fd.try_clone().unwrap(), sender);
        let id = device_loop.handle().add(Box::new(relay)).unwrap();
        fd.write(7).unwrap();
        assert_eq!(received.recv_timeout(Duration::from_secs(10)), Ok(7));
        device_loop.handle().remove(id).unwrap();
        fd.write(7).unwrap();
        assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
        assert!(device_loop.handle().remove(id).is_err());
    }
}
