//! The lab's end of the agent's port.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{self, DATA_LIMIT, Ending, Exec, Header, Reply, Request, Stream};
use crate::command::OUTPUT_LIMIT;

/// How much longer than the program's own limit the lab waits for the agent's word of its end.
const GRACE: Duration = Duration::from_secs(20);

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The port is closed: the outer machine ended.
    #[error("the outer machine ended")]
    Gone,
    /// The agent did not answer although the program's own limit had passed.
    #[error("the agent in the outer machine did not answer within {0:?}")]
    Silent(Duration),
    /// Its heart has stopped.
    #[error("the outer machine has been standing still for {0:.0?}")]
    StandsStill(Duration),
    /// The agent refused.
    #[error("the agent cannot use {path}: {ending}")]
    Refused {
        /// The file.
        path: String,
        /// How the job ended.
        ending: Ending,
    },
    /// The port broke.
    #[error("cannot write to the agent's port")]
    Port(#[from] io::Error),
}

/// What a program in the outer machine left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub ending: Ending,
    /// Its standard output, at most [`OUTPUT_LIMIT`] bytes.
    pub stdout: String,
    /// Its standard error, at most [`OUTPUT_LIMIT`] bytes.
    pub stderr: String,
    /// How long it took, start to end.
    pub elapsed: Duration,
}

type Event = (Reply, Vec<u8>);
type Waiting = Arc<Mutex<HashMap<u64, Sender<Event>>>>;

/// The agent, from the lab's side; shared by any number of threads.
#[derive(Debug)]
pub struct Client {
    port: Mutex<UnixStream>,
    waiting: Waiting,
    next: AtomicU64,
}

/// A program that runs in the outer machine. Dropped, it is killed.
#[derive(Debug)]
pub struct Job<'a> {
    client: &'a Client,
    number: u64,
    events: Receiver<Event>,
    over: bool,
}

impl Client {
    /// Takes the port and waits for nothing; the second value gives the agent's first word.
    ///
    /// # Errors
    /// When the port cannot be shared with the reading thread.
    pub(super) fn new(port: UnixStream) -> io::Result<(Self, Receiver<Event>)> {
        let waiting = Waiting::default();
        let (sender, ready) = mpsc::channel();
        lock(&waiting).insert(0, sender);
        let reader = port.try_clone()?;
        let jobs = Arc::clone(&waiting);
        thread::spawn(move || dispatch(reader, &jobs));
        Ok((
            Self {
                port: Mutex::new(port),
                waiting,
                next: AtomicU64::new(1),
            },
            ready,
        ))
    }

    fn request(&self, body: Request, data: &[u8]) -> Result<Job<'_>, AgentError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::channel();
        lock(&self.waiting).insert(number, sender);
        let job = Job {
            client: self,
            number,
            events,
            over: false,
        };
        self.send(number, body, data)?;
        Ok(job)
    }

    fn send(&self, job: u64, body: Request, data: &[u8]) -> Result<(), AgentError> {
        protocol::write(&mut *lock(&self.port), &Header { job, body }, data)
            .map_err(AgentError::Port)
    }

    /// Starts a program.
    ///
    /// # Errors
    /// When the port is broken.
    pub fn start(&self, exec: Exec) -> Result<Job<'_>, AgentError> {
        self.request(Request::Exec(exec), &[])
    }

    /// Runs a program to its end; `seen` gets every piece of its output as it comes.
    ///
    /// # Errors
    /// When the outer machine ends or does not answer. A program that fails is not an error here.
    pub fn run(&self, exec: Exec, seen: impl FnMut(Stream, &[u8])) -> Result<Output, AgentError> {
        self.run_while(exec, seen, || Ok(()))
    }

    /// The same, as long as `alive` has no reason to give up; it is asked once a second.
    pub(super) fn run_while(
        &self,
        exec: Exec,
        mut seen: impl FnMut(Stream, &[u8]),
        alive: impl Fn() -> Result<(), AgentError>,
    ) -> Result<Output, AgentError> {
        let limit = Duration::from_millis(exec.limit_ms).saturating_add(GRACE);
        let started = Instant::now();
        let mut job = self.start(exec)?;
        let mut kept: [Vec<u8>; 2] = Default::default();
        loop {
            let left = limit.saturating_sub(started.elapsed());
            alive()?;
            match job.next(left.min(Duration::from_secs(1)))? {
                None if left.is_zero() => return Err(AgentError::Silent(limit)),
                None => {}
                Some((Reply::Output(stream), data)) => {
                    seen(stream, &data);
                    let [out, err] = &mut kept;
                    let kept = if stream == Stream::Out { out } else { err };
                    if (kept.len() + data.len()) as u64 <= OUTPUT_LIMIT {
                        kept.extend_from_slice(&data);
                    }
                }
                Some((Reply::Ended(ending), _)) => {
                    let [stdout, stderr] =
                        kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    return Ok(Output {
                        ending,
                        stdout,
                        stderr,
                        elapsed: started.elapsed(),
                    });
                }
                Some((Reply::Ready { .. }, _)) => {}
            }
        }
    }

    /// Writes a file in the outer machine.
    ///
    /// # Errors
    /// When it cannot be written there, or the agent is gone.
    pub fn put(&self, path: &Path, mode: u32, contents: &[u8]) -> Result<(), AgentError> {
        let mut pieces: Vec<&[u8]> = contents.chunks(DATA_LIMIT).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        for (index, piece) in pieces.into_iter().enumerate() {
            let body = Request::Put {
                path: path.to_owned(),
                mode,
                append: index > 0,
            };
            self.request(body, piece)?.collect(path)?;
        }
        Ok(())
    }

    /// Reads a file of the outer machine.
    ///
    /// # Errors
    /// When it cannot be read there, or the agent is gone.
    pub fn get(&self, path: &Path) -> Result<Vec<u8>, AgentError> {
        self.request(
            Request::Get {
                path: path.to_owned(),
            },
            &[],
        )?
        .collect(path)
    }

    /// Asks the outer machine to turn itself off.
    ///
    /// # Errors
    /// When the port is broken.
    pub fn power_off(&self) -> Result<(), AgentError> {
        self.send(0, Request::PowerOff, &[])
    }
}

impl Job<'_> {
    /// The next word of the program, or `None` when `limit` passed without one.
    ///
    /// # Errors
    /// When the outer machine ended.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Event>, AgentError> {
        match self.events.recv_timeout(limit) {
            Ok(event) => {
                self.over = matches!(event.0, Reply::Ended(_));
                Ok(Some(event))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(AgentError::Gone),
        }
    }

    /// Gives the program input; none ends its input.
    ///
    /// # Errors
    /// When the port is broken.
    pub fn input(&self, data: &[u8]) -> Result<(), AgentError> {
        self.client.send(self.number, Request::Input, data)
    }

    fn collect(mut self, path: &Path) -> Result<Vec<u8>, AgentError> {
        let mut contents = Vec::new();
        loop {
            match self.next(GRACE)? {
                None => return Err(AgentError::Silent(GRACE)),
                Some((Reply::Ended(ending), _)) if ending.success() => return Ok(contents),
                Some((Reply::Ended(ending), _)) => {
                    return Err(AgentError::Refused {
                        path: path.display().to_string(),
                        ending,
                    });
                }
                Some((_, data)) => contents.extend_from_slice(&data),
            }
        }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        lock(&self.client.waiting).remove(&self.number);
        if !self.over {
            let _ = self.client.send(self.number, Request::Kill, &[]);
        }
    }
}

fn dispatch(mut port: UnixStream, waiting: &Waiting) {
    while let Ok((Header { job, body }, data)) = protocol::read::<Reply>(&mut port) {
        if let Some(sender) = lock(waiting).get(&job) {
            let _ = sender.send((body, data));
        }
    }
    // Whoever waits learns that nothing comes any more.
    lock(waiting).clear();
    let _ = port.flush();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
