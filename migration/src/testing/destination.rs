//! A place that a fake guest may come to.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Hook, Step, memory, no_hook, regions_of};
use crate::guest::{Cause, Destination, Prepared, Refusal};
use crate::memory::Region;
use crate::stats::Moment;

/// An empty place.
pub struct FakeDestination {
    regions: Vec<Region>,
    /// The steps that were asked for.
    pub steps: Vec<Step>,
    /// What devices held open at the source.
    pub devices: Vec<OwnedFd>,
    /// What arrived as state.
    pub state: Vec<u8>,
    hook: Hook,
    populated: bool,
    most_bytes: u64,
}

impl std::fmt::Debug for FakeDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeDestination")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl Default for FakeDestination {
    fn default() -> Self {
        Self {
            regions: Vec::new(),
            steps: Vec::new(),
            devices: Vec::new(),
            state: Vec::new(),
            hook: no_hook(),
            populated: false,
            most_bytes: 1 << 40,
        }
    }
}

impl FakeDestination {
    /// A place that takes any guest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is called at each step.
    #[must_use]
    pub fn with_hook(
        mut self,
        hook: impl FnMut(Step) -> Result<(), String> + Send + 'static,
    ) -> Self {
        self.hook = Box::new(hook);
        self
    }

    /// Memory is allocated before content comes, as prefaulted huge pages are.
    #[must_use]
    pub fn populated(mut self) -> Self {
        self.populated = true;
        self
    }

    /// Guests with more memory are refused: for descriptions that came from anywhere.
    #[must_use]
    pub fn with_most_bytes(mut self, bytes: u64) -> Self {
        self.most_bytes = bytes;
        self
    }

    /// Memory, once prepared.
    #[must_use]
    pub fn memory(&self) -> &[Region] {
        &self.regions
    }

    /// How often the guest was let run.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.steps.iter().filter(|s| **s == Step::Run).count()
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        self.steps.push(step);
        (self.hook)(step)
    }

    fn sizes(&self, description: &[u8]) -> Result<Vec<u64>, String> {
        let (sizes, rest) = description.as_chunks::<8>();
        let sizes: Vec<_> = sizes.iter().map(|s| u64::from_le_bytes(*s)).collect();
        let total = sizes.iter().try_fold(0_u64, |sum, s| sum.checked_add(*s));
        if !rest.is_empty()
            || sizes.len() > 16
            || sizes.iter().any(|s| *s == 0 || s % 4096 != 0)
            || total.is_none_or(|total| total > self.most_bytes)
        {
            return Err("the description makes no sense".to_owned());
        }
        Ok(sizes)
    }

    fn build(
        &mut self,
        description: &[u8],
        make: impl FnOnce(&[u64]) -> Vec<Region>,
    ) -> Result<Prepared, Refusal> {
        let built = self
            .step(Step::Prepare)
            .and_then(|()| self.sizes(description));
        let sizes = built.map_err(|reason| Refusal(vec![reason]))?;
        self.regions = make(&sizes);
        if self.populated {
            for region in &self.regions {
                let _ = region.populate(0, region.pages());
            }
        }
        Ok(Prepared {
            regions: self.regions.clone(),
            restore_cost: Duration::from_micros(100),
        })
    }
}

impl Destination for FakeDestination {
    fn prepare(&mut self, description: &[u8]) -> Result<Prepared, Refusal> {
        self.build(description, memory)
    }

    fn prepare_with_files(
        &mut self,
        description: &[u8],
        memory: Vec<OwnedFd>,
        devices: Vec<OwnedFd>,
    ) -> Result<Prepared, Refusal> {
        self.devices = devices;
        let files: Vec<_> = memory
            .into_iter()
            .map(|f| Arc::new(File::from(f)))
            .collect();
        self.build(description, |sizes| regions_of(&files, sizes))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Cause> {
        self.state = state.to_vec();
        Ok(self.step(Step::Restore)?)
    }

    fn run(&mut self) -> Result<Moment, Cause> {
        self.step(Step::Run)?;
        Ok(Moment::now())
    }

    fn abandon(&mut self) {
        let _ = self.step(Step::Abandon);
        self.regions.clear();
    }
}
