//! What a figure is called and what it means.

/// A family of figures: one name, one for each value of its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
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
        let mut i = 0;
        while i < labels.len() {
            assert!(is_name(labels[i]), "a label is [a-zA-Z_][a-zA-Z0-9_]*");
            assert!(!is_le(labels[i]), "the label le is a histogram's own");
            i += 1;
        }
        Self {
            name,
            help,
            kind,
            labels,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it means.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
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

const fn ends_in_total(name: &str) -> bool {
    matches!(name.as_bytes(), [.., b'_', b't', b'o', b't', b'a', b'l'])
}

const fn is_le(name: &str) -> bool {
    matches!(name.as_bytes(), b"le")
}
