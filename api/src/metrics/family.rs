//! What a figure is called and what it means.

use std::borrow::Cow;

/// A family of figures: one name, one for each value of its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    kind: Kind,
    labels: &'static [&'static str],
}

/// What a figure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, from 0 at the start.
    Counter,
    /// It rises and falls.
    Gauge,
    /// It tells how values are spread.
    Histogram,
}

impl Family {
    /// A counter; its name ends in `_total`.
    ///
    /// # Panics
    ///
    /// With a name or a label that the format does not allow; in a constant,
    /// that is when it is compiled.
    #[must_use]
    pub const fn counter(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        assert!(ends_in_total(name), "a counter's name ends in _total");
        Self::new(name, help, Kind::Counter, labels)
    }

    /// A gauge.
    ///
    /// # Panics
    ///
    /// As [`counter`](Self::counter).
    #[must_use]
    pub const fn gauge(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        assert!(!ends_in_total(name), "only a counter's name ends in _total");
        Self::new(name, help, Kind::Gauge, labels)
    }

    /// A histogram.
    ///
    /// # Panics
    ///
    /// As [`counter`](Self::counter).
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        assert!(!ends_in_total(name), "only a counter's name ends in _total");
        Self::new(name, help, Kind::Histogram, labels)
    }

    const fn new(
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
    ) -> Self {
        assert!(is_name(name), "a name is [a-zA-Z_][a-zA-Z0-9_]*");
        assert!(are_labels(labels), "a label is a name, and not le");
        Self {
            name: Cow::Borrowed(name),
            help: Cow::Borrowed(help),
            kind,
            labels,
        }
    }

    /// A family whose name is learnt when the program runs; `None` with a name
    /// or a label that the format, or the kind, does not allow.
    #[must_use]
    pub fn learnt(
        kind: Kind,
        name: String,
        help: String,
        labels: &'static [&'static str],
    ) -> Option<Self> {
        let fits =
            is_name(&name) && ends_in_total(&name) == (kind == Kind::Counter) && are_labels(labels);
        fits.then_some(Self {
            name: Cow::Owned(name),
            help: Cow::Owned(help),
            kind,
            labels,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn name_owned(&self) -> Cow<'static, str> {
        self.name.clone()
    }

    /// What it means.
    #[must_use]
    pub fn help(&self) -> &str {
        &self.help
    }

    /// What it does.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its labels' names.
    #[must_use]
    pub const fn labels(&self) -> &'static [&'static str] {
        self.labels
    }
}

const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let fits = bytes[i] == b'_'
            || bytes[i].is_ascii_alphabetic()
            || (i > 0 && bytes[i].is_ascii_digit());
        if !fits {
            return false;
        }
        i += 1;
    }
    i > 0
}

const fn are_labels(labels: &[&str]) -> bool {
    let mut i = 0;
    while i < labels.len() {
        if !is_name(labels[i]) || is_le(labels[i]) {
            return false;
        }
        i += 1;
    }
    true
}

const fn ends_in_total(name: &str) -> bool {
    matches!(name.as_bytes(), [.., b'_', b't', b'o', b't', b'a', b'l'])
}

const fn is_le(name: &str) -> bool {
    matches!(name.as_bytes(), b"le")
}
