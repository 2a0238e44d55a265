use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::irq::{MsiController, MsiMessage, MsiVectors};

/// Gives out [`FakeVectors`], and keeps them for the test to look at.
#[derive(Clone, Debug, Default)]
pub struct FakeMsi {
    allocated: Arc<Mutex<Vec<Arc<FakeVectors>>>>,
}

impl FakeMsi {
    /// The vectors of the function that came as number `function`.
    ///
    /// # Panics
    /// There were not so many functions.
    #[must_use]
    pub fn vectors(&self, function: usize) -> Arc<FakeVectors> {
        let allocated = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&allocated[function])
    }
}

impl MsiController for FakeMsi {
    fn allocate(&self, count: u16) -> io::Result<Box<dyn MsiVectors>> {
        let fds = (0..count).map(|_| EventFd::new(EFD_NONBLOCK));
        let vectors = Arc::new(FakeVectors {
            fds: fds.collect::<Result<_, _>>()?,
            routes: Mutex::new(vec![None; usize::from(count)]),
            changes: AtomicUsize::new(0),
        });
        let mut allocated = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        allocated.push(Arc::clone(&vectors));
        Ok(Box::new(vectors))
    }
}

/// Vectors that lead to the test instead of a guest.
#[derive(Debug)]
pub struct FakeVectors {
    fds: Vec<EventFd>,
    routes: Mutex<Vec<Option<MsiMessage>>>,
    /// How often routes were set.
    changes: AtomicUsize,
}

impl FakeVectors {
    /// Where `vector` is routed to, while it is enabled.
    #[must_use]
    pub fn route(&self, vector: u16) -> Option<MsiMessage> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        *routes.get(usize::from(vector))?
    }

    /// How often `vector` was signalled since the last call; 0 while it is
    /// disabled, as signals are held back then.
    #[must_use]
    pub fn take(&self, vector: u16) -> u64 {
        let enabled = self.route(vector).is_some();
        let fd = self.fds.get(usize::from(vector)).filter(|_| enabled);
        fd.and_then(|fd| fd.read().ok()).unwrap_or(0)
    }

    /// How often routes were set, in one go or one by one, since the last call.
    #[must_use]
    pub fn take_changes(&self) -> usize {
        self.changes.swap(0, Ordering::SeqCst)
    }

    fn set(&self, vector: u16, route: Option<MsiMessage>) -> io::Result<()> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = routes.get_mut(usize::from(vector));
        *slot.ok_or(io::ErrorKind::InvalidInput)? = route;
        Ok(())
    }
}

impl MsiVectors for Arc<FakeVectors> {
    fn count(&self) -> u16 {
        u16::try_from(self.fds.len()).unwrap_or(u16::MAX)
    }

    fn eventfd(&self, vector: u16) -> Option<&EventFd> {
        self.fds.get(usize::from(vector))
    }

    fn enable(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        self.enable_many(&[(vector, message)])
    }

    fn enable_many(&self, routes: &[(u16, MsiMessage)]) -> io::Result<()> {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let mut routes = routes.iter();
        routes.try_for_each(|(vector, message)| self.set(*vector, Some(*message)))
    }

    fn disable(&self, vector: u16) -> io::Result<()> {
        self.set(vector, None)
    }

    fn is_pending(&self, vector: u16) -> bool {
        let fd = self.fds.get(usize::from(vector));
        // Nobody else reads it: what was taken out goes back in.
        fd.is_some_and(|fd| fd.read().is_ok_and(|count| fd.write(count).is_ok()))
    }
}
