//! The doorbells of one function: which are bound, and where.

use std::sync::Arc;

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::layout::{NOTIFY, NOTIFY_MULTIPLIER};
use crate::doorbell::Doorbells;

/// A queue's index and the address of its doorbell.
type Bell = (u16, GuestAddress);

/// What is bound is unbound when this is dropped.
#[derive(Debug)]
pub struct Bells {
    doorbells: Arc<dyn Doorbells>,
    kicks: Vec<EventFd>,
    bound: Vec<Bell>,
}

impl Bells {
    /// One kick for each queue, nothing bound.
    pub fn new(doorbells: Arc<dyn Doorbells>, kicks: Vec<EventFd>) -> Self {
        Self {
            doorbells,
            kicks,
            bound: Vec::new(),
        }
    }

    pub fn kick(&self, queue: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(queue))
    }

    /// The queues whose doorbells are bound.
    pub fn bound(&self) -> impl Iterator<Item = u16> {
        self.bound.iter().map(|(queue, _)| *queue)
    }

    /// Binds the doorbells of `queues` behind the BAR at `bar`, and no others.
    ///
    /// A doorbell that cannot be bound still works: its writes come to us.
    pub fn set(&mut self, bar: Option<GuestAddress>, queues: impl Iterator<Item = u16>) {
        let bell = |queue| {
            let offset = NOTIFY + u32::from(queue) * NOTIFY_MULTIPLIER;
            let address = bar?.0.checked_add(u64::from(offset))?;
            Some((queue, GuestAddress(address)))
        };
        let wanted: Vec<Bell> = queues.filter_map(bell).collect();
        if wanted == self.bound {
            return;
        }
        let (stay, gone): (Vec<_>, Vec<_>) = self.bound.iter().partition(|b| wanted.contains(b));
        for (queue, address) in gone {
            self.apply("unbind", queue, |kick| self.doorbells.unbind(address, kick));
        }
        self.bound = wanted
            .into_iter()
            .filter(|bell| {
                let (queue, address) = *bell;
                stay.contains(bell)
                    || self.apply("bind", queue, |kick| self.doorbells.bind(address, kick))
            })
            .collect();
    }

    fn apply(
        &self,
        verb: &str,
        queue: u16,
        change: impl FnOnce(&EventFd) -> std::io::Result<()>,
    ) -> bool {
        let done = self.kick(queue).map(change);
        if let Some(Err(error)) = &done {
            tracing::warn!("Could not {verb} the doorbell of queue {queue}: {error}");
        }
        matches!(done, Some(Ok(())))
    }
}

impl Drop for Bells {
    fn drop(&mut self) {
        self.set(None, std::iter::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeDoorbells;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn what_was_expected_stays_and_what_was_not_goes() {
        let doorbells = Arc::new(FakeDoorbells::default());
        let kicks = (0..3).map(|_| EventFd::new(EFD_NONBLOCK).unwrap());
        let mut bells = Bells::new(Arc::clone(&doorbells) as _, kicks.collect());
        let at = |bar: u64, queue: u64| bar + u64::from(NOTIFY) + queue * 4;
        // Told ahead, with a queue that is not there.
        bells.set(Some(GuestAddress(0x1000)), [0, 1, 9].into_iter());
        assert_eq!(doorbells.bound(), [at(0x1000, 0), at(0x1000, 1)]);
        assert_eq!(bells.bound().collect::<Vec<_>>(), [0, 1]);
        // The state agrees: nothing is bound twice, which would be refused.
        bells.set(Some(GuestAddress(0x1000)), [0, 1, 2].into_iter());
        assert_eq!(bells.bound().count(), 3);
        // The driver has moved the BAR since.
        bells.set(Some(GuestAddress(0x2000)), [0].into_iter());
        assert_eq!(doorbells.bound(), [at(0x2000, 0)]);
        assert_eq!(doorbells.refused(), 0);
    }
}
