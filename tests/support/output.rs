//! What the payload guest wrote, as `resources/payload/README.md` describes it.

use std::collections::BTreeMap;

/// All that came from the serial port so far.
#[derive(Clone, Debug)]
pub struct Output(String);

/// One complete line, `@topic key=value …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    topic: String,
    fields: BTreeMap<String, String>,
}

impl Output {
    pub fn new(bytes: &[u8]) -> Self {
        Self(String::from_utf8_lossy(bytes).into_owned())
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// All complete lines of `topic`.
    pub fn all(&self, topic: &str) -> Vec<Line> {
        self.0
            .split_inclusive('\n')
            .filter_map(|line| Line::parse(line.strip_suffix('\n')?))
            .filter(|line| line.topic == topic)
            .collect()
    }

    /// The only line of `topic`.
    #[track_caller]
    pub fn one(&self, topic: &str) -> Line {
        let mut lines = self.all(topic);
        assert_eq!(lines.len(), 1, "lines @{topic} in:\n{}", self.0);
        lines.remove(0)
    }

    /// What stands outside lines.
    pub fn beats(&self) -> String {
        self.0
            .lines()
            .filter(|line| !line.starts_with('@'))
            .collect()
    }

    /// Nothing went wrong that the guest could see.
    #[track_caller]
    pub fn assert_sound(&self) {
        for topic in ["error", "ignored", "mismatch"] {
            assert_eq!(self.all(topic), [], "in:\n{}", self.0);
        }
    }
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix('@')?.split(' ');
        let topic = words.next()?.to_owned();
        let fields = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Some(Self {
            text: text.to_owned(),
            topic,
            fields,
        })
    }

    #[track_caller]
    pub fn field(&self, key: &str) -> &str {
        match self.fields.get(key) {
            Some(value) => value,
            None => panic!("no {key}= in {:?}", self.text),
        }
    }

    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        let value = self.field(key);
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        number.unwrap_or_else(|error| panic!("{key}={value}: {error} in {:?}", self.text))
    }
}
