//! Live migration: the machine as `godwit_migration` sees it. Adapters only.
//!
//! ```text
//!  control --machine--> worker: MachineSource --- godwit_migration --- MachineDestination :worker --machine--> control
//!                          |                                                  |
//!                     Machine, dirty log                           Description -> Machine
//! ```

mod announce;
mod arrival;
mod departure;
mod log;
mod places;

pub use arrival::{Arrival, ArrivalError};
pub use departure::{Departure, GuestEnded};
pub use places::{PlaceError, Places};
