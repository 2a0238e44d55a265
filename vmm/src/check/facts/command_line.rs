//! The kernel's command line.

use super::list::parse_list;
use crate::spec::{CpuSet, HostCpu};

/// The words of a kernel's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<(String, Option<String>)>,
}

impl CommandLine {
    /// Takes it apart as the kernel does (`next_arg`): blanks inside of double
    /// quotes belong to a word, and what is behind `--` is init's.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut quoted = false;
        for c in text.trim().chars().chain([' ']) {
            match c {
                '"' => quoted = !quoted,
                c if c.is_whitespace() && !quoted => {
                    let word = std::mem::take(&mut word);
                    match word.as_str() {
                        "" => {}
                        "--" => break,
                        _ => words.push(word),
                    }
                }
                c => word.push(c),
            }
        }
        let pair = |word: String| match word.split_once('=') {
            Some((name, value)) => (spelled(name), Some(value.to_owned())),
            None => (spelled(&word), None),
        };
        Self {
            words: words.into_iter().map(pair).collect(),
        }
    }

    /// Whether a word is there, with a value or without.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.words.iter().any(|(word, _)| *word == spelled(name))
    }

    /// The value that was set last, as most parameters take it.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// Every value that was set.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = spelled(name);
        self.words
            .iter()
            .filter(move |(word, _)| *word == name)
            .filter_map(|(_, value)| value.as_deref())
    }

    /// Whether a parameter is set to `value`, or to a list of words with it.
    #[must_use]
    pub fn sets(&self, name: &str, value: &str) -> bool {
        self.values(name)
            .any(|values| values.split(',').any(|word| word == value))
    }

    /// The CPU list behind flags, as in `isolcpus=managed_irq,domain,2-5`.
    #[must_use]
    pub fn cpus(&self, name: &str, last: HostCpu) -> Option<CpuSet> {
        let value = self.value(name)?;
        let is_flag = |word: &&str| {
            word.starts_with(|c: char| c.is_ascii_alphabetic())
                && !word.eq_ignore_ascii_case("all")
                && !word.eq_ignore_ascii_case("N")
                && !word.starts_with("N-")
        };
        let flags = value.split(',').take_while(is_flag);
        let length: usize = flags.map(|flag| flag.len() + 1).sum();
        parse_list(value.get(length..).unwrap_or_default(), last)
    }
}

/// Dashes and underscores are the same in a parameter's name (`parameq`).
fn spelled(name: &str) -> String {
    name.replace('-', "_")
}
