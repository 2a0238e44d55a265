//! A machine in a folder.
//!
//! | file | what it holds |
//! |---|---|
//! | `config.json` | the machine's config, to be read by people |
//! | `machine.bin` | its [`Description`], as a migration sends it ahead |
//! | `memory.bin` | its memory: regions one after the other, holes for zeros |
//! | `state.bin` | its [`MachineV1`] and checksums of all of the above; written last, so that a snapshot that has it is complete |
//!
//! A byte that is not as it was written, in any of them, is found before the
//! guest sees it. Disk images are not part of it: they must be as they were.

mod seal;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use godwit_api::config::VmConfig;
use godwit_migration::memory::Region;
use godwit_migration::store::{
    self, Checksums, Fill, FillError, Lost, StoreError, Stored, Unfilled,
};

use crate::builder::BuildError;
use crate::control::site::Site;
use crate::control::{Definition, DefinitionError};
use crate::host::MemorySource;
use crate::kvm::Elapsed;
use crate::machine::{
    Description, DescriptionError, Machine, MachineV1, RestoreError, SaveError, StateError,
};
use crate::memory::MemoryError;
use crate::memory::regions;
use crate::migrate::{PlaceError, Places};

use seal::SealV1;

pub use seal::SealError;

const CONFIG: &str = "config.json";
const MACHINE: &str = "machine.bin";
const MEMORY: &str = "memory.bin";
const STATE: &str = "state.bin";

/// All but memory is read whole; more than this is no machine's (checksums of
/// 4 TiB of memory take 320 MiB).
const READ_LIMIT: u64 = 512 << 20;

/// A snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file of it.
    #[error("Could not {attempt} {}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// Which one.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// There is one already.
    #[error("{} holds a snapshot already: remove it, or name another folder", .0.display())]
    Exists(PathBuf),
    /// There is none, or not a whole one.
    #[error("{} holds no complete snapshot: {STATE} is missing", .0.display())]
    Missing(PathBuf),
    /// The machine's state.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The state's bytes.
    #[error(transparent)]
    State(#[from] StateError),
    /// The description.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// A file is not as it was written.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Memory.
    #[error("Could not store or load {}", path.display())]
    Memory {
        /// The memory file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Memory is to be read from another snapshot first.
    #[error("The guest's memory is not all here yet")]
    Unfilled(#[from] Unfilled),
    /// What the machine begins with is lost.
    #[error("Could not load {}", path.display())]
    Lost {
        /// The memory file.
        path: PathBuf,
        /// What is lost.
        #[source]
        source: Lost,
    },
    /// Memory could not be looked at.
    #[error(transparent)]
    Region(#[from] godwit_migration::memory::RegionError),
    /// The config is not one of a machine on this host.
    #[error(transparent)]
    Define(#[from] DefinitionError),
    /// A tap came for a device that the machine does not have.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// This host's processor lacks features that the guest was promised.
    #[error("This host's processor lacks what the guest uses: {0}")]
    Features(String),
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Its state was refused.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Its memory could not be filled.
    #[error(transparent)]
    Fill(#[from] MemoryError),
    /// A disk is in use.
    #[error(transparent)]
    Disk(#[from] godwit_devices::virtio::ActivateError),
}

fn failed<'a>(
    attempt: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::File {
        attempt,
        path: path.to_owned(),
        source,
    }
}

/// Writes a paused machine to `folder`, which is made if it is not there.
///
/// # Errors
/// There is a snapshot already, the file system is full, or the machine cannot
/// be saved; what was written is removed.
pub fn write(machine: &Machine, config: &VmConfig, folder: &Path) -> Result<Stored, SnapshotError> {
    // What is absent for now would be taken for zeros.
    machine.wait_filled(|| false)?;
    fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
    if [STATE, MEMORY, MACHINE]
        .iter()
        .any(|name| folder.join(name).exists())
    {
        return Err(SnapshotError::Exists(folder.to_owned()));
    }
    let written = write_files(machine, config, folder);
    if written.is_err() {
        for name in [STATE, MEMORY, MACHINE, CONFIG] {
            let _ = fs::remove_file(folder.join(name));
        }
    }
    written
}

fn write_files(
    machine: &Machine,
    config: &VmConfig,
    folder: &Path,
) -> Result<Stored, SnapshotError> {
    let description = Description::of(machine, config, false)?.encode()?;
    let text = serde_json::to_vec_pretty(config).map_err(DescriptionError::from)?;
    put(&folder.join(CONFIG), &text)?;
    put(&folder.join(MACHINE), &description)?;
    let path = folder.join(MEMORY);
    let file = File::create_new(&path).map_err(failed("create", &path))?;
    let saved = store::save(&regions(machine.host.memory.ram())?, &file);
    let (stored, sums) = saved.map_err(memory_error(&path))?;
    file.sync_all().map_err(failed("write", &path))?;
    let files = [(CONFIG, text.as_slice()), (MACHINE, &description)];
    let seal = SealV1::new(machine.save()?.encode()?, sums, &files);
    let path = folder.join(STATE);
    put(&path, &seal.encode(&path)?)?;
    let folder_file = File::open(folder).map_err(failed("open", folder))?;
    folder_file.sync_all().map_err(failed("write", folder))?;
    Ok(stored)
}

/// A file appears with all of its content, or not at all.
fn put(path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    let part = path.with_extension("part");
    let mut file = File::create(&part).map_err(failed("create", &part))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&part, path))
        .map_err(failed("write", path))
}

/// Makes a machine from `folder`; it is paused. Its memory may still be on its
/// way then; with `prefault` all of it has pages before this returns, as its
/// config says.
///
/// # Errors
/// There is no snapshot, it is damaged, or this host cannot have the machine.
pub fn read(
    site: &Site,
    folder: &Path,
    mut places: Places,
    prefault: bool,
) -> Result<(Box<Machine>, Box<Definition>), SnapshotError> {
    let Parts {
        description,
        state,
        sums,
    } = parts(folder)?;
    let mut config = description.config()?;
    let taps = places.apply(&mut config).map_err(|errors| {
        let first = errors.into_iter().next();
        first.map_or_else(|| SnapshotError::Missing(folder.to_owned()), Into::into)
    })?;
    let definition = Definition::incoming(config, taps);
    let spec = definition.incoming_spec()?;
    let missing = site.missing_features(&spec, &description);
    if let Some(missing) = missing.map_err(BuildError::from)? {
        return Err(SnapshotError::Features(missing));
    }
    let unfilled = MemorySource::Unfilled;
    let mut machine = site.build_incoming(spec, unfilled, Vec::new(), &description)?;
    let memory = regions(machine.host.memory.ram())?;
    let eager = prefault || machine.spec.memory.lock;
    machine.fill = memory_from(folder, memory, sums, eager, site)?;
    let taken_over = take_over(&machine, state);
    if let Some(fill) = &machine.fill
        && (taken_over.is_ok() || fill.is_lost())
    {
        // What came instead of lost memory may be why it failed.
        fill.arm().map_err(|source| SnapshotError::Lost {
            path: folder.join(MEMORY),
            source,
        })?;
    }
    taken_over?;
    if prefault {
        let spec = &machine.spec;
        let cpus = spec.platform.emulator_cpus.as_ref();
        let cpus = cpus.unwrap_or(&machine.host.allowed);
        machine.host.memory.prefault(&spec.memory, cpus)?;
    }
    if machine.spec.memory.lock {
        machine.host.memory.lock()?;
    }
    Ok((machine, Box::new(definition)))
}

fn take_over(machine: &Machine, state: MachineV1) -> Result<(), SnapshotError> {
    machine.restore(state, Elapsed::Skipped)?;
    for function in &machine.functions {
        function.device.with_device(|device| device.acquire())?;
    }
    Ok(())
}

/// Reads memory, or begins to: what fills it then is the answer. Only a process
/// that maps memory as we do waits for what is absent, so no vhost-user back end
/// may have it yet; this machine has none.
fn memory_from(
    folder: &Path,
    regions: Vec<Region>,
    sums: Option<Checksums>,
    eager: bool,
    site: &Site,
) -> Result<Option<Fill>, SnapshotError> {
    let path = folder.join(MEMORY);
    let open = || File::open(&path).map_err(failed("open", &path));
    let file = open()?;
    if let (Some(sums), false) = (&sums, eager) {
        match Fill::start(regions.clone(), open()?, sums.clone(), site.filled(&path)) {
            Ok(fill) => return Ok(Some(fill)),
            Err(FillError::Store(error)) => return Err(memory_error(&path)(error)),
            Err(FillError::Unavailable(error)) => {
                tracing::info!("All of memory is read before the guest goes on: {error}");
            }
        }
    }
    let loaded = store::load(&regions, &file, sums.as_ref()).map_err(memory_error(&path))?;
    tracing::info!("Read {} MiB of memory", loaded.data_bytes >> 20);
    Ok(None)
}

/// A snapshot's files but its memory, judged.
struct Parts {
    description: Description,
    state: MachineV1,
    /// Of its memory; a snapshot of an older godwit has none.
    sums: Option<Checksums>,
}

fn parts(folder: &Path) -> Result<Parts, SnapshotError> {
    let path = folder.join(STATE);
    if !path.exists() {
        return Err(SnapshotError::Missing(folder.to_owned()));
    }
    let last = get(&path)?;
    if SealV1::is_bare(&last) {
        tracing::warn!(
            "{} is of a godwit that wrote no checksums: damage to its memory would not be noticed",
            folder.display()
        );
        return Ok(Parts {
            description: Description::decode(&get(&folder.join(MACHINE))?)?,
            state: MachineV1::decode(&last)?,
            sums: None,
        });
    }
    let seal = SealV1::decode(&path, &last)?;
    let checked = |name: &str| -> Result<Vec<u8>, SnapshotError> {
        let path = folder.join(name);
        let bytes = get(&path)?;
        seal.check(&path, name, &bytes)?;
        Ok(bytes)
    };
    // Not used: the description has the config as it was completed. But whoever
    // changed it would think that it is.
    checked(CONFIG)?;
    Ok(Parts {
        description: Description::decode(&checked(MACHINE)?)?,
        state: MachineV1::decode(&seal.state)?,
        sums: Some(seal.memory),
    })
}

fn memory_error(path: &Path) -> impl FnOnce(StoreError) -> SnapshotError + '_ {
    |source| SnapshotError::Memory {
        path: path.to_owned(),
        source,
    }
}

fn get(path: &Path) -> Result<Vec<u8>, SnapshotError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut bytes = Vec::new();
    file.take(READ_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if bytes.len() as u64 > READ_LIMIT {
        return Err(failed("read so large a file as", path)(
            io::ErrorKind::FileTooLarge.into(),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
