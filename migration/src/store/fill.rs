//! Memory that is read from its file while the guest runs.
//!
//! ```text
//!  vCPU, vhost, device ---- wants an absent page ----> userfaultfd
//!        ^                                                 |
//!        |  page, judged by its checksum                   v
//!        +------------------------------------------ thread "fill" <--- memory file
//!                                  what nobody wants yet: in turn
//! ```
//!
//! What somebody waits for comes first, then the rest, in the order of the file.
//! When all is there, the userfaultfd goes and what is still absent reads as zero,
//! as it was. The unit is what has one checksum, or a huge page.
//!
//! A chunk that cannot be read, or that is not as it was written, is *lost*.
//! Nobody ever gets its bytes: who wants them waits. The owner of the machine is
//! told, stops the guest, and then [`condemn`](Fill::condemn)s what was lost, so
//! that who waits gets an error instead. Until then, and also after it, the rest
//! of memory is served.
//!
//! The contract: from [`start`](Fill::start) on, this process uses the regions by
//! their mapping only, and no other process has their files. A [`Fill`] is
//! dropped after all that uses them.

mod area;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::chunks::{Place, runs};
use super::load::{check, read};
use super::{Checksums, StoreError, Stored, failed};
use crate::memory::{PAGE, Region};
use crate::userfault::Userfault;

use area::{Area, watch};

/// How often a waiting caller looks whether it is to wait on.
const GLANCE: Duration = Duration::from_millis(50);

/// How long a read from the file may hold up the end of the machine.
const STORAGE_PATIENCE: Duration = Duration::from_secs(2);

/// Told how it ended, from the thread that fills.
pub type Told = Box<dyn FnOnce(Result<Stored, Lost>) + Send>;

/// Memory that does not come.
#[derive(Debug, Clone, thiserror::Error)]
#[error("Part of the guest's memory is lost")]
pub struct Lost(#[source] Arc<StoreError>);

/// Memory cannot be read while the guest runs.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// Nor before it runs: the file is not this memory's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This kernel, or these pages, do not allow it.
    #[error("Faults of guest memory cannot be served here")]
    Unavailable(#[source] io::Error),
}

/// Memory is not complete, and whoever waited for it goes without.
#[derive(Debug, thiserror::Error)]
pub enum Unfilled {
    /// It never will be.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The caller was told not to wait on.
    #[error("Nobody waits any more for the guest's memory to be read")]
    Cancelled,
}

/// See the module.
#[derive(Debug)]
pub struct Fill {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    /// How it ended, or that something is lost.
    end: Option<Result<Stored, Lost>>,
    /// The guest may run from here on.
    armed: bool,
    condemned: bool,
    stopping: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
        // It fails only when the counter is full, and then it is readable.
        let _ = self.wake.write(1);
    }
}

impl Fill {
    /// Begins to fill `regions`, which are all absent, from `file`. `told` hears
    /// of the end; of a loss only once the guest may run.
    ///
    /// # Errors
    /// [`FillError::Unavailable`] leaves the regions as they were.
    pub fn start(
        regions: Vec<Region>,
        file: File,
        sums: Checksums,
        told: Told,
    ) -> Result<Self, FillError> {
        Self::start_in_order(regions, file, sums, told, Order::WantedFirst)
    }

    pub(super) fn start_in_order(
        regions: Vec<Region>,
        file: File,
        sums: Checksums,
        told: Told,
        order: Order,
    ) -> Result<Self, FillError> {
        let places = Place::of(&regions);
        let stored = check(&places, &file, Some(&sums))?;
        let mut rest = Vec::new();
        let mut areas = Vec::new();
        for (number, (region, place)) in regions.into_iter().zip(places).enumerate() {
            let area = Area::new(region, place).map_err(FillError::Unavailable)?;
            let (area, units) = area.with_data(&file, &sums)?;
            rest.extend(units.into_iter().map(|unit| (number, unit)));
            areas.push(area);
        }
        let unavailable = |error: io::Error| FillError::Unavailable(error);
        let faults = watch(&areas).map_err(unavailable)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: wake.map_err(|error| unavailable(error.into()))?,
        });
        rest.reverse();
        let filler = Filler {
            areas,
            file,
            sums,
            faults,
            shared: Arc::clone(&shared),
            told: Some(told),
            rest,
            order,
            stored,
            buffer: Vec::new(),
        };
        let thread = thread::Builder::new().name("fill".to_owned());
        let thread = thread.spawn(move || filler.run()).map_err(unavailable)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The guest may run from here on: no byte that is lost is to be seen by
    /// anybody. Before, who waits for one finds zeros, so that a machine that is
    /// made in vain can be taken apart.
    ///
    /// # Errors
    /// Something is lost already.
    pub fn arm(&self) -> Result<(), Lost> {
        let mut state = self.shared.state();
        match &state.end {
            Some(Err(lost)) => Err(lost.clone()),
            _ => {
                state.armed = true;
                Ok(())
            }
        }
    }

    /// Waits until all is read; `cancelled` is asked now and then.
    ///
    /// # Errors
    /// Something is lost, or the wait was cancelled.
    pub fn wait(&self, cancelled: impl Fn() -> bool) -> Result<(), Unfilled> {
        let mut state = self.shared.state();
        loop {
            match &state.end {
                Some(Ok(_)) => return Ok(()),
                Some(Err(lost)) => return Err(lost.clone().into()),
                None if cancelled() => return Err(Unfilled::Cancelled),
                None => {
                    let waited = self.shared.changed.wait_timeout(state, GLANCE);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Whether something is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self.shared.state().end, Some(Err(_)))
    }

    /// No vCPU runs the guest any more: who waits for what is lost gets an error,
    /// where the kernel can do that (Linux 6.6).
    pub fn condemn(&self) {
        self.shared.change(|state| state.condemned = true);
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.shared.change(|state| state.stopping = true);
        let Some(thread) = self.thread.take() else {
            return;
        };
        let start = Instant::now();
        while !thread.is_finished() {
            if start.elapsed() > STORAGE_PATIENCE {
                // It keeps the memory that it is about, and ends when it gets an
                // answer.
                tracing::warn!("The storage of a snapshot does not answer");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // A defect of it was told when it panicked.
        let _ = thread.join();
    }
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// What is wanted, then the rest.
    WantedFirst,
    /// Only what is wanted.
    #[cfg(test)]
    OnlyWanted,
}

struct Filler {
    areas: Vec<Area>,
    file: File,
    sums: Checksums,
    faults: Userfault,
    shared: Arc<Shared>,
    told: Option<Told>,
    /// Units that nobody wanted yet, the next one last.
    rest: Vec<(usize, u64)>,
    order: Order,
    stored: Stored,
    buffer: Vec<u8>,
}

/// What the thread is to do next.
enum Next {
    Serve,
    End,
}

impl Filler {
    fn run(mut self) {
        loop {
            let next = self.step().unwrap_or_else(|error| {
                self.lose(failed("serve faults of", 0)(error));
                self.after_loss()
            });
            if matches!(next, Next::End) {
                return;
            }
        }
    }

    fn step(&mut self) -> io::Result<Next> {
        let lost = matches!(self.shared.state().end, Some(Err(_)));
        let busy = self.order == Order::WantedFirst && !lost;
        if busy && self.rest.is_empty() {
            return self.finish();
        }
        self.poll(busy)?;
        let (condemned, stopping) = {
            let state = self.shared.state();
            (state.condemned, state.stopping)
        };
        if stopping {
            return Ok(Next::End);
        }
        if condemned && let Err(error) = self.poison_lost() {
            tracing::debug!("Who waits for memory that is lost waits on: {error}");
        }
        for address in self.faults.wanted()? {
            self.serve(address)?;
        }
        if busy && let Some((area, unit)) = self.rest.pop() {
            self.bring(area, unit)?;
        }
        Ok(self.after_loss())
    }

    /// Waits for somebody who wants something, unless there is more to do.
    fn poll(&self, busy: bool) -> io::Result<()> {
        let mut ready = [
            PollFd::new(self.faults.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
        ];
        let limit = if busy {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        match poll(&mut ready, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // It is not readable when nothing was written.
        let _ = self.shared.wake.read();
        Ok(())
    }

    /// Somebody wants the page at `address`.
    fn serve(&mut self, address: u64) -> io::Result<()> {
        let found = self.areas.iter().position(|area| {
            let range = area.region.host_range();
            range.contains(&address)
        });
        let Some(number) = found else { return Ok(()) };
        let Some(area) = self.areas.get(number) else {
            return Ok(());
        };
        let page = (address - area.region.host_range().start) / PAGE;
        let unit = page / area.unit_pages();
        self.bring(number, unit)?;
        let Some(area) = self.areas.get(number) else {
            return Ok(());
        };
        if area.lost.contains(unit) {
            return Ok(());
        }
        // It had only zeros, or came in the meantime.
        if area.huge {
            let bytes = usize::try_from(area.unit_pages() * PAGE).unwrap_or(0);
            let first = area.first_page(unit);
            self.faults.copy(&area.region, first, &vec![0; bytes])
        } else {
            self.faults.zero(&area.region, page)
        }
    }

    /// Reads a unit and puts it in place, unless that was done.
    fn bring(&mut self, number: usize, unit: u64) -> io::Result<()> {
        let Some(area) = self.areas.get_mut(number) else {
            return Ok(());
        };
        if area.done.contains(unit) || area.lost.contains(unit) {
            return Ok(());
        }
        let start = usize::try_from(unit).unwrap_or(usize::MAX) * area.chunks;
        let end = area.place.count().min(start + area.chunks);
        self.buffer.clear();
        for chunk in start..end {
            let chunk = area.place.chunk(chunk);
            if let Err(error) = read(&self.file, &chunk, Some(&self.sums), &mut self.buffer) {
                area.lost.add(unit);
                self.lose(error);
                return Ok(());
            }
        }
        let first = area.first_page(unit);
        for run in runs(&self.buffer) {
            let run = if area.huge { 0..self.buffer.len() } else { run };
            let page = first + run.start as u64 / PAGE;
            let bytes = self.buffer.get(run).unwrap_or_default();
            self.faults.copy(&area.region, page, bytes)?;
            self.stored.data_bytes += bytes.len() as u64;
            if area.huge {
                break;
            }
        }
        area.done.add(unit);
        Ok(())
    }

    /// All that was lost answers with an error, whoever wants it.
    fn poison_lost(&self) -> io::Result<()> {
        for area in &self.areas {
            for unit in area.lost.extents().flatten() {
                let first = area.first_page(unit);
                let count = area.unit_pages().min(area.region.pages() - first);
                self.faults.poison(&area.region, first, count)?;
            }
        }
        Ok(())
    }

    fn lose(&mut self, error: StoreError) {
        let lost = Lost(Arc::new(error));
        let mut first = false;
        self.shared.change(|state| {
            if !matches!(state.end, Some(Err(_))) {
                first = state.armed;
                state.end = Some(Err(lost.clone()));
            }
        });
        if first && let Some(told) = self.told.take() {
            told(Err(lost));
        }
    }

    /// A loss before the guest runs ends all of it.
    fn after_loss(&self) -> Next {
        let state = self.shared.state();
        if state.armed || !matches!(state.end, Some(Err(_))) {
            return Next::Serve;
        }
        drop(state);
        for area in &self.areas {
            if let Err(error) = self.faults.forget(&area.region) {
                tracing::warn!("Faults of guest memory are still watched: {error}");
            }
        }
        Next::End
    }

    fn finish(&mut self) -> io::Result<Next> {
        for area in &self.areas {
            self.faults.forget(&area.region)?;
        }
        let stored = self.stored;
        self.shared.change(|state| state.end = Some(Ok(stored)));
        if let Some(told) = self.told.take() {
            told(Ok(stored));
        }
        Ok(Next::End)
    }
}

#[cfg(test)]
mod tests;
