//! Stop strings, also where they lie across tokens.

use super::partial_suffix;

/// Passes text on until a stop string; holds back what may become one.
#[derive(Debug)]
pub(super) struct Stopper {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl Stopper {
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), found: None }
    }

    /// The stop string that ended the text.
    pub fn found(&self) -> Option<&str> {
        self.found.and_then(|i| self.stops.get(i)).map(String::as_str)
    }

    /// Takes text and appends what may be shown. At a stop string: the text before it, and no more ever.
    pub fn push(&mut self, text: &str, out: &mut String) {
        if self.found.is_some() {
            return;
        }
        if self.stops.is_empty() {
            return out.push_str(text);
        }
        self.held.push_str(text);
        let found =
            self.stops.iter().enumerate().filter_map(|(i, s)| Some((self.held.find(s.as_str())?, i))).min();
        if let Some((at, i)) = found {
            self.found = Some(i);
            out.push_str(&self.held[..at]);
            self.held.clear();
            return;
        }
        let hold = self.stops.iter().map(|s| partial_suffix(&self.held, s)).max().unwrap_or(0);
        // A partial match begins where its stop string does, at a character's first byte.
        let pass = self.held.len() - hold;
        out.push_str(&self.held[..pass]);
        self.held.drain(..pass);
    }

    /// The text ends here: what was held back did not become a stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}
