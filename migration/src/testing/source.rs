//! A fake guest that leaves.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Hook, Numbers, Step, no_hook};
use crate::bitmap::Bitmap;
use crate::guest::{Cause, DirtyLog, LogStart, Source};
use crate::memory::{PAGE_BYTES, Region};

/// What one vCPU does.
type Vcpu = Arc<dyn Fn(&Memory, &mut Numbers) + Send + Sync>;

/// Memory with its dirty log: what a vCPU writes to.
pub struct Memory {
    regions: Vec<Region>,
    dirty: Vec<Vec<AtomicU64>>,
    looks: AtomicU32,
    hook: Mutex<Hook>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("regions", &self.regions)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// Writes a page as a vCPU would: the log knows when it returns.
    ///
    /// # Panics
    /// There is no such page.
    pub fn write(&self, region: usize, page: u64, content: &[u8; PAGE_BYTES]) {
        let memory = self.regions.get(region).expect("a region");
        memory.write(page, content).expect("a page");
        self.mark(region, page);
    }

    /// Marked after the write: marked before, it could be cleared and the page
    /// read before the write happened.
    fn mark(&self, region: usize, page: u64) {
        let word = usize::try_from(page / 64).unwrap_or(usize::MAX);
        if let Some(word) = self.dirty.get(region).and_then(|r| r.get(word)) {
            word.fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }

    fn step(&self, step: Step) -> Result<(), Cause> {
        let mut hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        hook(step).map_err(Into::into)
    }
}

impl DirtyLog for Memory {
    fn dirty(&self, region: usize, into: &mut Bitmap) -> Result<(), Cause> {
        if region == 0 {
            let look = self.looks.fetch_add(1, Ordering::Relaxed);
            self.step(Step::Dirty(look))?;
        }
        let words = self.dirty.get(region).ok_or("no such region")?;
        let words: Vec<_> = words.iter().map(|w| w.load(Ordering::SeqCst)).collect();
        into.add_words(&words);
        Ok(())
    }

    fn clear(&self, region: usize, first_page: u64, pages: &[u64]) -> Result<(), Cause> {
        let words = self.dirty.get(region).ok_or("no such region")?;
        if !first_page.is_multiple_of(64) {
            return Err("not a multiple of 64".into());
        }
        let first = usize::try_from(first_page / 64)?;
        let words = words.get(first..).ok_or("past the end")?;
        for (word, mask) in words.iter().zip(pages) {
            word.fetch_and(!mask, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// A guest of plain memory at the source.
pub struct FakeSource {
    memory: Option<Arc<Memory>>,
    regions: Vec<Region>,
    sizes: Vec<u64>,
    start: LogStart,
    vcpus: Vec<Vcpu>,
    /// What devices hold open.
    pub devices: Vec<OwnedFd>,
    running: Vec<JoinHandle<()>>,
    pause: Arc<AtomicBool>,
    state: Vec<u8>,
    /// The steps that were asked for.
    pub steps: Vec<Step>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl std::fmt::Debug for FakeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeSource")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl FakeSource {
    /// A guest with `regions` of memory that does nothing.
    #[must_use]
    pub fn new(regions: Vec<Region>) -> Self {
        Self {
            sizes: regions.iter().map(|r| r.layout().size_bytes).collect(),
            memory: None,
            regions,
            start: LogStart::AllDirty,
            vcpus: Vec::new(),
            devices: Vec::new(),
            running: Vec::new(),
            pause: Arc::default(),
            state: b"the state of the guest".to_vec(),
            steps: Vec::new(),
            hook: Arc::new(Mutex::new(Some(no_hook()))),
        }
        .with_memory()
    }

    fn with_memory(mut self) -> Self {
        let words = |r: &Region| (0..r.pages().div_ceil(64)).map(|_| AtomicU64::new(0));
        self.memory = Some(Arc::new(Memory {
            dirty: self.regions.iter().map(|r| words(r).collect()).collect(),
            regions: self.regions.clone(),
            looks: AtomicU32::new(0),
            hook: Mutex::new(no_hook()),
        }));
        self
    }

    /// What the log says at its start.
    #[must_use]
    pub fn with_log(mut self, start: LogStart) -> Self {
        self.start = start;
        self
    }

    /// What travels as state.
    #[must_use]
    pub fn with_state(mut self, state: Vec<u8>) -> Self {
        self.state = state;
        self
    }

    /// What is called at each step.
    #[must_use]
    pub fn with_hook(
        mut self,
        hook: impl FnMut(Step) -> Result<(), String> + Send + 'static,
    ) -> Self {
        let hook = Arc::new(Mutex::new(hook));
        let other = Arc::clone(&hook);
        let call = move |step| (hook.lock().unwrap_or_else(PoisonError::into_inner))(step);
        self.hook = Arc::new(Mutex::new(Some(Box::new(call))));
        if let Some(memory) = &self.memory {
            *memory.hook.lock().unwrap_or_else(PoisonError::into_inner) =
                Box::new(move |step| (other.lock().unwrap_or_else(PoisonError::into_inner))(step));
        }
        self
    }

    /// Adds a vCPU that does `work` over and over, and lets it run.
    #[must_use]
    pub fn with_vcpu(
        mut self,
        work: impl Fn(&Memory, &mut Numbers) + Send + Sync + 'static,
    ) -> Self {
        self.vcpus.push(Arc::new(work));
        self.halt();
        self.go();
        self
    }

    /// Its memory, as long as the guest is here.
    #[must_use]
    pub fn memory(&self) -> &[Region] {
        &self.regions
    }

    /// True while its vCPUs run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    fn go(&mut self) {
        let Some(memory) = &self.memory else { return };
        self.pause.store(false, Ordering::SeqCst);
        for (seed, vcpu) in (7..).zip(&self.vcpus) {
            let (memory, vcpu) = (Arc::clone(memory), Arc::clone(vcpu));
            let pause = Arc::clone(&self.pause);
            self.running.push(thread::spawn(move || {
                let mut numbers = Numbers::new(seed);
                while !pause.load(Ordering::SeqCst) {
                    vcpu(&memory, &mut numbers);
                }
            }));
        }
    }

    fn halt(&mut self) {
        self.pause.store(true, Ordering::SeqCst);
        for vcpu in self.running.drain(..) {
            let _ = vcpu.join();
        }
    }

    fn step(&mut self, step: Step) -> Result<(), Cause> {
        self.steps.push(step);
        let mut hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        hook.as_mut()
            .map_or(Ok(()), |hook| hook(step).map_err(Into::into))
    }
}

impl Drop for FakeSource {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Source for FakeSource {
    fn description(&mut self) -> Result<Vec<u8>, Cause> {
        self.step(Step::Description)?;
        Ok(self.sizes.iter().flat_map(|s| s.to_le_bytes()).collect())
    }

    fn regions(&self) -> Result<Vec<Region>, Cause> {
        Ok(self.regions.clone())
    }

    fn device_files(&self) -> Result<Vec<OwnedFd>, Cause> {
        let duplicates = self.devices.iter().map(OwnedFd::try_clone);
        Ok(duplicates.collect::<Result<_, _>>()?)
    }

    fn start_log(&mut self) -> Result<LogStart, Cause> {
        self.step(Step::StartLog)?;
        let memory = self.memory.as_ref().ok_or("no memory")?;
        for word in memory.dirty.iter().flatten() {
            let all = if self.start == LogStart::AllDirty {
                u64::MAX
            } else {
                0
            };
            word.store(all, Ordering::SeqCst);
        }
        Ok(self.start)
    }

    fn log(&self) -> Arc<dyn DirtyLog> {
        match &self.memory {
            Some(memory) => Arc::clone(memory) as Arc<dyn DirtyLog>,
            None => Arc::new(NoLog),
        }
    }

    fn stop(&mut self) -> Result<(), Cause> {
        self.halt();
        self.step(Step::Stop)
    }

    fn save(&mut self) -> Result<Vec<u8>, Cause> {
        self.step(Step::Save)?;
        Ok(self.state.clone())
    }

    fn resume(&mut self) -> Result<(), Cause> {
        self.step(Step::Resume)?;
        if self.running.is_empty() {
            self.go();
        }
        Ok(())
    }

    fn release(&mut self) {
        let _ = self.step(Step::Release);
        self.memory = None;
        // Whatever still holds memory here would keep it from being freed.
        thread::sleep(Duration::ZERO);
    }
}

/// The log of a guest that is gone.
struct NoLog;

impl DirtyLog for NoLog {
    fn dirty(&self, _region: usize, _into: &mut Bitmap) -> Result<(), Cause> {
        Err("the guest is gone".into())
    }

    fn clear(&self, _region: usize, _first_page: u64, _pages: &[u64]) -> Result<(), Cause> {
        Err("the guest is gone".into())
    }
}
