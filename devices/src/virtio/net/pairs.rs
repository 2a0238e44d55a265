//! The queue pairs of a network device, all together.

use std::sync::Arc;

use super::{Net, Place};
use crate::virtio::vhost::{RingBackend, Rings, SharedLog, VhostError};
use crate::virtio::{Activation, Ring, RingPosition};

/// A pair's index, and its rings with theirs in the back end.
pub(super) type PairRings<'a> = (usize, Vec<(usize, &'a Ring)>);

impl<B: RingBackend> Net<B> {
    /// The pairs that `activation` has rings of.
    pub(super) fn pairs_of<'a>(&self, activation: &'a Activation) -> Vec<PairRings<'a>> {
        let of_pair = |pair| {
            let rings = activation.rings.iter();
            let ours = rings
                .filter(|ring| self.place(ring.index, activation.features) == Place::Pair(pair));
            let ours: Vec<_> = ours
                .map(|ring| (usize::from(ring.index % 2), ring))
                .collect();
            (!ours.is_empty()).then_some((pair, ours))
        };
        (0..self.pairs.len()).filter_map(of_pair).collect()
    }

    pub(super) fn each_of(
        &mut self,
        pairs: &[PairRings<'_>],
        mut call: impl FnMut(&mut Rings<B>, &[(usize, &Ring)]) -> Result<(), VhostError>,
    ) -> Result<(), VhostError> {
        pairs.iter().try_for_each(|(index, rings)| {
            let pair = self.pairs.get_mut(*index);
            pair.map_or(Ok(()), |pair| call(pair, rings))
        })
    }

    /// One log for all pairs: vhost sets its bits atomically.
    pub(super) fn start_log(&mut self) -> Result<(), VhostError> {
        let Some(pair) = self.pairs.first() else {
            return Ok(());
        };
        let log = Arc::new(SharedLog::new(pair.memory()).map_err(VhostError::LogMemory)?);
        for pair in &mut self.pairs {
            pair.start_log(&log)?;
        }
        self.log = Some(log);
        Ok(())
    }

    pub(super) fn stop_pairs(&mut self) -> Result<Vec<Vec<RingPosition>>, VhostError> {
        // Each one is stopped, whatever became of the others.
        let all: Vec<_> = self.pairs.iter_mut().map(Rings::stop).collect();
        all.into_iter().collect()
    }
}
