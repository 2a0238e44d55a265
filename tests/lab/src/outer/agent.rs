//! The agent: `godwit-lab agent`, started by the outer machine's init in the host's root.
//!
//! One thread reads requests and never waits for a program: each program has threads of its own
//! for its streams and its end. Another thread writes a heartbeat to the machine's console, so
//! that the lab tells a machine that stands still from a test that hangs.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::kick;
use super::protocol::{self, DATA_LIMIT, Ending, Exec, Header, PORT, Reply, Request, Stream};

/// First words of a heartbeat line on the console.
pub const BEAT: &str = "outer: beat ";

type Output = Arc<Mutex<Box<dyn Write + Send>>>;

struct Job {
    group: Pid,
    /// Input goes through a thread: a program that does not read must not stop the agent.
    input: mpsc::Sender<Vec<u8>>,
}

type Jobs = Arc<Mutex<HashMap<u64, Job>>>;

/// Serves the lab until it closes the port or asks for the machine to be turned off.
///
/// # Errors
/// When the port is not there or breaks.
pub fn serve() -> io::Result<()> {
    if let Some(cpus) = leave_the_first_cpu()? {
        kick::start(&cpus)?;
    }
    let port = find_port()?;
    let input = OpenOptions::new().read(true).write(true).open(port)?;
    let output = input.try_clone()?;
    thread::spawn(beat);
    attend(input, Box::new(output))
}

/// Moves this program, and what it will start, off the first CPU of a machine for guests, and says
/// which are left. See the documentation of [`super`].
fn leave_the_first_cpu() -> io::Result<Option<CpuSet>> {
    let mut cpus = sched_getaffinity(Pid::from_raw(0))?;
    let count = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false));
    if count.count() <= 2 {
        return Ok(None);
    }
    cpus.unset(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    Ok(Some(cpus))
}

/// Serves the lab on any pair of streams.
fn attend(mut input: impl Read, output: Box<dyn Write + Send>) -> io::Result<()> {
    let output: Output = Arc::new(Mutex::new(output));
    let jobs = Jobs::default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_owned();
    reply(&output, 0, Reply::Ready { kernel }, &[]);
    loop {
        let (Header { job, body }, data) = match protocol::read::<Request>(&mut input) {
            Ok(frame) => frame,
            // The lab is gone: so is the use of this machine.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        match body {
            Request::Exec(exec) => start(job, &exec, &output, &jobs),
            Request::Input => {
                if let Some(job) = lock(&jobs).get(&job) {
                    let _ = job.input.send(data);
                }
            }
            Request::Kill => {
                if let Some(job) = lock(&jobs).get(&job) {
                    let _ = killpg(job.group, Signal::SIGKILL);
                }
            }
            Request::Put { path, mode, append } => {
                let result = put(&path, mode, append, &data);
                ended(&output, job, transferred(result));
            }
            Request::Get { path } => {
                let output = Arc::clone(&output);
                // A file such as a trace pipe may never end.
                thread::spawn(move || {
                    let result =
                        File::open(&path).and_then(|file| send(&output, job, Stream::Out, file));
                    ended(&output, job, transferred(result));
                });
            }
            Request::PowerOff => {
                nix::unistd::sync();
                return Ok(());
            }
        }
    }
}

fn find_port() -> io::Result<PathBuf> {
    let folder = Path::new("/sys/class/virtio-ports");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no virtio-console port named {PORT}"),
    ))
}

fn beat() {
    let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") else {
        return;
    };
    let started = Instant::now();
    loop {
        let line = format!("{BEAT}{:.1}\n", started.elapsed().as_secs_f64());
        if console.write_all(line.as_bytes()).is_err() {
            return;
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reply(output: &Output, job: u64, body: Reply, data: &[u8]) {
    // A lab that is gone shows in the reading thread, which then ends the machine.
    let _ = protocol::write(&mut *lock(output), &Header { job, body }, data);
}

fn ended(output: &Output, job: u64, ending: Ending) {
    reply(output, job, Reply::Ended(ending), &[]);
}

fn transferred(result: io::Result<()>) -> Ending {
    result.map_or_else(
        |error| Ending::Refused(error.to_string()),
        |()| Ending::Exited(0),
    )
}

fn put(path: &Path, mode: u32, append: bool, data: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(mode);
    let mut file = if append {
        options.append(true)
    } else {
        options.truncate(true)
    }
    .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(data)
}

fn send(output: &Output, job: u64, stream: Stream, mut from: impl Read) -> io::Result<()> {
    let mut piece = vec![0; DATA_LIMIT.min(64 << 10)];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let data = piece.get(..length).unwrap_or_default();
                reply(output, job, Reply::Output(stream), data);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

type Source = (Stream, Box<dyn Read + Send>);

struct Started {
    child: Child,
    input: Option<Box<dyn Write + Send>>,
    sources: Vec<Source>,
}

fn start(job: u64, exec: &Exec, output: &Output, jobs: &Jobs) {
    let started = match spawn(exec) {
        Ok(started) => started,
        Err(error) => return ended(output, job, Ending::Refused(error.to_string())),
    };
    let Started {
        child,
        input,
        sources,
    } = started;
    let Ok(pid) = i32::try_from(child.id()) else {
        return;
    };
    let group = Pid::from_raw(pid);
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    if let Some(mut input) = input {
        thread::spawn(move || {
            while let Ok(data) = receiver.recv() {
                if data.is_empty() || input.write_all(&data).is_err() {
                    return;
                }
            }
        });
    }
    lock(jobs).insert(
        job,
        Job {
            group,
            input: sender,
        },
    );
    let (closed, all_closed) = mpsc::channel::<()>();
    for (stream, source) in sources {
        let output = Arc::clone(output);
        let closed = closed.clone();
        thread::spawn(move || {
            // A terminal whose last user left reads as an error (EIO); that is its end.
            let _ = send(&output, job, stream, source);
            drop(closed);
        });
    }
    drop(closed);
    let (output, jobs) = (Arc::clone(output), Arc::clone(jobs));
    let limit = Duration::from_millis(exec.limit_ms);
    thread::spawn(move || {
        let ending = finish(child, group, limit);
        // Nothing of the group outlives the job, and nothing keeps its streams open.
        let _ = killpg(group, Signal::SIGKILL);
        // A daemon that left the group may still hold them: do not wait for it for long.
        let _ = all_closed.recv_timeout(Duration::from_secs(2));
        lock(&jobs).remove(&job);
        ended(&output, job, ending);
    });
}

fn finish(mut child: Child, group: Pid, limit: Duration) -> Ending {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return ending(status),
            Ok(None) if started.elapsed() >= limit => {
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                return Ending::TimedOut;
            }
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Err(error) => return Ending::Refused(error.to_string()),
        }
    }
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Signalled(signal),
        (None, None) => Ending::Refused("unknown status".to_owned()),
    }
}

fn spawn(exec: &Exec) -> io::Result<Started> {
    let Some((program, arguments)) = exec.arguments.split_first() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no program named",
        ));
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&exec.folder);
    command.envs(exec.environment.iter().map(|(name, value)| (name, value)));
    match exec.terminal {
        Some(size) => spawn_on_terminal(command, size),
        None => {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.process_group(0).spawn()?;
            let input = child
                .stdin
                .take()
                .map(|input| Box::new(input) as Box<dyn Write + Send>);
            let mut sources: Vec<Source> = Vec::new();
            sources.extend(
                child
                    .stdout
                    .take()
                    .map(|out| (Stream::Out, Box::new(out) as Box<_>)),
            );
            sources.extend(
                child
                    .stderr
                    .take()
                    .map(|err| (Stream::Err, Box::new(err) as Box<_>)),
            );
            Ok(Started {
                child,
                input,
                sources,
            })
        }
    }
}

fn spawn_on_terminal(mut command: Command, (rows, columns): (u16, u16)) -> io::Result<Started> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None)?;
    let end = |fd: &OwnedFd| fd.try_clone().map(Stdio::from);
    command
        .stdin(end(&pty.slave)?)
        .stdout(end(&pty.slave)?)
        .stderr(pty.slave);
    // SAFETY: setsid and ioctl are async-signal-safe, and the closure touches no memory that
    // another thread of the parent could have held a lock for.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // Standard input is the terminal by now; 0 means not to take it from another session.
            if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    let master = File::from(pty.master);
    let input = master.try_clone()?;
    Ok(Started {
        child,
        input: Some(Box::new(input)),
        sources: vec![(Stream::Out, Box::new(master))],
    })
}

#[cfg(test)]
mod tests;
