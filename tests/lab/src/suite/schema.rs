//! The OpenAPI document held against a live instance by schemathesis: requests that it allows and
//! requests that it does not, thousands of them, and each answer compared with what it promises.
//!
//! Three of its checks are left out, because the contract is the peer's:
//!
//! - `not_a_server_error`: a transition that is refused answers 500;
//! - `unsupported_method`: a known route with another method answers 400, not 405;
//! - `positive_data_acceptance`: what the document allows may still be no machine on this host
//!   (a kernel that is not there, a CPU that is offline), which answers 400.
//!
//! Two routes are left out: `vmm.shutdown` ends the instance, and `vm.receive-migration` answers
//! when a guest has come.

use std::fs::{self, File};
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Count, SuiteError};
use crate::bench::rest;
use crate::command;
use crate::packages;
use crate::payload;
use crate::progress::Step;
use crate::{build, workspace};

/// What is installed, once, into a folder of its own.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
/// It takes a quarter of a minute.
const LIMIT: Duration = Duration::from_secs(240);
const PATIENCE: Duration = Duration::from_secs(30);
const LEFT_OUT_CHECKS: &str = "not_a_server_error,unsupported_method,positive_data_acceptance";
const LEFT_OUT_ROUTES: &str = "(vmm.shutdown|vm.receive-migration)$";

/// An instance in a folder of its own; both are gone when this is dropped.
struct Instance {
    child: Child,
    folder: PathBuf,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Instance {
    fn start() -> Result<Self, SuiteError> {
        let folder = std::env::temp_dir().join(format!("godwit-schema-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(SuiteError::Folder)?;
        let errors = File::create(folder.join("stderr")).map_err(SuiteError::Folder)?;
        // Whatever is written to a path that was made up is written there.
        let child = Command::new(build::godwit()?)
            .arg("--api-socket")
            .arg(folder.join("api.sock"))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(SuiteError::Instance)?;
        let instance = Self { child, folder };
        let start = Instant::now();
        while let Err(error) = instance.ask("GET", "vmm.ping", None) {
            if start.elapsed() > PATIENCE {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(instance)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    fn ask(
        &self,
        method: &str,
        route: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(), SuiteError> {
        let answer = rest::request(&self.socket(), method, route, body, PATIENCE);
        answer
            .map(|_| ())
            .map_err(|error| SuiteError::Instance(io::Error::other(error)))
    }
}

/// Serves the instance's socket on a port, for as long as this process lives.
fn bridge(socket: PathBuf) -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Ok(server) = UnixStream::connect(&socket) {
                let _ = join(client, server);
            }
        }
    });
    Ok(port)
}

fn join(client: TcpStream, server: UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = (client.try_clone()?, client);
    let (mut from_server, mut to_server) = (server.try_clone()?, server);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    Ok(())
}

/// Where schemathesis is; it is installed if it is not there.
fn program(step: &Step) -> Result<PathBuf, SuiteError> {
    let folder = workspace::lab().join("schemathesis");
    let program = folder.join("bin/schemathesis");
    if program.is_file() {
        return Ok(program);
    }
    step.say(format!("installing {SCHEMATHESIS}"));
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv", "--clear"]).arg(&folder);
    command::succeed(environment, INSTALL_LIMIT)?;
    let mut install = Command::new(folder.join("bin/pip"));
    install.args(["install", "--quiet", SCHEMATHESIS]);
    command::succeed(install, INSTALL_LIMIT)?;
    Ok(program)
}

/// Runs it; its report is printed when there is a failure.
pub(super) fn run() -> Result<Count, SuiteError> {
    packages::install_missing(packages::FOR_SCHEMA).map_err(crate::image::ImageError::from)?;
    let step = Step::start("schemathesis");
    let program = program(&step)?;
    let instance = Instance::start()?;
    let kernel = payload::build()?.elf_pvh;
    let config = json!({
        "payload": {"kernel": kernel, "cmdline": "halt"},
        "memory": {"size": 64 << 20},
        "serial": {"mode": "Null"},
    });
    instance.ask("PUT", "vm.create", Some(&config))?;
    if Path::new("/dev/kvm").exists() {
        instance.ask("PUT", "vm.boot", None)?;
    }
    let port = bridge(instance.socket()).map_err(SuiteError::Instance)?;
    step.say("asking");
    let mut schemathesis = Command::new(program);
    schemathesis
        .arg("run")
        .arg(format!("http://127.0.0.1:{port}/openapi.json"))
        .args(["--exclude-path-regex", LEFT_OUT_ROUTES])
        .args(["--exclude-checks", LEFT_OUT_CHECKS])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "20", "--seed", "1"])
        .args([
            "--request-timeout",
            "30",
            "--continue-on-failure",
            "--no-color",
        ])
        .current_dir(&instance.folder);
    let finished = command::run(schemathesis, LIMIT)?;
    let mut count = Count::default();
    // It lives, and is as it was.
    instance.ask("GET", "vmm.ping", None)?;
    if finished.status.success() {
        count.passed = 1;
    } else {
        count.failed = 1;
        step.line(&command::tail(&finished.stdout, 200));
        step.line(&command::tail(&finished.stderr, 20));
    }
    let generated = finished
        .stdout
        .lines()
        .find(|line| line.contains(" generated, "));
    step.done(generated.unwrap_or("no summary").trim());
    Ok(count)
}
