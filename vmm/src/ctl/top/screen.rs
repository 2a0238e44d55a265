//! The terminal's other screen, and the way back from it: always.

use std::io::{self, Write};
use std::panic;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::ctl::Failure;

/// The alternate screen, no cursor, no wrapping.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The screen while it is ours.
#[derive(Debug)]
pub(super) struct Screen {
    keyboard: Option<Termios>,
}

impl Screen {
    pub(super) fn enter() -> Result<Self, Failure> {
        let keyboard = if isatty(stdin()) {
            let before = tcgetattr(stdin()).map_err(failed("read the mode of"))?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(stdin(), OptionalActions::Flush, &raw).map_err(failed("set the mode of"))?;
            Some(before)
        } else {
            None
        };
        // From here on, drop leads back. A panic may abort without it.
        let screen = Self { keyboard };
        let (keyboard, report) = (screen.keyboard.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            leave(keyboard.as_ref());
            report(info);
        }));
        write(ENTER)?;
        Ok(screen)
    }

    /// Shows as much of `text` as there is room for.
    pub(super) fn draw(&mut self, text: &str) -> Result<(), Failure> {
        let size = tcgetwinsize(stdout()).map_err(failed("measure"))?;
        // Some terminals do not know their size.
        let (rows, columns) = match (size.ws_row, size.ws_col) {
            (0, _) | (_, 0) => (24, 80),
            (rows, columns) => (rows, columns),
        };
        let lines: Vec<String> = text
            .lines()
            .take(usize::from(rows))
            .map(|line| line.chars().take(usize::from(columns)).collect())
            .map(|line: String| format!("{line}\x1b[K"))
            .collect();
        // No newline after the last line: it would scroll.
        let picture = format!("\x1b[H{}\x1b[J", lines.join("\r\n"));
        write(picture.as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave(self.keyboard.as_ref());
    }
}

/// Whatever fails here, the rest is done.
fn leave(keyboard: Option<&Termios>) {
    let _ = write(LEAVE);
    if let Some(before) = keyboard {
        let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
    }
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

fn failed(attempt: &'static str) -> impl Fn(rustix::io::Errno) -> Failure {
    move |errno| Failure::Terminal {
        attempt,
        source: errno.into(),
    }
}
